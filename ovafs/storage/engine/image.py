"""What is looked at in an image before QEMU gets it: that it is what it is recorded as, and whole in itself.

A VMDK can be a list of files, any of this host, and each format has images that are only the difference to another one,
which QEMU would open or, left without it, show as zeros. Such images are refused here, from their headers; but for
lists of files that lie beside the VMDK.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from ovafs.errors import InvalidImage, UnsupportedFeature
from ovafs.formats import vdi, vhd
from ovafs.formats.detect import HEAD_SIZE
from ovafs.formats.qcow2.header import MAGIC
from ovafs.formats.vmdk import descriptor as vmdk_descriptor
from ovafs.formats.vmdk import header as vmdk_header
from ovafs.model import DiskFormat
from ovafs.units import SECTOR

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovafs.formats.vmdk.descriptor import DescriptorExtent
    from ovafs.storage.source_file import SourceFile

# Magic, version, backing_file_offset; size of its name, time, size of the disk, cluster_bits, l2_bits; crypt_method
# (QEMU block/qcow.c, struct QCowHeader, big endian).
_QCOW = struct.Struct(">4sIQ4x4x8x4xI")
_VHDX_SIGNATURE = b"vhdxfile"
_LUKS_SIGNATURE = b"LUKS\xba\xbe"


def check_image(file: SourceFile, form: DiskFormat) -> None:
    """Raise InvalidImage or UnsupportedFeature unless ``file`` is an image of this format on its own. Blocks.

    Raises VolumeChanged and ReadFailed, too.
    """
    _CHECKS[form](file, file.read(0, HEAD_SIZE))
    file.check_unchanged()


def is_split(head: bytes, form: DiskFormat) -> bool:
    """Whether a file, from its first bytes, is the descriptor of a VMDK whose extents are files of their own."""
    return form == DiskFormat.VMDK and head.startswith(vmdk_descriptor.SIGNATURE.encode())


def read_split(file: SourceFile) -> tuple[str, list[DescriptorExtent]]:
    """``createType`` and extents of such a descriptor. Blocks; raises as :func:`check_image` does."""
    if file.size > vmdk_header.MAX_DESCRIPTOR:
        raise InvalidImage(file.path, f"a descriptor of {file.size} bytes")
    found = vmdk_descriptor.parse_extents(file.read(0, file.size), file.path)
    file.check_unchanged()
    return found


def check_extent(file: SourceFile, extent: DescriptorExtent) -> None:
    """Raise InvalidImage unless ``file`` can be what a descriptor says of it. Blocks.

    A sparse extent of no capacity would make QEMU look for a descriptor in it, and for the files that it names.
    """
    if extent.kind in vmdk_descriptor.FLAT_TYPES:
        if (extent.offset + extent.sectors) * SECTOR > file.size:
            raise InvalidImage(file.path, f"is shorter than an extent of {extent.sectors} sectors")
        return
    head = file.read(0, SECTOR)
    capacity = int.from_bytes(head[12:20], "little")
    if not head.startswith(vmdk_header.MAGIC) or capacity != extent.sectors:
        raise InvalidImage(file.path, f"is no sparse extent of {extent.sectors} sectors")


def _check_vmdk(file: SourceFile, head: bytes) -> None:
    header = vmdk_header.parse_header(head, file.path)
    text = file.read(header.descriptor_offset * SECTOR, header.descriptor_size * SECTOR)
    vmdk_descriptor.parse_descriptor(text, file.path)


def _check_vdi(file: SourceFile, head: bytes) -> None:
    vdi.parse_header(head.ljust(vdi.HEADER_SIZE, b"\0"), file.path)


def _check_vhdx(file: SourceFile, head: bytes) -> None:
    # QEMU refuses one with a parent by itself (block/vhdx.c, VHDX_PARAMS_HAS_PARENT), and knows no other files.
    if not head.startswith(_VHDX_SIGNATURE):
        raise InvalidImage(file.path, "is recorded as vhdx, but is not a VHDX image")


def _check_qcow(file: SourceFile, head: bytes) -> None:
    if len(head) < _QCOW.size:
        raise InvalidImage(file.path, "qcow header is cut off")
    magic, version, backing_offset, crypt_method = _QCOW.unpack_from(head)
    if magic != MAGIC or version != 1:
        raise InvalidImage(file.path, "is recorded as qcow, but is not a qcow image of version 1")
    if backing_offset:
        raise UnsupportedFeature(file.path, "qcow image with a backing file", "convert it with 'qemu-img convert'")
    if crypt_method:
        raise UnsupportedFeature(file.path, "encryption of a qcow image", "convert it with 'qemu-img convert'")


def _check_luks(file: SourceFile, head: bytes) -> None:
    if not head.startswith(_LUKS_SIGNATURE):
        raise InvalidImage(file.path, "is recorded as luks, but does not begin with a LUKS header")


def _check_vpc(file: SourceFile, head: bytes) -> None:
    if not head.startswith(vhd.COOKIE):  # a fixed one has its footer at the end only
        head = file.read(max(file.size - vhd.FOOTER_SIZE, 0), vhd.FOOTER_SIZE)
    vhd.parse_footer(head.ljust(vhd.FOOTER_SIZE, b"\0"), file.path)


_CHECKS: dict[DiskFormat, Callable[[SourceFile, bytes], None]] = {
    DiskFormat.QCOW: _check_qcow,
    DiskFormat.VMDK: _check_vmdk,
    DiskFormat.VDI: _check_vdi,
    DiskFormat.VHDX: _check_vhdx,
    DiskFormat.VPC: _check_vpc,
    DiskFormat.LUKS: _check_luks,
}
