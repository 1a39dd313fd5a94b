"""``ovafs mount`` and ``ovafs umount``: ready when they return, errors that reach the terminal, clean ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import PATIENCE, assert_dead, detach, is_mounted, mounted
from tests.support.pools import eventually, raw_image
from tests.support.processes import ovafs, run, started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.pools import PoolBuilder

MOUNT_FAILED = 3


@pytest.fixture
def mount_point(tmp_path: Path) -> Iterator[Path]:
    """A directory to mount on; whatever is mounted there at the end of the test is taken away."""
    folder = tmp_path / "mount point, ü"
    folder.mkdir()
    yield folder
    detach(folder)
    eventually(lambda: not daemons(folder), "the daemon ends after its mount is taken away")


def daemons(mount_point: Path) -> list[int]:
    """Processes that have the mount point on their command line: the daemon, whoever is its parent now."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"mount" in words and os.fsencode(mount_point) in words:
                    found.append(int(entry.name))
    return found


def test_mount_returns_when_the_mount_answers(pool: PoolBuilder, mount_point: Path) -> None:
    pool.add("empty")
    result = ovafs("mount", pool.path, mount_point)
    assert os.listdir(mount_point / "vms") == ["empty.ova"]
    assert (result.stdout, result.stderr) == ("", "")
    (daemon,) = daemons(mount_point)
    assert os.getsid(daemon) == daemon, "the daemon still belongs to the caller's session"
    assert Path(f"/proc/{daemon}/cwd").readlink() == Path("/"), "the daemon keeps a directory busy"

    ovafs("umount", mount_point)
    assert not is_mounted(mount_point)
    eventually(lambda: not daemons(mount_point), "the daemon ends after the unmount")


def test_relative_paths_are_those_of_the_caller(pool: PoolBuilder, mount_point: Path) -> None:
    pool.add("empty")
    ovafs("mount", "pool", mount_point.name, cwd=mount_point.parent)
    assert os.listdir(mount_point / "vms") == ["empty.ova"]
    ovafs("umount", mount_point.name, cwd=mount_point.parent)
    assert not is_mounted(mount_point)


def test_the_mount_table_names_the_source(pool: PoolBuilder, mount_point: Path) -> None:
    ovafs("mount", pool.path, mount_point, "-o", "noatime")
    table = run("findmnt", "--noheadings", "--output", "FSTYPE,SOURCE,OPTIONS", mount_point).stdout
    kind, source, options = table.split()
    assert (kind, source) == ("fuse.ovafs", str(pool.path))
    assert {"nosuid", "nodev", "noatime", "default_permissions"} <= set(options.split(","))


@pytest.mark.parametrize("foreground", [(), ("-f",)], ids=["daemon", "foreground"])
def test_a_source_that_is_none_is_refused(tmp_path: Path, mount_point: Path, foreground: tuple[str, ...]) -> None:
    result = ovafs("mount", tmp_path / "nowhere", mount_point, *foreground, status=MOUNT_FAILED)
    assert f"ovafs: error: {tmp_path}/nowhere" in result.stderr
    assert "ovafs pool create" in result.stderr
    assert_nothing_runs(mount_point)


def test_a_folder_that_is_no_pool_is_refused(tmp_path: Path, mount_point: Path) -> None:
    result = ovafs("mount", tmp_path, mount_point, status=MOUNT_FAILED)
    assert f"is {tmp_path} a pool?" in result.stderr
    assert_nothing_runs(mount_point)


def test_a_mount_point_that_does_not_exist_is_refused(pool: PoolBuilder, mount_point: Path) -> None:
    result = ovafs("mount", pool.path, mount_point / "missing", status=MOUNT_FAILED)
    assert "missing: No such file or directory; create the directory first" in result.stderr
    assert_nothing_runs(mount_point / "missing")


def test_a_mount_point_that_is_a_file_is_refused(pool: PoolBuilder, mount_point: Path) -> None:
    file = mount_point / "file"
    file.touch()
    result = ovafs("mount", pool.path, file, status=MOUNT_FAILED)
    assert f"{file} is not a directory" in result.stderr
    assert_nothing_runs(file)


def test_a_second_mount_on_the_same_point_is_refused(pool: PoolBuilder, mount_point: Path) -> None:
    ovafs("mount", pool.path, mount_point)
    (daemon,) = daemons(mount_point)
    result = ovafs("mount", pool.path, mount_point, status=MOUNT_FAILED)
    assert "is a mount point already; unmount it with 'ovafs umount" in result.stderr
    assert daemons(mount_point) == [daemon]
    assert os.listdir(mount_point / "vms") == []


