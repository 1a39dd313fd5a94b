"""Writers whose storage fails, and the rules that all writers share."""

from __future__ import annotations

import errno
import os
import resource
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import NoSpace, OvafsError, WriteFailed
from ovafs.fuse.errnos import errno_of
from ovafs.storage.writer.qcow2 import Qcow2Writer
from ovafs.storage.writer.raw import RawWriter
from tests.support.filesystems import in_memory

if TYPE_CHECKING:
    from ovafs.storage.writer.volume_writer import VolumeWriter

MIB = 1 << 20
DATA = memoryview(bytes(range(1, 256)) * 4113)[:MIB]

both = pytest.mark.parametrize("kind", [RawWriter, Qcow2Writer])


def fill(writer: VolumeWriter) -> None:
    for start in range(0, writer.virtual_size, MIB):
        writer.write_at(start, DATA)


@both
def test_disk_full(tmp_path: Path, kind: type[RawWriter | Qcow2Writer]) -> None:
    with in_memory(tmp_path, "tmpfs", "size=4M") as folder:
        writer: VolumeWriter = kind(str(folder / "v"), 64 * MIB)
        with pytest.raises(NoSpace, match=r"v: cannot be written: No space left on device; make room") as caught:
            fill(writer)
        assert errno_of(caught.value) == errno.ENOSPC
        # Room that comes later does not make it whole.
        os.truncate(writer.path, 0)
        for attempt in (writer.flush, writer.finish, lambda: writer.write_at(0, DATA), lambda: writer.zero_at(0, 1)):
            with pytest.raises(NoSpace):
                attempt()
        writer.discard()
        assert list(folder.iterdir()) == []


def test_disk_full_at_a_short_write_is_seen_by_flush(tmp_path: Path) -> None:
    with in_memory(tmp_path, "tmpfs", "size=1M") as folder:
        writer = RawWriter(str(folder / "v"), 64 * MIB)
        (folder / "other").write_bytes(DATA[: MIB - 8192])
        writer.write_at(0, DATA[: 64 << 10])
        with pytest.raises(NoSpace):
            writer.flush()
        writer.discard()


def test_no_room_to_begin(tmp_path: Path) -> None:
    with in_memory(tmp_path, "tmpfs", "size=1M") as folder:
        (folder / "other").write_bytes(DATA[: MIB - 4096])
        with pytest.raises(NoSpace):
            Qcow2Writer(str(folder / "v"), 64 * MIB)
        assert [path.name for path in folder.iterdir()] == ["other"]


@both
def test_longer_than_a_file_may_be(tmp_path: Path, kind: type[RawWriter | Qcow2Writer]) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, limits[1]))
    writer: VolumeWriter | None = None
    try:
        with pytest.raises(WriteFailed, match="File too large; a file may not be so long"):  # noqa: PT012, either fails
            writer = kind(str(tmp_path / "v"), 64 * MIB)
            fill(writer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if writer:
            writer.discard()
    assert list(tmp_path.iterdir()) == []


@both
def test_a_failed_fsync_is_never_forgotten(
    tmp_path: Path, kind: type[RawWriter | Qcow2Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = kind(str(tmp_path / "v"), 4 * MIB)
    fill(writer)

    def failing(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(WriteFailed, match="cannot be put on stable storage: Input/output error; see the kernel"):
            writer.finish()
    with pytest.raises(WriteFailed):
        writer.finish()
    writer.discard()
    assert list(tmp_path.iterdir()) == []


@both
def test_short_writes_of_the_kernel_are_continued(
    tmp_path: Path, kind: type[RawWriter | Qcow2Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    pwritev = os.pwritev

    def short(fd: int, views: list[memoryview], offset: int) -> int:
        return pwritev(fd, [views[0][: max(1, len(views[0]) * 2 // 3)]], offset)

    plain, broken = kind(str(tmp_path / "plain"), 4 * MIB), kind(str(tmp_path / "broken"), 4 * MIB)
    fill(plain)
    plain.finish()
    monkeypatch.setattr(os, "pwritev", short)
    fill(broken)
    broken.finish()
    assert Path(broken.path).read_bytes() == Path(plain.path).read_bytes()


def test_an_l2_table_that_cannot_be_read_back(tmp_path: Path) -> None:
    writer = Qcow2Writer(str(tmp_path / "v"), 4 << 30, max_tables=1)
    for start in (0, 1 << 30):
        writer.write_at(start, DATA)
    writer.zero_at(4 * MIB, 1)  # the second table leaves memory, the first comes back
    os.truncate(writer.path, 0)
    with pytest.raises(WriteFailed, match="cannot be read back: 0 of 65536 bytes at offset"):
        writer.write_at(1 << 30, DATA)
    writer.discard()


@both
def test_what_exists_is_never_touched(tmp_path: Path, kind: type[RawWriter | Qcow2Writer]) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link", "no/such/directory"):
        with pytest.raises(WriteFailed, match="cannot be made"):
            kind(str(tmp_path / name), MIB)
    assert (tmp_path / "file").read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


@both
def test_the_common_rules(tmp_path: Path, kind: type[RawWriter | Qcow2Writer]) -> None:
    writer = kind(str(tmp_path / "v"), MIB)
    assert (writer.path, writer.virtual_size) == (str(tmp_path / "v"), MIB)
    assert stat.S_IMODE((tmp_path / "v").stat().st_mode) == 0o600
    for offset, length in ((-1, 1), (MIB, 1), (MIB - 1, 2), (0, -1)):
        with pytest.raises(ValueError, match="not inside a disk of 1048576 bytes"):
            writer.zero_at(offset, length)
    with pytest.raises(ValueError, match="not inside"):
        writer.write_at(1, DATA)
    writer.write_at(0, DATA)
    assert MIB <= writer.allocated <= MIB + (320 << 10)
    writer.finish()
    writer.finish()
    allocated = writer.allocated
    os.rename(writer.path, tmp_path / "published")
    assert writer.allocated == allocated == (tmp_path / "published").stat().st_blocks * 512
    with pytest.raises(ValueError, match="is finished"):
        writer.write_at(0, DATA[:1])
    writer.discard()
    assert (tmp_path / "published").exists()


@both
def test_discard(tmp_path: Path, kind: type[RawWriter | Qcow2Writer]) -> None:
    writer = kind(str(tmp_path / "v"), 4 * MIB)
    writer.write_at(5, DATA[:100])
    writer.discard()
    writer.discard()
    assert list(tmp_path.iterdir()) == []
    assert writer.allocated == 0
    with pytest.raises(OvafsError):
        writer.finish()
