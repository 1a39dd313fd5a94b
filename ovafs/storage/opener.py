"""Which way a volume is read: by ovafs itself, or by QEMU's block layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ovafs.errors import UnsupportedFeature
from ovafs.model import NATIVE_FORMATS
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
    """An ``Opener`` that starts no process: for raw and qcow2 images. All others are refused."""
    return open_chain(volume.path, volume.format, snapshot=volume.snapshot)


def opener(engines: Engines) -> Opener:
    """An ``Opener`` for all formats."""

    def open_volume(volume: model.Volume) -> Volume:
        if volume.format in NATIVE_FORMATS:
            return open_native(volume)
        if volume.snapshot:
            raise UnsupportedFeature(volume.path, f"an internal snapshot of a {volume.format} image")
        return open_engine_volume(engines, volume.path, volume.format)

    return open_volume
