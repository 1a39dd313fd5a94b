"""A pool that is full, or would be: said in words, as early as it can be known, and nothing is left."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from ovafs.errors import InvalidPackage, NoSpace, WriteFailed
from tests.support.filesystems import in_memory
from tests.support.packages import QCOW2, STREAM, DiskText, archive, content, descriptor, import_pool, small_package
from tests.support.vmdk import stream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.packages import ImportPool

MIB = 1 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[ImportPool]:
    """A pool with room for 4 MiB."""
    with in_memory(tmp_path, "tmpfs", "size=4M") as path:
        path.chmod(0o700)
        with import_pool(path / "pool") as pool:
            yield pool


@pytest.mark.parametrize("form", ["qcow2", "raw"])
def test_full_while_it_is_written(small: ImportPool, form: str) -> None:
    data = content(8 * MIB)[: 6 * MIB]
    text = descriptor(DiskText("a", 1 << 16), DiskText("b", len(data)))
    package = archive({"web.ovf": text, "a": data[: 1 << 16], "b": data})
    with pytest.raises(NoSpace, match=r"\.part: cannot be written: No space left on device; make room"):
        small.take(package, format=form)
    small.assert_whole()
    assert small.take(archive(small_package())).machines
    small.assert_whole(1)


def test_full_while_something_waits(small: ImportPool) -> None:
    data = content(8 * MIB, 3)
    with pytest.raises(NoSpace, match="cannot be written: No space left on device"):
        small.take(archive({"a": data, "web.ovf": descriptor(DiskText("a", len(data)))}))
    small.assert_whole()


def needs(*disks: DiskText) -> bytes:
    """The begin of a package, to the end of its descriptor."""
    return archive({"web.ovf": descriptor(*disks)}, end=False)


REFUSED = {
    "populated": (needs(DiskText("a", 1 << 30, QCOW2, extra=f'ovf:populatedSize="{40 * MIB}"')), "40.0 MiB"),
    "both": (needs(*(DiskText(n, 1 << 30, QCOW2, extra=f'ovf:populatedSize="{3 * MIB}"') for n in "ab")), "6.00 MiB"),
    "compressed": (needs(DiskText("a", 1 << 30, STREAM, f'ovf:size="{5 * MIB}"')), "5.00 MiB"),
    "gzip": (needs(DiskText("a", 1 << 30, file=f'ovf:size="{7 * MIB}" ovf:compression="gzip"')), "7.00 MiB"),
    "populated beyond its capacity": (
        needs(DiskText("a", 10 * MIB, extra=f'ovf:populatedSize="{1 << 40}"')),
        "10.0 MiB",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_when_the_descriptor_is_known(small: ImportPool, name: str) -> None:
    package, needed = REFUSED[name]
    with pytest.raises(
        NoSpace, match=rf"^the import needs {re.escape(needed)}, 3\.\d+ MiB are free in .*/volumes; make"
    ):
        small.take(package)
    small.assert_whole()


def test_not_refused_for_what_may_be_zeros(small: ImportPool) -> None:
    """A raw disk of 64 MiB, and a stream of one of 1 GiB, with little on them."""
    raw = b"x" * 65536 + bytes(64 * MIB - 65536)
    text = descriptor(DiskText("a", len(raw), file=f'ovf:size="{len(raw)}"'))
    small.take(archive({"web.ovf": text, "a": raw}))
    sparse = stream(b"y" * 65536 + bytes(32 * MIB)).data
    small.take(archive({"web.ovf": descriptor(DiskText("b", None, STREAM, f'ovf:size="{len(sparse)}"')), "b": sparse}))
    small.assert_whole(2)


def test_a_disk_that_no_file_system_takes(small: ImportPool) -> None:
    for disk in (DiskText(None, 1 << 62), DiskText("a", 1 << 62)):
        with pytest.raises(
            InvalidPackage, match="the disk 'd0' has a capacity of 4611686018427387904 bytes, more than"
        ):
            small.take(archive({"web.ovf": descriptor(disk), "a": b"x"}), format="raw")
        small.assert_whole()


@pytest.mark.parametrize("call", ["pwritev", "ftruncate", "fsync", "rename"])
def test_storage_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    with import_pool(tmp_path / "pool") as pool:
        with monkeypatch.context() as patch:
            patch.setattr(f"os.{call}", fail)
            with pytest.raises(WriteFailed, match="Input/output error"):
                pool.take(archive(small_package()))
        pool.assert_whole()