@pytest.mark.parametrize("covered", [".", "pool", "pool/volumes", "pool/cache"])
def test_a_mount_that_would_hide_its_own_pool_is_refused(pool: PoolBuilder, covered: str) -> None:
    mount_point = pool.path.parent / covered
    mount_point.mkdir(exist_ok=True)
    result = ovafs("mount", "-f", pool.path, mount_point, status=MOUNT_FAILED)
    assert f"a mount on {mount_point.resolve()} would hide {pool.path}" in result.stderr
    assert "which it needs itself; mount on another directory" in result.stderr
    assert_nothing_runs(mount_point)


def test_a_link_does_not_hide_that_the_pool_would_be_hidden(pool: PoolBuilder, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(pool.path.parent)
    result = ovafs("mount", "-f", pool.path, tmp_path / "link", status=MOUNT_FAILED)
    assert f"a mount on {tmp_path}/link would hide {pool.path}" in result.stderr


def test_a_mount_that_would_hide_its_log_is_refused(pool: PoolBuilder, mount_point: Path) -> None:
    log = mount_point / "ovafs.log"
    escaped = str(log).replace(",", "\\,")
    result = ovafs("mount", pool.path, mount_point, "-o", f"log={escaped}", status=MOUNT_FAILED)
    assert f"would hide {log}" in result.stderr
    assert_nothing_runs(mount_point)


def test_a_pool_can_hold_its_mount_point(pool: PoolBuilder) -> None:
    pool.add("empty")
    inside = pool.path / "mnt"
    inside.mkdir()
    try:
        ovafs("mount", pool.path, inside)
        assert os.listdir(inside / "vms") == ["empty.ova"]
        pool.add("second")
        eventually(lambda: len(os.listdir(inside / "vms")) == 2, "the new machine is listed")
    finally:
        detach(inside)


@pytest.mark.parametrize("command", [("mount", "pool", ""), ("mount", "", "."), ("umount", "")])
def test_an_empty_path_is_not_the_current_directory(pool: PoolBuilder, command: tuple[str, ...]) -> None:
    result = ovafs(*command, cwd=pool.path.parent, status=2)
    assert "the path is empty" in result.stderr
    assert_nothing_runs(pool.path.parent)


def test_unknown_options_are_refused_by_name(pool: PoolBuilder, mount_point: Path) -> None:
    result = ovafs("mount", pool.path, mount_point, "-o", "ro,colour=red", status=MOUNT_FAILED)
    assert "unknown mount option 'colour=red'" in result.stderr
    assert_nothing_runs(mount_point)


@pytest.mark.parametrize(
    "option",
    [
        "scratch=/tmp",
        "scratch_reserve=2GiB",
        "backup_age=2h",
        "freeze=require",
        "adapt=v2v",
        "adapt_limit=1h",
        "tag=x",
        "snapshots",
    ],
)
def test_options_that_would_do_nothing_are_refused(pool: PoolBuilder, mount_point: Path, option: str) -> None:
    result = ovafs("mount", pool.path, mount_point, "-o", option, status=MOUNT_FAILED)
    name = option.partition("=")[0]
    assert f"'{name}' is for" in result.stderr
    assert_nothing_runs(mount_point)


def test_wrong_usage_has_an_exit_code_of_its_own(pool: PoolBuilder, mount_point: Path) -> None:
    assert "Usage" in ovafs("mount", pool.path, status=2).stderr
    assert "--colour" in ovafs("mount", pool.path, mount_point, "--colour", status=2).stderr


def test_a_log_that_cannot_be_written_is_said_before_the_mount(
    pool: PoolBuilder, mount_point: Path, tmp_path: Path
) -> None:
    log = tmp_path / "missing" / "ovafs.log"
    result = ovafs("mount", pool.path, mount_point, "-o", f"log={log}", status=MOUNT_FAILED)
    assert f"cannot log to {log}: No such file or directory" in result.stderr
    assert_nothing_runs(mount_point)


def assert_nothing_runs(mount_point: Path) -> None:
    assert not is_mounted(mount_point)
    assert daemons(mount_point) == []


def test_unmounting_what_is_not_mounted_is_an_error(mount_point: Path) -> None:
    result = ovafs("umount", mount_point, status=None)
    assert result.returncode != 0
    assert f"{mount_point}: not mounted" in result.stderr


def test_a_mount_in_use_is_not_unmounted(pool: PoolBuilder, mount_point: Path) -> None:
    pool.add("empty")
    ovafs("mount", pool.path, mount_point)
    with (mount_point / "vms" / "empty.ova").open("rb") as file:
        result = ovafs("umount", mount_point, status=None)
        assert result.returncode != 0
        assert "busy" in result.stderr
        assert "fuser" in result.stderr
        assert file.read(1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_unmount_cleanly(pool: PoolBuilder, tmp_path: Path, number: signal.Signals) -> None:
    with mounted(pool.path, tmp_path) as mount:
        mount.process.send_signal(number)
        assert mount.process.wait(PATIENCE) == 0
        assert not is_mounted(mount.path)


def test_a_signal_unmounts_also_while_a_file_is_open(pool: PoolBuilder, tmp_path: Path) -> None:
    pool.add("disk", raw_image(pool.images / "disk.raw"))
    with mounted(pool.path, tmp_path) as mount:
        file = os.open(mount.path / "vms" / "disk.ova", os.O_RDONLY)
        assert len(os.read(file, 4096)) == 4096
        mount.process.send_signal(signal.SIGTERM)
        assert mount.process.wait(PATIENCE) == 0
        assert not is_mounted(mount.path)
        with pytest.raises(OSError):
            os.pread(file, 4096, 1 << 20)
        with pytest.raises(OSError):  # closing tells a file system that is gone
            os.close(file)


def test_umount_by_other_tools_ends_the_process(pool: PoolBuilder, tmp_path: Path) -> None:
    for command in (["umount"], ["fusermount3", "-u"]):
        with mounted(pool.path, tmp_path) as mount:
            run(*command, mount.path)
            assert mount.process.wait(PATIENCE) == 0


def test_what_a_daemon_has_to_say_stands_in_the_log(pool: PoolBuilder, mount_point: Path, tmp_path: Path) -> None:
    image = raw_image(pool.images / "lost.raw")
    pool.add("lost", image)
    image.path.unlink()
    log = tmp_path / "ovafs.log"
    ovafs("mount", pool.path, mount_point, "-o", f"log={log}")
    with pytest.raises(OSError):
        os.stat(mount_point / "vms" / "lost.ova")
    ovafs("umount", mount_point)
    eventually(lambda: not daemons(mount_point), "the daemon ends after the unmount")
    text = log.read_text()
    assert f"mounted on {mount_point}" in text
    assert f"WARNING lost: {image.path}: cannot be opened: No such file or directory" in text


@pytest.mark.skipif(Path("/dev/log").exists(), reason="syslog takes the log here")
def test_without_syslog_the_log_is_in_the_pools_cache(pool: PoolBuilder, mount_point: Path) -> None:
    ovafs("mount", pool.path, mount_point)
    assert f"mounted on {mount_point}" in (pool.path / "cache" / "mount.log").read_text()


def test_systemd_is_told_when_the_mount_answers(pool: PoolBuilder, mount_point: Path, tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(address))
        sock.settimeout(PATIENCE)
        with started(
            *(sys.executable, "-m", "ovafs", "mount", pool.path, mount_point, "-f"),
            log=tmp_path / "log",
            env={"NOTIFY_SOCKET": str(address)},
        ):
            said = sock.recv(4096).decode().splitlines()
            assert "READY=1" in said
            assert sorted(os.listdir(mount_point)) == ["drop", "templates", "vms"]


def test_after_a_crash_the_mount_point_is_dead_until_it_is_unmounted(pool: PoolBuilder, tmp_path: Path) -> None:
    pool.add("disk", raw_image(pool.images / "disk.raw"))
    with mounted(pool.path, tmp_path) as mount:
        (tmp_path / "copy.ova").write_bytes((mount.path / "vms" / "disk.ova").read_bytes())
        mount.kill()
        result = ovafs("mount", pool.path, mount.path, status=MOUNT_FAILED)
        assert (
            f"an earlier mount died here and still covers the directory; take it away with 'ovafs umount {mount.path}'"
            in (result.stderr)
        )
        assert_dead(mount.path)
        ovafs("umount", mount.path)
        assert os.listdir(mount.path) == []
    with mounted(pool.path, tmp_path) as mount:
        assert (mount.path / "vms" / "disk.ova").read_bytes() == (tmp_path / "copy.ova").read_bytes()


def test_a_mirror_of_a_dead_mount_deletes_nothing(pool: PoolBuilder, tmp_path: Path) -> None:
    pool.add("disk", raw_image(pool.images / "disk.raw"))
    with mounted(pool.path, tmp_path) as mount:
        mirror = tmp_path / "mirror"
        run("rsync", "-a", "--delete", f"{mount.path}/", mirror)
        mount.kill()
        assert run("rsync", "-a", "--delete", f"{mount.path}/", mirror, status=None).returncode != 0
        assert (mirror / "vms" / "disk.ova").stat().st_size > 0


def test_the_daemon_starts_while_the_pool_is_locked_by_a_slow_writer(pool: PoolBuilder, mount_point: Path) -> None:
    pool.add("one")
    with contextlib.closing(sqlite3.connect(pool.path / "catalog.sqlite", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        ovafs("mount", pool.path, mount_point)
        assert os.listdir(mount_point / "vms") == ["one.ova"]
        writer.execute("ROLLBACK")
