"""Which format a file is opened as, and where a backing file lies.

A guest can write anything into a raw disk, also a qcow2 header that names /etc/shadow as its backing file; opened as
qcow2, that disk would show the file to the guest's owner. So a format is recorded, never guessed again, and where
nothing is recorded only a guess is made that cannot lead to another file (:func:`choose_format`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ovafs.errors import InvalidImage, UnsupportedFeature
from ovafs.formats.detect import HEAD_SIZE, detect_format
from ovafs.model import DiskFormat
from ovafs.storage.qcow2 import read_header
from ovafs.storage.source_file import SourceFile

if TYPE_CHECKING:
    from ovafs.formats.qcow2.header import Header

_QCOW2_NAMES = (".qcow2", ".qcow")

# Whoever gave such a name meant no raw disk: the file was cut off, or keeps its header at its end (a fixed VHD).
_NOT_RAW_NAMES = (*_QCOW2_NAMES, ".qed", ".vdi", ".vhd", ".vhdx", ".vmdk")


def choose_format(path: str, requested: DiskFormat | None) -> DiskFormat:
    """The format to record for the image at ``path``: what the user asked for, or a safe guess. Blocks.

    Raises ImageUnavailable; UnsupportedFeature when the file is of another format, or when guessing is not safe;
    what reading a header raises when the file looks like qcow2.
    """
    file = SourceFile(path)
    try:
        head = file.read(0, HEAD_SIZE)
        if requested is not None:
            return requested
        return guess_format(file, head, f"say which it is: add format= with {', '.join(DiskFormat)}")
    finally:
        file.close()


def guess_format(file: SourceFile, head: bytes, hint: str) -> DiskFormat:
    """The format of a file for which none is recorded; ``hint`` says how to record one.

    No known magic: raw, unless the file's name is that of another format. qcow2 without a reference to another file:
    qcow2. qcow2 with a backing file: qcow2 only if the file's name says so too, which a guest cannot bring about.
    Everything else is refused.
    """
    found = detect_format(head)
    if found == "raw":
        _, suffix = os.path.splitext(file.path)
        if suffix.lower() in _NOT_RAW_NAMES:
            raise UnsupportedFeature(
                file.path, f"guessing the format of a file that is named {suffix} and does not begin as such", hint
            )
        return DiskFormat.RAW
    if found != "qcow2":
        raise UnsupportedFeature(file.path, f"format {found} (by its first bytes)", hint)
    header = read_header(file, head, by_qemu=True)
    names_no_other = header.backing_file is None and header.data_file is None
    if names_no_other or file.path.endswith(_QCOW2_NAMES):
        return DiskFormat.QCOW2
    raise UnsupportedFeature(
        file.path,
        "guessing the format of a file that begins as a qcow2 image with another file, which a guest could have "
        "written into its raw disk",
        hint,
    )


def named_path(image: str, name: str | None) -> str | None:
    """The path of a file that ``image`` names, None if it names none. A relative name starts at the image's directory.

    Raises UnsupportedFeature for a name with a protocol (``json:``, ``nbd:`` ...) other than ``file:``.
    """
    if name is None:
        return None
    # As in QEMU (path_has_protocol): a colon before the first slash ends a protocol's name.
    protocol, colon, rest = name.partition(":")
    if not colon or "/" in protocol:
        return os.path.join(os.path.dirname(image), name)
    if protocol != "file":
        raise UnsupportedFeature(image, f"a file that it names by the protocol {protocol!r}")
    if not rest.startswith("/"):
        # QEMU resolves it against the directory in which QEMU was started.
        raise UnsupportedFeature(image, f"relative file name {name!r}", _rebase_hint(image))
    return rest


def backing_format(overlay: str, header: Header, backing: SourceFile, head: bytes) -> DiskFormat:
    """The backing file's format: what the overlay records, or a safe guess (:func:`guess_format`)."""
    recorded = header.backing_format
    if recorded is None:
        return guess_format(backing, head, f"record its format: {_rebase_hint(overlay)}")
    try:
        return DiskFormat(recorded)
    except ValueError:
        raise UnsupportedFeature(backing.path, f"format {recorded}", _rebase_hint(overlay)) from None


def check_head(file: SourceFile, head: bytes, form: DiskFormat) -> None:
    """Raise InvalidImage if a file recorded as qcow2 is none. A raw disk may begin with anything."""
    if form == DiskFormat.QCOW2 and detect_format(head) != "qcow2":
        raise InvalidImage(file.path, "is recorded as qcow2, but is not a qcow2 image")


def _rebase_hint(overlay: str) -> str:
    return f"qemu-img rebase -u -F FORMAT -b BACKING {overlay}"
