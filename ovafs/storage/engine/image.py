"""What is looked at in an image before QEMU gets it: that it is what it is recorded as, and whole in itself.

A VMDK can be a list of any files of this host, and each format has images that are only the difference to another one,
which QEMU would open or, left without it, show as zeros. Such images are refused here, from their headers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovafs.errors import InvalidImage, UnsupportedFeature
from ovafs.formats import vdi, vhd
from ovafs.formats.detect import HEAD_SIZE
from ovafs.formats.vmdk import descriptor as vmdk_descriptor
from ovafs.formats.vmdk import header as vmdk_header
from ovafs.model import DiskFormat
from ovafs.units import SECTOR

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovafs.storage.source_file import SourceFile

_VHDX_SIGNATURE = b"vhdxfile"
_LUKS_SIGNATURE = b"LUKS\xba\xbe"


def check_image(file: SourceFile, form: DiskFormat) -> None:
    """Raise InvalidImage or UnsupportedFeature unless ``file`` is an image of this format on its own. Blocks.

    Raises VolumeChanged and ReadFailed, too.
    """
    _CHECKS[form](file, file.read(0, HEAD_SIZE))
    file.check_unchanged()


def _check_vmdk(file: SourceFile, head: bytes) -> None:
    if head.startswith(vmdk_descriptor.SIGNATURE.encode()):
        raise UnsupportedFeature(
            file.path, "VMDK whose descriptor is a file of its own", "convert it with 'qemu-img convert -O qcow2'"
        )
    header = vmdk_header.parse_header(head, file.path)
    text = file.read(header.descriptor_offset * SECTOR, header.descriptor_size * SECTOR)
    vmdk_descriptor.parse_descriptor(text, file.path)


def _check_vdi(file: SourceFile, head: bytes) -> None:
    vdi.parse_header(head.ljust(vdi.HEADER_SIZE, b"\0"), file.path)


def _check_vhdx(file: SourceFile, head: bytes) -> None:
    # QEMU refuses one with a parent by itself (block/vhdx.c, VHDX_PARAMS_HAS_PARENT), and knows no other files.
    if not head.startswith(_VHDX_SIGNATURE):
        raise InvalidImage(file.path, "is recorded as vhdx, but is not a VHDX image")


def _check_luks(file: SourceFile, head: bytes) -> None:
    if not head.startswith(_LUKS_SIGNATURE):
        raise InvalidImage(file.path, "is recorded as luks, but does not begin with a LUKS header")


def _check_vpc(file: SourceFile, head: bytes) -> None:
    if not head.startswith(vhd.COOKIE):  # a fixed one has its footer at the end only
        head = file.read(max(file.size - vhd.FOOTER_SIZE, 0), vhd.FOOTER_SIZE)
    vhd.parse_footer(head.ljust(vhd.FOOTER_SIZE, b"\0"), file.path)


_CHECKS: dict[DiskFormat, Callable[[SourceFile, bytes], None]] = {
    DiskFormat.VMDK: _check_vmdk,
    DiskFormat.VDI: _check_vdi,
    DiskFormat.VHDX: _check_vhdx,
    DiskFormat.VPC: _check_vpc,
    DiskFormat.LUKS: _check_luks,
}
