"""Which way a volume is read: by ovafs itself, or by QEMU's block layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ovafs.errors import OnlyByQemu
from ovafs.formats.network_disk import is_location
from ovafs.storage.chain import open_chain
from ovafs.storage.engine.live import LiveSizes
from ovafs.storage.engine.volume import open_engine_volume

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovafs import model
    from ovafs.storage.chain import Chain
    from ovafs.storage.engine.engines import Engines
    from ovafs.storage.source_file import SourceFile
    from ovafs.storage.volume import FileIdentity, Volume
    from ovafs.streams.extents import ExtentMap


class LiveVolume(Protocol):
    """A disk that a running machine writes to: good for an estimate, not for data."""

    @property
    def path(self) -> str:
        """What people know it by."""
        ...

    @property
    def virtual_size(self) -> int:
        """Guest bytes, a multiple of 512."""
        ...

    @property
    def files(self) -> Sequence[SourceFile]:
        """All its files that are local."""
        ...

    @property
    def is_volatile(self) -> bool:
        """True when a change of content may go unnoticed."""
        ...

    def identities(self) -> tuple[tuple[str, FileIdentity], ...]:
        """Path and identity of each file."""
        ...

    def read_extents(self) -> ExtentMap:
        """What it stores, at the most. Blocks."""
        ...

    def use_extents(self, extents: ExtentMap) -> None:
        """Use a map that ``read_extents`` gave before."""
        ...

    def close(self) -> None:
        """Release files; idempotent."""
        ...


class Opener(Protocol):
    """Opens the disk that a machine's definition names. Its methods block, in any thread.

    They raise ImageUnavailable, VolumeBusy, InvalidImage, UnsupportedFeature, VolumeChanged, ReadFailed.
    """

    def open(self, volume: model.Volume) -> Volume:
        """The disk, locked."""
        ...

    def open_live(self, volume: model.Volume) -> LiveVolume:
        """The disk of a machine that runs, not locked."""
        ...


class NativeOpener:
    """Starts no process: for what ovafs itself reads. Raises OnlyByQemu for all else."""

    def open(self, volume: model.Volume) -> Chain:
        """See Opener."""
        _refuse_network(volume)
        return open_chain(volume.path, volume.format, snapshot=volume.snapshot)

    def open_live(self, volume: model.Volume) -> Chain:
        """See Opener."""
        _refuse_network(volume)
        return open_chain(volume.path, volume.format, lock=False, is_live=True)


class AnyOpener:
    """For all that can be read: what ovafs does not read itself, QEMU does."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._native = NativeOpener()
        self._sizes = LiveSizes(engines)

    def open(self, volume: model.Volume) -> Volume:
        """See Opener."""
        try:
            return self._native.open(volume)
        except OnlyByQemu:
            return open_engine_volume(self._engines, volume)

    def open_live(self, volume: model.Volume) -> LiveVolume:
        """See Opener."""
        try:
            return self._native.open_live(volume)
        except OnlyByQemu:
            return self._sizes.open(volume)


def _refuse_network(volume: model.Volume) -> None:
    if is_location(volume.path):
        raise OnlyByQemu(volume.path, "a disk on the network")
