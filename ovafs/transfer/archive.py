"""A package that was imported, read again: its skeleton from the catalog, its disks from the volumes that they became.

What the catalog stores of it is one blob, ``zlib(msgpack([sources, regions, literals]))``:

| part | content |
|---|---|
| sources | ``[volume, is_image, identity]``: UUID; whether the bytes are those of the volume's file or of its disk; what the file was when the package was imported |
| regions | ``[source, start, length]``, see ``ovafs.streams.skeleton`` |
| literals | the bytes that are not in a volume |

A volume that is no longer what it was has other bytes, and then there is an error and never these.
"""  # noqa: E501  # a table

from __future__ import annotations

import contextlib
import zlib
from typing import TYPE_CHECKING

import msgspec

from ovafs.errors import (
    ImageUnavailable,
    InvalidImage,
    NotReadable,
    UnsupportedFeature,
    VolumeBusy,
    VolumeChanged,
)
from ovafs.model import DiskFormat
from ovafs.storage.chain import Chain, open_chain
from ovafs.storage.volume import FileIdentity  # noqa: TC001  # msgspec reads the annotation
from ovafs.streams.skeleton import MAX_LITERALS, MAX_REGIONS, Skeleton
from ovafs.transfer.execute import execute

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovafs.model import Volume

_MAX_BLOB = MAX_LITERALS + MAX_REGIONS * 32 + (8 << 20)  # inflated


# What it means that a volume does not have these bytes (any more); storage that fails is something else.
_OTHER_BYTES = (ImageUnavailable, InvalidImage, UnsupportedFeature, VolumeBusy, VolumeChanged)


class StoredSource(msgspec.Struct, frozen=True, array_like=True):
    """A volume that has bytes of a package; ``is_image`` says that they are those of its file, not of its disk."""

    volume: str
    is_image: bool
    identity: FileIdentity


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    sources: list[StoredSource]
    regions: list[tuple[int, int, int]]
    literals: bytes


def encode_archive(skeleton: Skeleton, sources: Sequence[StoredSource]) -> bytes:
    """The blob for the catalog; the skeleton's sources are numbers of ``sources``."""
    regions = [tuple(region) for region in skeleton.regions]
    return zlib.compress(msgspec.msgpack.encode([list(sources), regions, bytes(skeleton.literals)]))


def open_archive(blob: bytes, volumes: Mapping[str, Volume]) -> OpenArchive:
    """Open what :func:`encode_archive` gave; ``volumes`` by UUID are those that the pool has now. Blocks.

    Raises NotReadable when a volume is gone, is in use, or is not what it was; ReadFailed.
    """
    stored, skeleton = _decode(blob)
    with contextlib.ExitStack() as undo:
        try:
            chains = [_open(source, volumes.get(source.volume), undo) for source in stored.sources]
        except _OTHER_BYTES as error:
            raise NotReadable(error.summary) from error
        undo.pop_all()
    return OpenArchive(skeleton, chains)


class OpenArchive:
    """The bytes of a package, and the open, locked volumes behind it."""

    def __init__(self, skeleton: Skeleton, chains: Sequence[Chain]) -> None:
        self._skeleton = skeleton
        self._chains = chains

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` from ``offset`` on; behind the end of the package lie zeros.

        Raises NotReadable when a volume has changed, ReadFailed.
        """
        inside = max(0, min(len(buffer), self._skeleton.size - offset))
        buffer[inside:] = bytes(len(buffer) - inside)
        if inside:
            try:
                await execute(self._skeleton.plan(offset, inside), self._chains, buffer[:inside])
            except _OTHER_BYTES as error:
                raise NotReadable(error.summary) from error

    def close(self) -> None:
        """Release every file and lock; idempotent."""
        for chain in self._chains:
            chain.close()


def _decode(blob: bytes) -> tuple[_Stored, Skeleton]:
    inflate = zlib.decompressobj()
    try:
        stored = msgspec.msgpack.decode(inflate.decompress(blob, _MAX_BLOB), type=_Stored)
        skeleton = Skeleton.load(stored.regions, stored.literals)
    except (zlib.error, msgspec.MsgspecError, ValueError) as error:
        raise NotReadable(f"what the catalog has of the package is damaged: {error}") from error
    if not inflate.eof or not skeleton.is_whole or any(number >= len(stored.sources) for number in skeleton.sources()):
        raise NotReadable("what the catalog has of the package is damaged")
    return stored, skeleton


def _open(source: StoredSource, volume: Volume | None, undo: contextlib.ExitStack) -> Chain:
    """The volume, if it is still the one that was imported; ``undo`` closes it."""
    if volume is None:
        raise NotReadable(f"the pool does not have the volume {source.volume} any more")
    chain = open_chain(volume.path, DiskFormat.RAW if source.is_image else volume.format)
    undo.callback(chain.close)
    if [identity for _, identity in chain.identities()] != [source.identity]:
        raise NotReadable(f"{volume.path}: has changed since it was imported")
    chain.read_extents()
    return chain
