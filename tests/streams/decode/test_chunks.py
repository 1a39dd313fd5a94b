"""Disk files in chunks."""

from __future__ import annotations

import pytest

from ovafs.errors import InvalidPackage
from ovafs.streams.decode.chunks import ChunkSequence, chunk_number

HREF = "disk.vmdk"


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("disk.vmdk.000000000", 0),
        ("disk.vmdk.000000123", 123),
        ("disk.vmdk", None),
        ("disk.vmdk.00000000", None),
        ("disk.vmdk.0000000000", None),
        ("disk.vmdk.00000000a", None),
        ("disk.vmdk.00000000٣", None),
        ("other.vmdk.000000000", None),
        ("sub/disk.vmdk.000000000", None),
    ],
)
def test_names(name: str, number: int | None) -> None:
    assert chunk_number(name, HREF) == number


def accept(sizes: list[int], chunk_size: int = 100, file_size: int | None = None) -> None:
    chunks = ChunkSequence(HREF, chunk_size, file_size)
    for number, size in enumerate(sizes):
        chunks.begin(f"{HREF}.{number:09}", size)
    chunks.finish()


@pytest.mark.parametrize(
    ("sizes", "file_size"), [([100, 100, 7], None), ([100, 100, 7], 207), ([100, 100], 200), ([3], None), ([100], 100)]
)
def test_complete_files(sizes: list[int], file_size: int | None) -> None:
    accept(sizes, 100, file_size)


def test_one_chunk_of_a_small_file() -> None:
    """VMware's example: chunks of 7 GiB, a file of 6.5 MiB."""
    accept([6_872_576], 7_516_192_768)


@pytest.mark.parametrize(
    ("sizes", "file_size", "message"),
    [
        ([], None, "no chunk of the file has come"),
        ([100, 99, 100], None, "a chunk before it is shorter"),
        ([101], None, "a chunk of 101 bytes, where chunkSize is 100"),
        ([0], None, "a chunk of 0 bytes"),
        ([100, 50], 200, "chunks of 150 bytes for 200"),
        ([100, 50], 100, "a chunk before it is shorter"),
    ],
)
def test_what_is_refused(sizes: list[int], file_size: int | None, message: str) -> None:
    with pytest.raises(InvalidPackage, match=message):
        accept(sizes, 100, file_size)


@pytest.mark.parametrize("name", ["disk.vmdk.000000001", "disk.vmdk", "disk.vmdk.-00000001"])
def test_the_first_chunk_is_number_0(name: str) -> None:
    with pytest.raises(InvalidPackage, match=r"chunk 0 of 'disk\.vmdk' is expected"):
        ChunkSequence(HREF, 100).begin(name, 100)
