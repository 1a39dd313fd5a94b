"""The protocol of ``DEST.tmp``: who may write to it, what is durable in it, and when it gets its name."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from ovafs.errors import ExportFailed, NoSpace
from ovafs.transfer.partial_file import MARK, PartialFile
from tests.support.filesystems import in_memory

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 1 << 20
TIME = 1_234_567_890_123_456_789


def write(partial: PartialFile, offset: int, length: int, byte: bytes = b"x") -> None:
    partial.write(memoryview(byte * length), offset)


def interrupted(path: Path, durable: int, generation: str = "g1") -> None:
    """Leave an export behind that was killed after a checkpoint at ``durable`` and some more writing."""
    partial = PartialFile.create(str(path), generation, SIZE)
    write(partial, 0, durable)
    partial.checkpoint(durable)
    write(partial, durable, 5000, b"y")
    os.close(partial.fd)


def test_finished_file_has_name_content_time_and_no_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.ova"
    before = os.umask(0o027)
    try:
        partial = PartialFile.create(str(path), "g1", SIZE)
    finally:
        os.umask(before)
    write(partial, 0, 1000)
    assert not path.exists()
    partial.finish(TIME, replace=False)
    assert os.listdir(tmp_path) == ["a.ova"]
    assert path.read_bytes() == b"x" * 1000 + bytes(SIZE - 1000)
    assert path.stat().st_mtime_ns == TIME
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listxattr(path) == []
    assert not partial.is_kept


def test_mark_says_what_is_durable(tmp_path: Path) -> None:
    partial = PartialFile.create(str(tmp_path / "a.ova"), "g1", SIZE)
    write(partial, 0, 300_000)
    partial.checkpoint(300_000)
    partial.checkpoint(200_000)  # a late one changes nothing
    mark = json.loads(os.getxattr(partial.path, MARK))
    assert mark == {"generation": "g1", "size": SIZE, "durable": 300_000}
    partial.abandon(useful=True)
    assert partial.is_kept


def test_resume_keeps_the_durable_part_only(tmp_path: Path) -> None:
    path = tmp_path / "a.ova"
    interrupted(path, 300_000)
    partial = PartialFile.resume(str(path), "g1", SIZE)
    assert partial.durable == 300_000
    with open(partial.path, "rb") as file:
        assert file.read() == b"x" * 300_000 + bytes(SIZE - 300_000)
    partial.finish(TIME, replace=False)
    assert os.listdir(tmp_path) == ["a.ova"]


def test_resume_without_anything_begins(tmp_path: Path) -> None:
    partial = PartialFile.resume(str(tmp_path / "a.ova"), "g1", SIZE)
    assert partial.durable == 0
    partial.abandon(useful=True)
    assert os.listdir(tmp_path) == []


def test_resume_refuses_another_generation(tmp_path: Path) -> None:
    path = tmp_path / "a.ova"
    interrupted(path, 300_000)
    with pytest.raises(ExportFailed, match=r"holds another state .* remove it and export again without --resume"):
        PartialFile.resume(str(path), "g2", SIZE)
    assert os.listdir(tmp_path) == ["a.ova.tmp"]


@pytest.mark.parametrize(
    "mark",
    [
        None,
        b"",
        b"[]",
        b'{"generation":"g1","size":1048576,"durable":-1}',
        b'{"generation":"g1","size":9,"durable":99}',
        b'{"generation":"g1","size":99999999,"durable":2000000}',
    ],
)
def test_resume_refuses_a_file_without_a_sound_mark(tmp_path: Path, mark: bytes | None) -> None:
    path = tmp_path / "a.ova.tmp"
    path.write_bytes(bytes(SIZE))
    if mark is not None:
        os.setxattr(path, MARK, mark)
    with pytest.raises(ExportFailed, match="no unfinished export"):
        PartialFile.resume(str(tmp_path / "a.ova"), "g1", SIZE)
    assert path.read_bytes() == bytes(SIZE)


def test_what_was_left_behind_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.ova"
    interrupted(path, 300_000)
    with pytest.raises(
        ExportFailed, match=r"a\.ova\.tmp exists: an export was interrupted; go on with --resume, or rem"
    ):
        PartialFile.create(str(path), "g1", SIZE)


@pytest.mark.parametrize("begin", [PartialFile.create, PartialFile.resume])
def test_two_exports_exclude_each_other(tmp_path: Path, begin: Any) -> None:
    path = str(tmp_path / "a.ova")
    first = PartialFile.create(path, "g1", SIZE)
    with pytest.raises(ExportFailed, match="is being written by another export"):
        begin(path, "g1", SIZE)
    write(first, 0, SIZE)
    first.finish(TIME, replace=False)


def test_a_file_that_got_its_name_meanwhile_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second export opened the .tmp just before the first one renamed and unlocked it."""
    path = str(tmp_path / "a.ova")
    first = PartialFile.create(path, "g1", SIZE)
    write(first, 0, SIZE)
    first.checkpoint(SIZE)
    really_lock = __import__("fcntl").flock

    def finish_then_lock(descriptor: int, operation: int) -> None:
        if first.fd != descriptor:
            first.finish(TIME, replace=False)
        really_lock(descriptor, operation)

    monkeypatch.setattr("fcntl.flock", finish_then_lock)
    with pytest.raises(ExportFailed, match="cannot be continued"):
        PartialFile.resume(path, "g1", SIZE)
    assert (tmp_path / "a.ova").read_bytes() == b"x" * SIZE


