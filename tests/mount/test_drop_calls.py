"""System calls on uploads, as programs use them: what they change, what is refused, and that the import is right."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.drop import MIB, Place, place_in
from tests.support.pools import eventually
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place_in(tmp_path_factory.mktemp("calls")) as place:
        yield place


def write_all(file: int, data: bytes, offset: int = 0, step: int = 1 << 18) -> None:
    for start in range(0, len(data), step):
        os.pwrite(file, data[start : start + step], offset + start)


def test_attributes_are_set_before_during_and_after_the_upload(shared: Place) -> None:
    source, target = shared.package("attributes"), shared.drop / "attributes.ova"
    data = source.read_bytes()
    with target.open("wb", buffering=0) as file:
        os.fchmod(file.fileno(), 0o600)
        os.fchown(file.fileno(), 1, 2)
        write_all(file.fileno(), data[:MIB])
        os.setxattr(file.fileno(), "user.origin", b"x")
        write_all(file.fileno(), data[MIB:], MIB)
        os.utime(file.fileno(), ns=(5, 1_600_000_000_123_456_789))
    shared.assert_imported("attributes")
    status = target.stat()
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o600, 1, 2)
    assert status.st_mtime_ns == 1_600_000_000_123_456_789
    target.chmod(0o640)
    os.chown(target, 3, 4)
    os.utime(target, (6, 7))
    run("setfacl", "-m", "u:1234:r", target, status=None)  # there are no ACLs; cp and rsync must not mind
    os.setxattr(target, "user.origin", b"y")
    os.setxattr(target, "user.DOSATTRIB", b"z")
    assert os.listxattr(target) == []
    status = target.stat()
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid, status.st_mtime) == (0o640, 3, 4, 7)


@pytest.mark.parametrize("command", ["cp -a", "cp -p", "mv", "install -m 0751", "rsync -aHAX"])
@pytest.mark.parametrize("mode", [0o640, 0o751])
def test_modes_are_kept(shared: Place, command: str, mode: int) -> None:
    """Coreutils sets them through the access control list, and trusts the answer."""
    name = f"mode-{command.split(maxsplit=1)[0]}{command[-1]}-{mode:o}"
    source = shared.package(name)
    source.chmod(mode)
    before = source.stat()
    run(*command.split(), source, shared.drop)
    after = (shared.drop / f"{name}.ova").stat()
    assert after.st_mode & 0o777 == (0o751 if "install" in command else mode)
    assert after.st_mtime_ns == before.st_mtime_ns or "install" in command
    shared.assert_imported(name)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be another user")
def test_the_list_of_another_users_upload_cannot_be_set() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        folder.chmod(0o755)
        with place_in(folder, "allow_other", "mode=0444", "drop_mode=0777") as place:
            run("cp", place.package("web"), place.drop)
            (place.drop / "web.ova").chmod(0o666)
            other = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
            result = run(*other, "setfacl", "-m", "u::rwx", place.drop / "web.ova", status=1)
            assert "Operation not permitted" in result.stderr
            assert (place.drop / "web.ova").stat().st_mode & 0o777 == 0o666


def test_the_drop_directory_takes_attributes(shared: Place) -> None:
    """rsync -a folder/ drop/ sets them."""
    shared.drop.chmod(0o770)
    os.utime(shared.drop, (7, 7))
    assert (shared.drop.stat().st_mode & 0o777, shared.drop.stat().st_mtime) == (0o770, 7)
    for name in ("user.x", "system.posix_acl_default"):
        with pytest.raises(OSError) as caught:
            os.removexattr(shared.drop, name)
        assert caught.value.errno in {errno.ENODATA, errno.EOPNOTSUPP}


def test_truncate_and_write_again(shared: Place) -> None:
    source, target = shared.package("again"), shared.drop / "again.ova"
    data = source.read_bytes()
    with target.open("wb", buffering=0) as file:
        write_all(file.fileno(), b"?" * 100)
        os.ftruncate(file.fileno(), 0)
        write_all(file.fileno(), data[: 2 * MIB])
        os.ftruncate(file.fileno(), 0)
        write_all(file.fileno(), data)
    shared.assert_imported("again")
    assert os.listdir(shared.pool / "volumes")


def test_what_was_taken_in_cannot_be_cut_off(shared: Place) -> None:
    source, target = shared.package("cut"), shared.drop / "cut.ova"
    data = source.read_bytes()
    with target.open("wb", buffering=0) as file:
        write_all(file.fileno(), data[: 2 * MIB])
        with pytest.raises(OSError) as caught:
            os.ftruncate(file.fileno(), MIB)
        assert caught.value.errno == errno.EOPNOTSUPP
        write_all(file.fileno(), data[2 * MIB :], 2 * MIB)
    shared.assert_imported("cut")


def test_the_size_first_then_pieces_in_any_order_then_a_rename(shared: Place) -> None:
    """As syncthing does; and a size again at the end, as rsync --inplace does."""
    source, temporary = shared.package("pieces"), shared.drop / ".syncthing.pieces.ova.tmp"
    data = source.read_bytes()
    starts = list(range(0, len(data), 1 << 17))
    random.Random(4).shuffle(starts)
    with temporary.open("wb", buffering=0) as file:
        os.ftruncate(file.fileno(), len(data))
        assert temporary.stat().st_size == len(data)
        for start in starts:
            piece = data[start : start + (1 << 17)]
            if piece.strip(b"\0"):
                os.pwrite(file.fileno(), piece, start)
        os.fsync(file.fileno())
        os.ftruncate(file.fileno(), len(data))
    temporary.rename(shared.drop / "pieces.ova")
    shared.assert_imported("pieces")


def test_an_end_that_nobody_can_reach(shared: Place) -> None:
    """Behind the end of the archive the file may be a hole of any size."""
    source, target = shared.package("long"), shared.drop / "long.ova"
    with target.open("wb", buffering=0) as file:
        write_all(file.fileno(), source.read_bytes())
        os.ftruncate(file.fileno(), 1 << 60)
    shared.assert_imported("long")
    assert target.stat().st_size == 1 << 60
    with target.open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 100, (1 << 60) - 50) == bytes(50)


def test_an_end_of_zeros_that_is_not_written(shared: Place) -> None:
    source, target = shared.package("hole"), shared.drop / "hole.ova"
    data = source.read_bytes()
    with target.open("wb", buffering=0) as file:
        write_all(file.fileno(), data[:-1024])
        os.ftruncate(file.fileno(), len(data))
    shared.assert_imported("hole")
    assert not (shared.drop / "hole.ova.report.txt").exists(), "the end of the archive came"
    assert target.read_bytes() == data


@pytest.mark.parametrize("mode", [0, 1, 3])
def test_fallocate_is_not_supported(shared: Place, mode: int) -> None:
    """EOPNOTSUPP, which programs take for "go on without": to allocate, to keep the size, to punch a hole."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    source, target = shared.package(f"fallocate{mode}"), shared.drop / f"fallocate{mode}.ova"
    with target.open("wb", buffering=0) as file:
        assert libc.fallocate(file.fileno(), mode, 0, MIB) == -1
        assert ctypes.get_errno() == errno.EOPNOTSUPP
        write_all(file.fileno(), source.read_bytes())
    shared.assert_imported(f"fallocate{mode}")


