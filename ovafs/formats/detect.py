r"""What kind of disk image, archive or compressed file some first bytes belong to.

| bytes | offset | format | source |
|---|---|---|---|
| ``QFI\xfb`` | 0 | qcow2 (version 1: qcow) | qcow2 spec, "Header" |
| ``KDMV``, ``COWD``, ``# Disk DescriptorFile`` | 0 | vmdk | VMware Virtual Disk Format 5.0 |
| ``0xbeda107f``, little endian | 0x40 | vdi | VirtualBox VDICore.h |
| ``vhdxfile`` | 0 | vhdx | MS-VHDX 2.2 |
| ``conectix`` | 0 | vhd (dynamic; a fixed one has it at the end only) | VHD 1.0 |
| ``LUKS\xba\xbe`` | 0 | luks | LUKS on-disk format 1.2.3, 2 |
| ``QED\0`` | 0 | qed | QEMU docs/interop/qed_spec |
| ``WithoutFreeSpace``, ``WithouFreSpacExt`` | 0 | parallels | QEMU docs/interop/parallels |
| ``ustar`` | 257 | tar (an .ova is one) | POSIX ustar |
| gzip, xz, zstd, bzip2, zip magics | 0 | gzip, xz, zstd, bzip2, zip | RFC 1952 and the projects' own |
"""

from __future__ import annotations

HEAD_SIZE = 1 << 16
"""Bytes that are always enough for :func:`detect_format`."""

_MAGICS = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vhd"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"QED\0", "qed"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (257, b"ustar", "tar"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"BZh", "bzip2"),
    (0, b"PK\x03\x04", "zip"),
)


def matching_formats(head: bytes) -> tuple[str, ...]:
    """Every format that the first bytes of a file announce: none, one, or several if somebody made it so."""
    return tuple(dict.fromkeys(name for offset, magic, name in _MAGICS if head.startswith(magic, offset)))


def detect_format(head: bytes) -> str:
    """The format that the first bytes of a file announce, or "raw" when they announce none.

    A guest writes what it likes into a raw disk, so an answer other than "raw" is a reason to ask, never a proof.
    """
    return next(iter(matching_formats(head)), "raw")
