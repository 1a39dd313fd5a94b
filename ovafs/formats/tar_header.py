"""The header blocks of tar as other programs write them into OVAs: fields, names and pax records, all hostile.

| offset | length | field | what is accepted |
|---|---|---|---|
| 0 | 100 | name | UTF-8, ended by NUL; see :func:`member_name` |
| 124 | 12 | size | octal digits ended by NUL or blank, or base-256 (first byte 0x80) that is not negative |
| 148 | 8 | chksum | octal: the sum of all bytes, this field taken as blanks, bytes taken unsigned or signed |
| 156 | 1 | typeflag | see ``Kind`` and ``_REFUSED`` |
| 257 | 6 | magic | "ustar" NUL (POSIX: VirtualBox, bsdtar, Xen Orchestra) or "ustar" blank (GNU: oVirt, ovftool) |
| 345 | 155 | prefix | POSIX magic only: stands before the name, with a slash between them |

Mode, owner, times and link names are not looked at. Sources: POSIX.1-2017 pax, "ustar Interchange Format" and "pax
Header Block"; GNU tar manual, "Basic Tar Format" and "Extensions to the archive format".
"""

from __future__ import annotations

import enum
import re
import struct
from typing import NamedTuple

from ovafs.errors import InvalidPackage
from ovafs.formats.detect import detect_format

MAX_NAME = 1024
"""Longest name of a member in bytes; no part of it between slashes may be longer than 255."""

OCTAL_MAX = 8**11 - 1
"""The largest size that octal digits can say: 8 GiB - 1."""

_FIELDS = struct.Struct("100s 24x 12s 12x 8s c 100x 6s 82x 155s 12x")
_CHECKSUM = slice(148, 156)
_OCTAL = re.compile(rb" *([0-7]+)[ \0]*")
_FORBIDDEN = re.compile("[\0-\x1f\x7f-\x9f\\\\\u2028\u2029]")
_RECORD_LENGTH = re.compile(rb"([1-9][0-9]{0,8}) ")
_GZIP_HINT = "unpack the outer compression first, for example with 'gunzip'"


class Kind(enum.Enum):
    """What a header that can be taken stands before, by its typeflag."""

    FILE = b"0"
    FILE_V7 = b"\0"
    DIRECTORY = b"5"
    PAX = b"x"
    PAX_GLOBAL = b"g"
    LONG_NAME = b"L"


_REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"7": "a contiguous file",
    b"D": "a directory dump",
    b"K": "a long link name",
    b"M": "the continuation of another volume",
    b"N": "an old long name",
    b"S": "a sparse file",
    b"V": "a volume label",
}


class Header(NamedTuple):
    """A checked header block; ``name`` is raw, with the prefix before it; ``size`` in bytes is not negative."""

    kind: Kind
    name: bytes
    size: int


def is_header(block: bytes) -> bool:
    """Whether a block of 512 bytes has the magic and the checksum of a header."""
    *_, checksum, _, magic, _ = _FIELDS.unpack(block)
    return magic in {b"ustar\0", b"ustar "} and _sum_matches(block, checksum)


def parse_header(block: bytes, offset: int) -> Header:
    """The header in a block of 512 bytes that is not all zeros; ``offset`` is its place in the archive, for messages.

    Raises InvalidPackage when it is no header, or stands before something that ovafs refuses.
    """
    name, size, checksum, typeflag, magic, prefix = _FIELDS.unpack(block)
    if magic not in {b"ustar\0", b"ustar "} or not _sum_matches(block, checksum):
        raise _no_header(block, offset, has_magic=magic.startswith(b"ustar"))
    name, prefix = name.split(b"\0", 1)[0], prefix.split(b"\0", 1)[0]
    if prefix and magic == b"ustar\0":
        name = prefix + b"/" + name
    try:
        kind = Kind(typeflag)
    except ValueError:
        what = _REFUSED.get(typeflag, f"of the unknown type {typeflag!r}")
        raise InvalidPackage(f"is {what}; only files are taken", member=_shown(name), offset=offset) from None
    return Header(kind, name, _size(size, _shown(name), offset))


def _no_header(block: bytes, offset: int, *, has_magic: bool) -> InvalidPackage:
    if has_magic:
        return InvalidPackage("the checksum of a tar header is wrong: the archive is damaged", offset=offset)
    if offset == 0:
        found = detect_format(block)
        other = f"it is a {found} file" if found not in {"raw", "tar"} else "it has no tar header"
        hint = _GZIP_HINT if found in {"gzip", "xz", "zstd", "bzip2"} else ""
        return InvalidPackage(f"not an OVA: {other}", offset=offset, hint=hint)
    return InvalidPackage("no tar header where the next member should begin: the archive is damaged", offset=offset)


