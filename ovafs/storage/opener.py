"""Which way a volume is read: by ovafs itself, or by QEMU's block layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ovafs.errors import OnlyByQemu
from ovafs.storage.chain import open_chain
from ovafs.storage.engine.volume import open_engine_volume

if TYPE_CHECKING:
    from ovafs import model
    from ovafs.storage.engine.engines import Engines
    from ovafs.storage.volume import Volume


class Opener(Protocol):
    """Opens and locks the disk that a machine's definition names. Blocks.

    Raises ImageUnavailable, VolumeBusy, InvalidImage, UnsupportedFeature, VolumeChanged, ReadFailed.
    """

    def __call__(self, volume: model.Volume, /) -> Volume:
        """The open disk."""
        ...


def open_native(volume: model.Volume) -> Volume:
    """An ``Opener`` that starts no process: for what ovafs itself reads. Raises OnlyByQemu for all else."""
    return open_chain(volume.path, volume.format, snapshot=volume.snapshot)


def opener(engines: Engines) -> Opener:
    """An ``Opener`` for all that is read."""

    def open_volume(volume: model.Volume) -> Volume:
        try:
            return open_native(volume)
        except OnlyByQemu:
            return open_engine_volume(engines, volume)

    return open_volume