def test_a_destination_that_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.ova"
    partial = PartialFile.create(str(path), "g1", SIZE)
    write(partial, 0, SIZE)
    path.write_bytes(b"somebody else's")
    with pytest.raises(ExportFailed, match=r"a\.ova exists"):
        partial.finish(TIME, replace=False)
    assert path.read_bytes() == b"somebody else's"
    partial.abandon(useful=True)
    assert partial.is_kept
    assert partial.durable == SIZE
    again = PartialFile.resume(str(path), "g1", SIZE)
    again.finish(TIME, replace=True)
    assert path.read_bytes() == b"x" * SIZE


def test_a_failed_sync_is_never_followed_by_a_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel tells of a lost write once; the next fdatasync says that all is well."""
    partial = PartialFile.create(str(tmp_path / "a.ova"), "g1", SIZE)
    write(partial, 0, 300_000)
    partial.checkpoint(100_000)

    def fail(_: int) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("os.fdatasync", fail)
        with pytest.raises(ExportFailed, match="cannot be written to the disk: Input/output error"):
            partial.checkpoint(200_000)
    partial.checkpoint(300_000)
    assert json.loads(os.getxattr(partial.path, MARK))["durable"] == 100_000
    partial.abandon(useful=True)
    assert partial.is_kept


def test_no_extended_attributes_no_resume(tmp_path: Path) -> None:
    with in_memory(tmp_path, "ramfs") as folder:
        path = folder / "a.ova"
        partial = PartialFile.create(str(path), "g1", SIZE)
        assert not partial.can_resume
        write(partial, 0, SIZE)
        partial.checkpoint(SIZE)
        partial.abandon(useful=True)
        assert not partial.is_kept
        assert os.listdir(folder) == []
        partial = PartialFile.create(str(path), "g1", SIZE)
        write(partial, 0, SIZE)
        partial.finish(TIME, replace=False)
        assert path.read_bytes() == b"x" * SIZE


def test_a_full_file_system(tmp_path: Path) -> None:
    with in_memory(tmp_path, "tmpfs", "size=512k") as folder:
        partial = PartialFile.create(str(folder / "a.ova"), "g1", SIZE)
        with pytest.raises(NoSpace, match="cannot be written: No space left on device; make room"):
            write(partial, 0, SIZE)
        partial.checkpoint(100_000)
        partial.abandon(useful=True)
        assert os.listdir(folder) == ["a.ova.tmp"]


@pytest.mark.parametrize("kind", ["symlink", "directory", "missing folder"])
def test_places_where_nothing_can_be_written(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.ova"
    if kind == "symlink":
        (tmp_path / "victim").write_bytes(b"precious")
        (tmp_path / "a.ova.tmp").symlink_to("victim")
    elif kind == "directory":
        (tmp_path / "a.ova.tmp").mkdir()
    else:
        path = tmp_path / "missing" / "a.ova"
    for begin in (PartialFile.create, PartialFile.resume):
        with pytest.raises(ExportFailed):
            begin(str(path), "g1", SIZE)
    if kind == "symlink":
        assert (tmp_path / "victim").read_bytes() == b"precious"
