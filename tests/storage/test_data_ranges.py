"""Which parts of a file are stored: the same answer whatever is in the page cache, by either way of asking."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import ReadFailed
from ovafs.storage.data_ranges import data_ranges
from ovafs.storage.source_file import SourceFile

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 4096


def ranges(path: Path) -> list[tuple[int, int]]:
    with contextlib.closing(SourceFile(str(path))) as file:
        return list(data_ranges(file))


def write(path: Path, size: int, *pieces: tuple[int, bytes]) -> Path:
    with path.open("wb") as file:
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
        file.truncate(size)
        os.fsync(file.fileno())
    return path


@pytest.fixture(params=["fiemap", "seek"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways; the second as on a file system without FIEMAP."""
    if request.param == "seek":

        def refused(*_: object) -> int:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        monkeypatch.setattr(fcntl, "ioctl", refused)
    return str(request.param)


@pytest.mark.usefixtures("way")
class TestEitherWay:
    def test_holes_are_not_stored(self, tmp_path: Path) -> None:
        file = write(tmp_path / "f", 64 * BLOCK, (0, b"x" * BLOCK), (8 * BLOCK, b"x" * 3 * BLOCK), (40 * BLOCK, b"x"))
        assert ranges(file) == [(0, BLOCK), (8 * BLOCK, 11 * BLOCK), (40 * BLOCK, 41 * BLOCK)]

    def test_the_last_range_ends_with_the_file(self, tmp_path: Path) -> None:
        file = write(tmp_path / "f", 5 * BLOCK + 100, (5 * BLOCK, b"x" * 100))
        assert ranges(file) == [(5 * BLOCK, 5 * BLOCK + 100)]

    def test_files_without_data(self, tmp_path: Path) -> None:
        assert ranges(write(tmp_path / "empty", 0)) == []
        assert ranges(write(tmp_path / "hole", 1 << 30)) == []

    def test_thousands_of_ranges(self, tmp_path: Path) -> None:
        pieces = [(2 * number * BLOCK, b"x") for number in range(3000)]
        file = write(tmp_path / "f", 6000 * BLOCK, *pieces)
        assert ranges(file) == [(offset, offset + BLOCK) for offset, _ in pieces]

    def test_extents_that_touch_are_one_range(self, tmp_path: Path) -> None:
        blocks = list(range(300))
        random.Random(1).shuffle(blocks)
        with (tmp_path / "f").open("wb") as file:
            for block in blocks:  # each on its own, so that the file system scatters them
                os.pwrite(file.fileno(), b"x" * BLOCK, block * BLOCK)
                os.fdatasync(file.fileno())
        assert ranges(tmp_path / "f") == [(0, 300 * BLOCK)]


def test_data_that_is_not_on_disk_yet_counts(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, 64 * BLOCK)
        os.pwrite(file.fileno(), b"x" * BLOCK, 16 * BLOCK)
        assert ranges(tmp_path / "f") == [(16 * BLOCK, 17 * BLOCK)]


def test_reserved_space_is_zeros_whatever_is_in_the_page_cache(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with path.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, 64 * BLOCK)
        os.pwrite(file.fileno(), b"x" * BLOCK, 16 * BLOCK)
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = ranges(path)
    identity = path.stat()
    assert path.read_bytes() == bytes(16 * BLOCK) + b"x" * BLOCK + bytes(47 * BLOCK)
    assert ranges(path) == before == [(16 * BLOCK, 17 * BLOCK)]
    after = path.stat()
    assert (after.st_mtime_ns, after.st_ctime_ns) == (identity.st_mtime_ns, identity.st_ctime_ns)


def test_storage_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    file = write(tmp_path / "f", BLOCK)
    monkeypatch.setattr(fcntl, "ioctl", failing)
    with pytest.raises(ReadFailed, match="holes cannot be found: Input/output error"):
        ranges(file)
