"""One file: identity, changes while it is open, its end, closing while a thread reads."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import ImageUnavailable, ReadFailed, VolumeChanged
from ovafs.storage import source_file
from ovafs.storage.source_file import SourceFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = bytes(range(256)) * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (path := tmp_path / "disk.img").write_bytes(CONTENT)
    os.utime(path, ns=(10**18, 10**18))
    return path


@pytest.fixture
def file(path: Path) -> Iterator[SourceFile]:
    file = SourceFile(str(path))
    yield file
    file.close()


def exact(file: SourceFile, offset: int, length: int) -> bytes:
    buffer = bytearray(b"\xee" * length)
    file.read_exact(memoryview(buffer), offset)
    return bytes(buffer)


def test_identity_is_the_files(path: Path, file: SourceFile) -> None:
    status = path.stat()
    assert tuple(file.identity) == (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    assert file.size == len(CONTENT)
    file.check_unchanged()


def test_reading_changes_nothing(file: SourceFile) -> None:
    assert exact(file, 5, 300) == CONTENT[5:305]
    assert file.read(len(CONTENT) - 10, 100) == CONTENT[-10:]
    file.check_unchanged()


def test_behind_the_end_lie_zeros(file: SourceFile) -> None:
    assert exact(file, len(CONTENT) - 10, 30) == CONTENT[-10:] + bytes(20)
    assert exact(file, len(CONTENT) + 10, 30) == bytes(30)


def overwrite(path: Path) -> None:
    with path.open("r+b") as other:
        other.write(b"new")


def overwrite_and_set_mtime_back(path: Path) -> None:
    times = path.stat()
    overwrite(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def append(path: Path) -> None:
    with path.open("ab") as other:
        other.write(b"new")


def truncate(path: Path) -> None:
    os.truncate(path, 100)


@pytest.mark.parametrize("change", [overwrite, overwrite_and_set_mtime_back, append, truncate])
def test_changes_are_noticed(path: Path, file: SourceFile, change: object) -> None:
    assert callable(change)
    change(path)
    with pytest.raises(VolumeChanged) as caught:
        file.check_unchanged()
    assert caught.value.path == str(path)


def test_unlinked_file_goes_on(path: Path, file: SourceFile) -> None:
    path.unlink()
    assert exact(file, 0, len(CONTENT)) == CONTENT
    file.check_unchanged()


def test_replaced_file_goes_on_with_the_old_content(path: Path, file: SourceFile) -> None:
    (new := path.with_suffix(".new")).write_bytes(b"new")
    new.rename(path)
    assert exact(file, 0, len(CONTENT)) == CONTENT
    file.check_unchanged()


def test_unlinked_and_overwritten_file_does_not(path: Path, file: SourceFile) -> None:
    with path.open("r+b") as other:
        path.unlink()
        other.write(b"new")
    with pytest.raises(VolumeChanged):
        file.check_unchanged()


def test_truncation_is_no_zeros(path: Path, file: SourceFile) -> None:
    os.truncate(path, 100)
    with pytest.raises(VolumeChanged):
        exact(file, 50, 100)
    with pytest.raises(VolumeChanged):
        file.read(0, 1000)


def test_no_data_in_a_file_that_is_as_long_as_ever(file: SourceFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovafs.storage.source_file.os.preadv", lambda *_: 0)
    with pytest.raises(ReadFailed, match="no data at offset 7, before the end at 16384"):
        exact(file, 7, 1)


def test_storage_error_names_file_and_offset(path: Path, file: SourceFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("ovafs.storage.source_file.os.preadv", fail)
    for read in (file.read_exact, file.read_cached):
        with pytest.raises(ReadFailed) as caught:
            read(memoryview(bytearray(8)), 4096)
        assert str(caught.value).startswith(f"{path}: read at offset 4096 failed: Input/output error")


@pytest.mark.parametrize(("in_memory", "count"), [(True, 10), (False, 0)])
def test_without_nowait_only_memory_is_read_at_once(
    file: SourceFile, monkeypatch: pytest.MonkeyPatch, in_memory: bool, count: int
) -> None:
    real = os.preadv

    def preadv(descriptor: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(descriptor, buffers, offset)

    monkeypatch.setattr("ovafs.storage.source_file.os.preadv", preadv)
    monkeypatch.setattr(source_file, "_is_in_memory", lambda _: in_memory)
    assert file.read_cached(memoryview(bytearray(10)), 0) == count


def test_kind_of_file_system(tmp_path: Path) -> None:
    assert source_file._is_in_memory(os.stat("/dev/shm").st_dev)
    assert not source_file._is_in_memory(os.stat("/proc").st_dev)


def test_absent(tmp_path: Path) -> None:
    with pytest.raises(ImageUnavailable, match="No such file"):
        SourceFile(str(tmp_path / "absent"))


def test_closing_waits_for_the_thread_that_reads(path: Path, file: SourceFile) -> None:
    """Else the number of the descriptor could go to another file, and the thread would read that one."""
    entered, go_on = threading.Event(), threading.Event()
    got: list[bytes] = []

    def reader() -> None:
        with file.in_use():
            entered.set()
            go_on.wait(10)
            got.append(exact(file, 0, 16))

    thread = threading.Thread(target=reader)
    thread.start()
    entered.wait(10)
    descriptor = file.fileno()
    file.close()
    others = [os.open("/dev/zero", os.O_RDONLY) for _ in range(3)]
    assert descriptor not in others
    go_on.set()
    thread.join()
    assert got == [CONTENT[:16]]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    for other in others:
        os.close(other)


def test_closed_file_reads_nothing(file: SourceFile) -> None:
    file.close()
    file.close()
    with pytest.raises(ReadFailed, match="is closed"), file.in_use():
        pass
    with pytest.raises(ReadFailed):
        file.read_cached(memoryview(bytearray(8)), 0)
    with pytest.raises(ReadFailed):
        file.check_unchanged()