def _sum_matches(block: bytes, field: bytes) -> bool:
    match = _OCTAL.fullmatch(field)
    if match is None:
        return False
    expected = int(match[1], 8)
    rest = block[: _CHECKSUM.start] + b" " * 8 + block[_CHECKSUM.stop :]
    unsigned = sum(rest)
    # Some old writers added the bytes as signed numbers; every reader accepts both.
    return expected in {unsigned, unsigned - 256 * sum(byte >> 7 for byte in rest)}


def _size(field: bytes, name: str, offset: int) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] & 0x80:
        what = "negative" if field[0] == 0xFF else "beyond any limit"
        raise InvalidPackage(f"its size is {what}", member=name, offset=offset)
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise InvalidPackage(f"its size is no number: {field!r}", member=name, offset=offset)
    return int(match[1], 8)


def _shown(name: bytes) -> str:
    """A raw name for a message."""
    return name[:MAX_NAME].decode("utf-8", "backslashreplace")


def member_name(raw: bytes, offset: int) -> str:
    """The name of a member: UTF-8, relative, without ``./`` before it and without a slash behind it.

    "" is the archive's own folder (``./``). Raises InvalidPackage for names that are absolute, that hold empty parts,
    ``.``, ``..``, backslashes or control characters, and for those that are too long.
    """
    reason = ""
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidPackage("its name is not UTF-8", member=_shown(raw), offset=offset) from None
    if _FORBIDDEN.search(name):
        reason = "its name holds a control character or a backslash"
    elif name.startswith("/"):
        reason = "its name is absolute"
    elif len(raw) > MAX_NAME or any(len(part.encode()) > 255 for part in name.split("/")):
        reason = "its name is too long"
    else:
        while name.startswith("./"):
            name = name[2:]
        name = name.removesuffix("/")
        if name and not {"", ".", ".."}.isdisjoint(name.split("/")):
            reason = "its name holds an empty part, '.' or '..'"
    if reason:
        raise InvalidPackage(reason, member=_shown(raw), offset=offset)
    return name


def parse_pax(payload: bytes, offset: int) -> dict[str, bytes]:
    """The records ``LENGTH KEY=VALUE LF`` of a pax header, by key.

    Raises InvalidPackage when a record is malformed or a key stands twice: readers differ in which one counts.
    """
    records: dict[str, bytes] = {}
    position = 0
    while position < len(payload):
        match = _RECORD_LENGTH.match(payload, position)
        end = position + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(payload) or payload[end - 1 : end] != b"\n":
            raise InvalidPackage("a pax header is malformed", offset=offset)
        key, separator, value = payload[match.end() : end - 1].partition(b"=")
        name = key.decode("utf-8", "backslashreplace")
        if not separator or not key or name in records:
            raise InvalidPackage(f"the pax record {name[:100]!r} is malformed or stands twice", offset=offset)
        records[name] = value
        position = end
    return records


def check_pax_keys(records: dict[str, bytes], kind: Kind, offset: int) -> None:
    """Raise InvalidPackage for records that ovafs refuses: sparse members, and global ones that are no comment."""
    sparse = next((key for key in records if key.startswith("GNU.sparse.") or key == "SCHILY.realsize"), None)
    if sparse is not None:
        raise InvalidPackage(f"a sparse member (pax record {sparse!r})", offset=offset, hint=_SPARSE_HINT)
    other = next((key for key in records if key != "comment"), None)
    if kind is Kind.PAX_GLOBAL and other is not None:
        raise InvalidPackage(f"a pax header that sets {other[:100]!r} for all members", offset=offset)


_SPARSE_HINT = "make the archive again without the option for sparse files ('tar -S', 'bsdtar --read-sparse')"


def pax_size(value: bytes, header: Header, offset: int) -> int:
    """The size that a pax record gives to the member of ``header``.

    It counts only where the header cannot say it: from 8 GiB on, where GNU tar and Python write 0 there and others
    the largest number. Anything else would let two readers see two archives. Raises InvalidPackage for that.
    """
    size = int(value) if re.fullmatch(rb"[0-9]{1,20}", value) else -1
    if size == header.size or (size > OCTAL_MAX and header.size in {0, OCTAL_MAX}):
        return size
    text = value[:40].decode("ascii", "backslashreplace")
    reason = f"its pax header says {text!r} bytes, its own header {header.size}"
    raise InvalidPackage(reason, member=_shown(header.name), offset=offset)