def test_locks(shared: Place) -> None:
    """The kernel's own: two programs of this machine see each other's."""
    source, target = shared.package("locks"), shared.drop / "locks.ova"
    with target.open("wb", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert run("flock", "-n", target, "true", status=None).returncode == 1
        write_all(file.fileno(), source.read_bytes())
    shared.assert_imported("locks")
    run("flock", "-n", target, "true")


def test_appending(shared: Place) -> None:
    source, target = shared.package("append"), shared.drop / "append.ova"
    data = source.read_bytes()
    file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(file, data[:1000])
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, data[1000:])
    finally:
        os.close(file)
    shared.assert_imported("append")


@pytest.mark.parametrize("flag", ["O_DIRECT", "O_SYNC", "O_DSYNC"])
def test_flags(shared: Place, flag: str) -> None:
    source, target = shared.package(flag), shared.drop / f"{flag}.ova"
    data = source.read_bytes()
    buffer = mmap.mmap(-1, 1 << 20)  # O_DIRECT wants it aligned
    file = os.open(target, os.O_WRONLY | os.O_CREAT | getattr(os, flag))
    try:
        for start in range(0, len(data), 1 << 20):
            piece = data[start : start + (1 << 20)]
            buffer[: len(piece)] = piece
            with memoryview(buffer) as view:
                assert os.write(file, view[: len(piece)]) == len(piece)
    finally:
        os.close(file)
        buffer.close()
    shared.assert_imported(flag)


@pytest.mark.parametrize("step", [512, 1 << 20])
def test_a_program_that_syncs_every_write_cannot_import_what_its_manifest_denies(tmp_path: Path, step: int) -> None:
    """The manifest may come last: before it the package looks complete, but nobody has said that it ends there."""
    with place_in(tmp_path) as place:
        source, target = place.package("web", corrupt=True), place.drop / "web.ova"
        place.mount.expect_log("web.ova: not imported")
        run("dd", f"if={source}", f"of={target}", f"bs={step}", "oflag=dsync", status=1)
        assert place.machines() == []
        assert "NOT IMPORTED" in (place.drop / "web.ova.report.txt").read_text()


def test_a_shared_map(shared: Place) -> None:
    """Pages are written when the kernel likes, and again when they are touched again: refused, or right."""
    source, target = shared.package("map"), shared.drop / "map.ova"
    data = source.read_bytes()
    with target.open("w+b", buffering=0) as file:
        os.ftruncate(file.fileno(), len(data))
        with mmap.mmap(file.fileno(), len(data)) as view:
            view[:] = data
            view.flush()
        os.fsync(file.fileno())
    eventually(lambda: "map" in shared.machines(), "the import is there")
    shared.assert_imported("map")


def test_the_machine_is_there_when_close_returns(shared: Place) -> None:
    source, target = shared.package("prompt"), shared.drop / "prompt.ova"
    data = source.read_bytes()
    file = os.open(target, os.O_WRONLY | os.O_CREAT)
    os.write(file, data)
    shown = shared.mount.path / "vms" / "prompt.ova"
    assert not shown.exists(), "a name that was looked up before"
    os.close(file)
    assert shown.exists()
    assert "prompt.ova" in os.listdir(shown.parent)
