"""Compressed clusters of qcow2 (QEMU docs/interop/qcow2, "Compressed Clusters Descriptor").

Deflate is a raw stream (RFC 1951) with a window of 4 KiB; zstd is one frame. Either gives exactly one cluster and
may be followed by anything: the descriptor knows the length only to the sector.
"""

from __future__ import annotations

import sys
import zlib
from typing import TYPE_CHECKING, Protocol

from ovafs.errors import InvalidImage
from ovafs.formats.qcow2.header import Compression

if TYPE_CHECKING:
    from collections.abc import Callable

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdError

_ERRORS: tuple[type[Exception], ...] = (zlib.error, ZstdError)
try:
    from isal import igzip_lib, isal_zlib
except ImportError:
    isal_zlib = None  # type: ignore[assignment]  # optional
else:
    _ERRORS = (*_ERRORS, igzip_lib.IsalError)  # type: ignore[arg-type]  # its stub calls the class an instance


class _Decompressor(Protocol):
    """What the decompressors of zlib, isal and zstd have in common."""

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _deflate() -> _Decompressor:
    # isal takes half the time, and refuses a distance beyond the window as zlib does.
    return zlib.decompressobj(-12) if isal_zlib is None else isal_zlib.decompressobj(-12)


_DECOMPRESSORS: dict[Compression, Callable[[], _Decompressor]] = {
    Compression.DEFLATE: _deflate,
    Compression.ZSTD: ZstdDecompressor,
}


def inflate_cluster(data: bytes, compression: Compression, cluster_size: int, path: str) -> bytes:
    """The ``cluster_size`` bytes that ``data`` (a few sectors) stands for. Raises InvalidImage for anything else."""
    decompressor = _DECOMPRESSORS[compression]()
    try:
        # One byte more than a cluster is asked for, so that a stream that goes on is told from one that ends here.
        cluster = decompressor.decompress(data, cluster_size + 1)
    except _ERRORS as error:
        raise InvalidImage(path, f"a compressed cluster is damaged ({error})") from error
    if len(cluster) != cluster_size or not decompressor.eof:
        raise InvalidImage(path, f"a compressed cluster does not hold {cluster_size} bytes")
    return cluster
