"""Compressed pieces of disk images: deflate, with isal when it is installed, and zstd.

| piece | what it is |
|---|---|
| compressed cluster of qcow2, type 0 | a raw deflate stream (RFC 1951); QEMU writes it with a window of 4 KiB |
| compressed cluster of qcow2, type 1 | one zstd frame |
| grain of a VMDK | a zlib stream (RFC 1950), though VMware's paper says RFC 1951 |
| gzip file | members one behind the other (RFC 1952) |
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

INFLATE_ERRORS: tuple[type[Exception], ...] = (zlib.error, ZstdError)
"""What the decompressors raise for damaged data."""

try:
    from isal import igzip_lib, isal_zlib
except ImportError:
    isal_zlib = None  # type: ignore[assignment]  # optional
else:
    INFLATE_ERRORS = (*INFLATE_ERRORS, igzip_lib.IsalError)  # type: ignore[arg-type]  # its stub calls the class an instance

# A larger window reads streams of a smaller one. QEMU asks for 4 KiB, but zlib does not hold a stream to it while all
# of its output is in one buffer, so QEMU reads streams of any window; isal would refuse them.
_RAW = -15
_ZLIB = 15
_GZIP = 31


class Decompressor(Protocol):
    """What the decompressors of zlib, isal and zstd have in common."""

    @property
    def eof(self) -> bool:
        """The stream has ended."""
        ...

    @property
    def unused_data(self) -> bytes:
        """Input behind the stream's end."""
        ...

    def decompress(self, data: bytes | memoryview, max_length: int, /) -> bytes:
        """Up to ``max_length`` more bytes of output."""
        ...


class GzipDecompressor(Decompressor, Protocol):
    """One member of a gzip file; what ``max_length`` left over is in ``unconsumed_tail``."""

    @property
    def unconsumed_tail(self) -> bytes:
        """Input that was not needed for ``max_length`` bytes."""
        ...


def _deflate(window_bits: int) -> GzipDecompressor:
    # isal takes half the time, and checks the checksums as zlib does.
    return zlib.decompressobj(window_bits) if isal_zlib is None else isal_zlib.decompressobj(window_bits)


_CLUSTER_DECOMPRESSORS: dict[Compression, Callable[[], Decompressor]] = {
    Compression.DEFLATE: lambda: _deflate(_RAW),
    Compression.ZSTD: ZstdDecompressor,
}


def gzip_member() -> GzipDecompressor:
    """A decompressor for the next member of a gzip file; it checks the member's CRC and length."""
    return _deflate(_GZIP)


def inflate_cluster(
    data: bytes | memoryview, compression: Compression, cluster_size: int, path: str
) -> tuple[bytes, int]:
    """The ``cluster_size`` bytes that ``data`` (a few sectors) begins with, and how many bytes of it hold them.

    Anything may follow: a descriptor knows the length only to the sector. Raises InvalidImage.
    """
    try:
        return _inflate(_CLUSTER_DECOMPRESSORS[compression](), data, cluster_size, cluster_size)
    except ValueError as error:
        raise InvalidImage(path, f"a compressed cluster {error}") from error


def inflate_grain(data: bytes | memoryview, needed: int, grain_size: int, path: str) -> bytes:
    """The bytes of a grain: at least ``needed``, of which the disk's last grain may have few, up to ``grain_size``.

    Raises InvalidImage.
    """
    try:
        return _inflate(_deflate(_ZLIB), data, needed, grain_size)[0]
    except ValueError as error:
        raise InvalidImage(path, f"a compressed grain {error}") from error


def _inflate(decompressor: Decompressor, data: bytes | memoryview, least: int, most: int) -> tuple[bytes, int]:
    """Raises ValueError with a reason."""
    try:
        # One byte more than may come is asked for, so that a stream that goes on is told from one that ends here.
        result = decompressor.decompress(data, most + 1)
    except INFLATE_ERRORS as error:
        raise ValueError(f"is damaged ({error})") from error
    if not least <= len(result) <= most or not decompressor.eof:
        raise ValueError(f"does not hold {least} bytes")
    return result, len(data) - len(decompressor.unused_data)
