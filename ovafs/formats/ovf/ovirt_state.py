"""State of the firmware and of the TPM as oVirt packs it: ``nvram.dat`` and ``tpm.dat``, two files of text.

=====================================  =========================================================================
form                                   who
=====================================  =========================================================================
base64                                 oVirt's tpm.dat: of a tar.xz of the directory that swtpm keeps
``=0=`` and base64 of bzip2            oVirt's nvram.dat: of the file with the firmware's variables
line breaks in it                      engines up to 4.4.4
``=`` lost at the end                  some engines
``{ value : "TEXT" }``                 engines from 4.5.4 up to 4.5.6
zeros behind it                        the padding of the tar member counted in
a volume of variables, not encoded     other producers: edk2's, by the ``_FVH`` at byte 40
=====================================  =========================================================================

What is kept is the text in the form that engines take: no wrapper, no line breaks, whole ``=``. It is decoded once to
see that it is whole, never encoded again: the same state is the same text for ever.
"""

from __future__ import annotations

import base64
import binascii
import bz2
import re
from typing import TYPE_CHECKING

from ovafs.errors import InvalidPackage

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_STATE = 2 << 20
"""Bytes of a state file; real ones have some kilobytes, and oVirt itself stops at 128 KiB (Linux's MAX_ARG_STRLEN)."""

MAX_VARIABLES = 64 << 20
"""Bytes that a state may inflate to: the largest flash of QEMU's machines."""

_WRAPPER = re.compile(r"\{\s*\"?value\"?\s*:\s*\"([^\"]*)\"\s*\}")
_BZIP2 = "=0="
_VOLUME_SIGNATURE = b"_FVH"
_VOLUME_SIGNATURE_AT = 40  # UEFI PI, volume 3, EFI_FIRMWARE_VOLUME_HEADER
_PIECE = 1 << 20


def read_state(data: bytes) -> bytes:
    """The text of a state file, ready for oVirt. Raises InvalidPackage when it is in none of the forms above."""
    if len(data) > MAX_STATE:
        raise InvalidPackage(f"has {len(data)} bytes, more than {MAX_STATE}")
    if data[_VOLUME_SIGNATURE_AT:].startswith(_VOLUME_SIGNATURE):
        return write_variables(data)
    try:
        text = data.rstrip(b"\0").decode("ascii").strip()
    except UnicodeDecodeError:
        raise InvalidPackage("is neither oVirt's text nor a volume of edk2's variables") from None
    wrapper = _WRAPPER.fullmatch(text)
    text = re.sub(r"\\n|\s+", "", wrapper[1] if wrapper else text)
    prefix = _BZIP2 if text.startswith(_BZIP2) else ""
    digits = text.removeprefix(prefix).rstrip("=")
    digits += "=" * (-len(digits) % 4)
    try:
        content = base64.b64decode(digits, validate=True)
    except binascii.Error as error:
        raise InvalidPackage(f"is not base64: {error}") from None
    if not content:
        raise InvalidPackage("is empty")
    if prefix:
        for _ in _inflate(content):
            pass
    return (prefix + digits).encode()


def write_variables(data: bytes) -> bytes:
    """The text of a file with the firmware's variables, whatever is in it."""
    return _BZIP2.encode() + base64.b64encode(bz2.compress(data))


def read_variables(text: bytes) -> bytes:
    """The file of which :func:`read_state` or :func:`write_variables` gave the text. Raises InvalidPackage."""
    prefix = _BZIP2.encode()
    try:
        content = base64.b64decode(text.removeprefix(prefix), validate=True)
    except binascii.Error as error:
        raise InvalidPackage(f"is not base64: {error}") from None
    return b"".join(_inflate(content)) if text.startswith(prefix) else content


def _inflate(content: bytes) -> Iterator[bytes]:
    """Piece by piece, no more than the largest flash."""
    decompressor = bz2.BZ2Decompressor()
    size = 0
    while not decompressor.eof:
        try:
            piece = decompressor.decompress(content, _PIECE)
        except OSError:
            raise InvalidPackage("is not bzip2 behind its base64") from None
        if not piece and decompressor.needs_input and not decompressor.eof:
            raise InvalidPackage("is cut off: its bzip2 does not end")
        content = b""
        size += len(piece)
        if size > MAX_VARIABLES:
            raise InvalidPackage(f"inflates to more than {MAX_VARIABLES} bytes")
        yield piece
