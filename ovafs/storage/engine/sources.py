"""What an engine is given for a volume: files that are opened, locked and looked at here, or a place on the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovafs.errors import UnsupportedFeature
from ovafs.formats.network_disk import is_location, parse_location
from ovafs.formats.vmdk.descriptor import write_extents
from ovafs.model import DiskFormat
from ovafs.storage.engine.command import image, network_disk, open_file, path_of, split_vmdk
from ovafs.storage.engine.engines import Served
from ovafs.storage.links import Links
from ovafs.storage.source_file import SourceFile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import ExitStack

    from ovafs import model
    from ovafs.formats.network_disk import NetworkDisk
    from ovafs.storage.engine.command import Options
    from ovafs.storage.links import Link

_KEY_HINT = "say in which file it is: secret=FILE"


def open_served(volume: model.Volume, undo: ExitStack, *, is_live: bool = False) -> Served:
    """Open what a volume consists of; ``undo`` closes it. Blocks.

    With ``is_live`` it is not locked, and may be written to meanwhile: good for its size, not for data.

    Raises ImageUnavailable, VolumeBusy, InvalidImage, UnsupportedFeature, VolumeChanged, ReadFailed.
    """
    if is_location(volume.path):
        return _on_network(volume)
    links = Links(undo, lock=not is_live, is_live=is_live, by_qemu=True).open(volume.path, volume.format)
    secret = None
    if encrypted := [link.file.path for link in links if link.is_encrypted]:
        if not volume.secret:
            raise UnsupportedFeature(encrypted[0], "encryption of a disk whose passphrase is not known", _KEY_HINT)
        secret = SourceFile(volume.secret)
        undo.callback(secret.close)
    return _in_files(volume.path, links, secret)


def _on_network(volume: model.Volume) -> Served:
    """A disk whose server may change it at any time.

    Only raw: an image could name files of this host, and what a server shows when it is looked at need not be what it
    shows QEMU a moment later.
    """
    if volume.format != DiskFormat.RAW:
        raise UnsupportedFeature(volume.path, f"format {volume.format} on the network")
    disk = parse_location(volume.path)
    served = Served(
        volume.path, volume.path, (), lambda *_: network_disk(disk), is_volatile=True, formats=(volume.format,)
    )
    return served._replace(hint=_ssh_hint(disk)) if disk.protocol == "ssh" else served


def _ssh_hint(disk: NetworkDisk) -> str:
    """What tells in a moment which of all the reasons it is."""
    user = f"{disk.user}@" if disk.user else ""
    return (
        f"'sftp -P {disk.port} {user}{disk.host}' has to work without a question for the user who runs ovafs: "
        "with the host's key in known_hosts, and a key without passphrase or an agent"
    )


def _in_files(path: str, links: Sequence[Link], secret: SourceFile | None) -> Served:
    """A chain, as QEMU gets it: each image with its backing, from the one at the bottom on."""

    def options(descriptors: Sequence[int], keep: Callable[[bytes], int]) -> Options:
        places = {file.path: descriptor for file, descriptor in zip(all_files, descriptors, strict=True)}
        node: Options | None = None
        for link in reversed(links):
            node = _link(link, places, node, keep)
        if node is None:
            raise ValueError("a chain without an image")
        return node

    all_files = tuple(file for link in links for file in link.files)
    return Served(
        path,
        tuple((link.form, len(link.files)) for link in links),
        all_files,
        options,
        is_volatile=any(file.is_block_device for file in all_files),
        formats=tuple(link.form for link in links),
        secret=secret,
    )


def _link(link: Link, places: Mapping[str, int], backing: Options | None, keep: Callable[[bytes], int]) -> Options:
    """One image, with the descriptors of its files by their paths."""

    def node(file: SourceFile) -> Options:
        return open_file(places[file.path], is_block_device=file.is_block_device)

    if link.split is not None:
        # Not the descriptor itself, but one that names nothing but what was opened here.
        paths = {name: path_of(places[file.path]) for name, file in link.others.items()}
        text = write_extents(*link.split, paths)
        return split_vmdk(open_file(keep(text)), len(link.split[1]))
    data_file = next(map(node, link.others.values()), None)
    return image(link.form, node(link.file), backing=backing, data_file=data_file, is_encrypted=link.is_encrypted)
