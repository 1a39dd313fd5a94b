"""The files of a disk: an image, its backing files, and the other files of those that keep their data elsewhere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import ImageError, InvalidImage, OnlyByQemu, UnsupportedFeature
from ovafs.formats.detect import HEAD_SIZE
from ovafs.model import NATIVE_FORMATS, DiskFormat
from ovafs.printable import printable
from ovafs.storage.backing import backing_format, check_head, named_path
from ovafs.storage.engine.image import check_extent, check_image, is_split, read_split
from ovafs.storage.locks import lock_for_reading
from ovafs.storage.qcow2 import read_header
from ovafs.storage.source_file import SourceFile
from ovafs.units import SECTOR, align_up

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import ExitStack

    from ovafs.formats.qcow2.header import Header
    from ovafs.formats.vmdk.descriptor import DescriptorExtent

MAX_DEPTH = 200
"""Files in a chain; each costs a descriptor while the disk is open."""


class Link(NamedTuple):
    """One open image of a chain.

    Only a qcow2 image has a ``header``; it may have its data in a data file, which is in ``others`` then. A VMDK that
    is ``split`` (its createType and extents) has those of its extents there, by the names that it has for them.
    """

    file: SourceFile
    form: DiskFormat
    header: Header | None = None
    others: Mapping[str, SourceFile] = {}
    split: tuple[str, list[DescriptorExtent]] | None = None

    @property
    def virtual_size(self) -> int:
        """Guest bytes of a raw or qcow2 image, in whole sectors: QEMU rounds a raw file's size up, a header's down."""
        if self.header is None:
            return align_up(self.file.size, SECTOR)
        return self.header.virtual_size

    @property
    def is_encrypted(self) -> bool:
        """Whether a passphrase is needed."""
        return self.form == DiskFormat.LUKS or (self.header is not None and self.header.is_encrypted)

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """All that it consists of, its own file first."""
        return (self.file, *self.others.values())


class Links:
    """Opens the images of a chain from its top: which files, in which formats, and how.

    With ``is_live`` it does not matter that somebody writes to them meanwhile. With ``by_qemu`` it is QEMU that is to
    read them; else OnlyByQemu is raised for what only QEMU reads.
    """

    def __init__(self, undo: ExitStack, *, lock: bool = True, is_live: bool = False, by_qemu: bool = False) -> None:
        """``undo`` closes the files."""
        self._undo = undo
        self._lock = lock
        self._is_live = is_live
        self._by_qemu = by_qemu

    def open(self, path: str, form: DiskFormat, snapshot: str = "") -> list[Link]:
        """The image at ``path`` and all its backing files. Blocks.

        ``snapshot`` is the name of an internal one, of a qcow2 image: the disk as it was then.

        Raises ImageUnavailable, VolumeBusy, InvalidImage (also for a chain that leads back to itself),
        UnsupportedFeature, ReadFailed. An error in a backing file names the overlay too.
        """
        links: list[Link] = []
        next_path: str | None = path
        while next_path is not None:
            overlay = links[-1] if links else None
            try:
                link = self._open_link(next_path, overlay, form, "" if overlay else snapshot)
                _check_place(link, links)
            except ImageError as error:
                if overlay is not None:
                    error.summary += f" (backing file of {overlay.file.path})"
                raise
            links.append(link)
            next_path = named_path(link.file.path, link.header.backing_file) if link.header else None
        return links

    def _open_link(self, path: str, overlay: Link | None, form: DiskFormat, snapshot: str) -> Link:
        file = self._open_file(path)
        head = file.read(0, HEAD_SIZE)
        if overlay is not None and overlay.header is not None:
            form = backing_format(overlay.file.path, overlay.header, file, head)
        check_head(file, head, form)
        if form == DiskFormat.QCOW2:
            header = read_header(file, head, snapshot, by_qemu=self._by_qemu)
            data_path = named_path(path, header.data_file)
            if header.data_file is None or data_path is None:
                return Link(file, form, header)
            return Link(file, form, header, {header.data_file: self._open_part(data_path, "data file", file)})
        if snapshot:
            raise InvalidImage(file.path, f"has no snapshot {printable(snapshot)!r}: it is no qcow2 image")
        if form in NATIVE_FORMATS:
            return Link(file, form)
        if not self._by_qemu:
            raise OnlyByQemu(file.path, f"format {form}")
        if is_split(head, form):
            return self._open_split(file)
        check_image(file, form)
        return Link(file, form)

    def _open_split(self, file: SourceFile) -> Link:
        create_type, extents = read_split(file)
        others: dict[str, SourceFile] = {}
        for extent in extents:
            if extent.name not in others:
                # Beside the descriptor: the name has no slash. As for backing files, links are followed.
                path = os.path.join(os.path.dirname(file.path), extent.name)
                others[extent.name] = self._open_part(path, "extent", file)
            check_extent(others[extent.name], extent)
        return Link(file, DiskFormat.VMDK, None, others, (create_type, extents))

    def _open_part(self, path: str, what: str, image: SourceFile) -> SourceFile:
        try:
            return self._open_file(path)
        except ImageError as error:
            error.summary += f" ({what} of {image.path})"
            raise

    def _open_file(self, path: str) -> SourceFile:
        file = SourceFile(path, is_live=self._is_live)
        self._undo.callback(file.close)
        if self._lock:
            lock_for_reading(file)
        return file


def _check_place(link: Link, above: Sequence[Link]) -> None:
    if len(above) >= MAX_DEPTH:
        raise UnsupportedFeature(link.file.path, f"a chain of more than {MAX_DEPTH} files")
    inodes = {(file.device, file.identity.inode) for file in link.files}
    if len(inodes) < len(link.files) or any(
        (file.device, file.identity.inode) in inodes for one in above for file in one.files
    ):
        raise InvalidImage(link.file.path, "the chain of backing files leads back to this file")
