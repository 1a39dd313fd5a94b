"""QEMU's locks, against real QEMU processes that hold images."""

from __future__ import annotations

import errno
import fcntl
import subprocess
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import InvalidImage, ReadFailed, VolumeBusy
from ovafs.model import DiskFormat
from ovafs.storage.chain import open_chain
from tests.support.chains import opened
from tests.support.images import create, io, make_chain, qemu_holds, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("form", ["qcow2", "raw"])
def test_image_that_qemu_writes_to_is_busy(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a.img"
    run("qemu-img", "create", "-q", "-f", form, path, "1M")
    with qemu_holds(path, "-f", form):
        with pytest.raises(VolumeBusy) as caught:
            open_chain(str(path), DiskFormat(form))
        assert caught.value.path == str(path)
        with opened(path, form, lock=False):
            pass
    with opened(path, form):
        pass


def test_machine_that_runs_on_an_overlay_leaves_the_base_readable(tmp_path: Path) -> None:
    top = make_chain(tmp_path, 2)
    with qemu_holds(top, "-f", "qcow2"):
        with opened(tmp_path / "disk-1.qcow2"):
            pass
        with pytest.raises(VolumeBusy):
            open_chain(str(top), DiskFormat.QCOW2)


def test_busy_backing_file_is_named_with_its_overlay(tmp_path: Path) -> None:
    top = make_chain(tmp_path, 2)
    base = tmp_path / "disk-1.qcow2"
    with qemu_holds(base, "-f", "qcow2"), pytest.raises(VolumeBusy) as caught:
        open_chain(str(top), DiskFormat.QCOW2)
    assert caught.value.path == str(base)
    assert f"(backing file of {top})" in str(caught.value)


def test_readers_share(tmp_path: Path) -> None:
    path = create(tmp_path / "a.qcow2", "1M")
    with qemu_holds(path, "-r", "-f", "qcow2"), opened(path), opened(path):
        pass


@pytest.mark.parametrize("form", ["qcow2", "raw"])
def test_qemu_cannot_write_while_the_disk_is_open(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a.img"
    run("qemu-img", "create", "-q", "-f", form, path, "1M")
    command = ["qemu-io", "-f", form, "-c", "write 0 512", str(path)]
    with opened(path, form):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "lock" in done.stderr
    io(path, "write 0 512", form=form)


def test_a_refused_open_holds_nothing(tmp_path: Path) -> None:
    top = make_chain(tmp_path, 3)
    (tmp_path / "disk-1.qcow2").write_bytes(b"broken")
    with pytest.raises(InvalidImage, match="disk-1"):
        open_chain(str(top), DiskFormat.QCOW2)
    for number in (2, 3):
        with (tmp_path / f"disk-{number}.qcow2").open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_other_programs_lock(tmp_path: Path) -> None:
    path = create(tmp_path / "a.qcow2", "1M")
    code = (
        "import fcntl,sys; f=open(sys.argv[1],'r+b'); fcntl.lockf(f, fcntl.LOCK_EX); print('held',flush=True); input()"
    )
    process = subprocess.Popen(
        ["python3", "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(VolumeBusy, match="has locked it"):
            open_chain(str(path), DiskFormat.QCOW2)
    finally:
        process.communicate("\n", timeout=30)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_file_system_without_locks_is_reported_once(
    tmp_path: Path,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    expect_log: Callable[[str], None],
) -> None:
    path = create(tmp_path / "a.qcow2", "1M")

    def refuse(descriptor: int, command: int, argument: bytes) -> bytes:
        raise OSError(number, "no locks here")

    monkeypatch.setattr("ovafs.storage.locks.fcntl.fcntl", refuse)
    expect_log(f"WARNING ovafs.storage.locks: {path}: the file system has no locks")
    for _ in range(2):
        with opened(path):
            pass
    assert len(caplog.records) == 1


def test_locking_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = create(tmp_path / "a.qcow2", "1M")

    def fail(descriptor: int, command: int, argument: bytes) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("ovafs.storage.locks.fcntl.fcntl", fail)
    with pytest.raises(ReadFailed, match="cannot be locked"):
        open_chain(str(path), DiskFormat.QCOW2)
