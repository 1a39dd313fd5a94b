"""Compressed clusters and grains: exactly one, and whatever follows."""

from __future__ import annotations

import gzip
import random
import sys
import zlib

import pytest

from ovafs.errors import InvalidImage
from ovafs.formats import inflate
from ovafs.formats.inflate import gzip_member, inflate_cluster, inflate_grain
from ovafs.formats.qcow2.header import Compression
from tests.support.images import deflated

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CLUSTER = random.Random(1).randbytes(1000) + bytes(3096)
PACKED = {Compression.DEFLATE: deflated(CLUSTER), Compression.ZSTD: zstd.compress(CLUSTER)}


@pytest.fixture(params=["isal", "zlib"], autouse=True)
def _library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the optional library and without it."""
    if request.param == "zlib":
        monkeypatch.setattr(inflate, "isal_zlib", None)


@pytest.mark.parametrize("compression", Compression)
def test_a_cluster_and_what_follows(compression: Compression) -> None:
    packed = PACKED[compression]
    for rest in (b"", b"\0" * 100, b"garbage", packed):
        assert inflate_cluster(packed + rest, compression, 4096, "disk") == (CLUSTER, len(packed))
        assert inflate_cluster(memoryview(packed + rest), compression, 4096, "disk") == (CLUSTER, len(packed))


@pytest.mark.parametrize("compression", Compression)
@pytest.mark.parametrize("size", [512, 2048, 8192])
def test_a_cluster_of_another_size(compression: Compression, size: int) -> None:
    with pytest.raises(InvalidImage, match=f"a compressed cluster does not hold {size} bytes"):
        inflate_cluster(PACKED[compression], compression, size, "disk")


@pytest.mark.parametrize("compression", Compression)
def test_a_cluster_that_is_damaged(compression: Compression) -> None:
    packed = PACKED[compression]
    for data in (b"", packed[:-3], b"\xff" * 100, packed[:10] + bytes(1000)):
        with pytest.raises(InvalidImage, match="disk: a compressed cluster"):
            inflate_cluster(data, compression, 4096, "disk")


def test_a_window_larger_than_qemus() -> None:
    """QEMU writes windows of 4 KiB, and reads larger ones."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    content = random.Random(2).randbytes(30_000) * 2
    packed = stream.compress(content) + stream.flush()
    assert len(packed) < 40_000
    assert inflate_cluster(packed, Compression.DEFLATE, 60_000, "disk") == (content, len(packed))


def test_grains() -> None:
    packed = zlib.compress(CLUSTER)
    for needed in (512, 4096):
        assert inflate_grain(packed + b"rest", needed, 4096, "disk") == CLUSTER
    for needed, most in ((4097, 8192), (512, 4095)):
        with pytest.raises(InvalidImage, match="a compressed grain does not hold"):
            inflate_grain(packed, needed, most, "disk")
    with pytest.raises(InvalidImage, match="a compressed grain is damaged"):
        inflate_grain(packed[:-1] + b"\0", 4096, 4096, "disk")


def test_gzip_members() -> None:
    member = gzip_member()
    data = gzip.compress(b"one") + b"two"
    assert (member.decompress(data, 2), member.eof) == (b"on", False)
    assert (member.decompress(member.unconsumed_tail, 100), member.eof) == (b"e", True)
    assert member.unused_data == b"two"
