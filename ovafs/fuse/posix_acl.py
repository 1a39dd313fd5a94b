"""Access control lists as tools hand them over: the attribute ``system.posix_acl_access``.

| bytes | content |
|---|---|
| 0-3 | version, 2 |
| 8 each | entry: tag (2), permissions (2: read 4, write 2, search 1), number of a user or group (4) |

| tag | whose permissions |
|---|---|
| 0x01, 0x04, 0x20 | the owner's, the owning group's, those of others |
| 0x02, 0x08 | one user's, one group's |
| 0x10 | the mask: what a group, and whoever is named, has at most |

Little endian. Source: Linux, include/uapi/linux/posix_acl_xattr.h. ``cp -p`` and ``install`` (coreutils 9.1) set the
mode of a file in no other way.
"""

from __future__ import annotations

import struct

ACCESS = b"system.posix_acl_access"

_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_VERSION = 2
_OWNER, _GROUP, _MASK, _OTHERS = 0x01, 0x04, 0x10, 0x20
_ALL = 0o7


def mode_of_acl(value: bytes) -> int:
    """The permission bits that the list has for owner, group and others. Raises ValueError if it is none.

    Who is named in it gets nothing; the group gets what the mask leaves, never more than its own entry.
    """
    if len(value) < _HEADER.size or _HEADER.unpack_from(value)[0] != _VERSION:
        raise ValueError("not a list of version 2")
    if (len(value) - _HEADER.size) % _ENTRY.size:
        raise ValueError("not whole entries")
    permissions: dict[int, int] = {tag: bits & _ALL for tag, bits, _ in _ENTRY.iter_unpack(value[_HEADER.size :])}
    if not {_OWNER, _GROUP, _OTHERS} <= permissions.keys():
        raise ValueError("no entry for owner, group or others")
    group = permissions[_GROUP] & permissions.get(_MASK, _ALL)
    return permissions[_OWNER] << 6 | group << 3 | permissions[_OTHERS]
