"""The mounts of ovafs on this host, dead or alive, as the kernel lists them (proc(5), /proc/PID/mounts)."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

_TABLE = "/proc/self/mounts"
_TYPE = b"fuse.ovafs"


class MountedSource(NamedTuple):
    """A mount: its mount point, and the source as the mount names it (in ASCII, see ``mount.run``)."""

    mountpoint: str
    source: str

    def is_named(self, what: str) -> bool:
        """Whether a user who says ``what`` means this mount: its mount point or its source."""
        # No stat of the mount point, and no link below it is followed: it may be dead.
        path = os.path.abspath(what)
        parent = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        source = os.path.abspath(what).encode("ascii", "backslashreplace").decode()
        return self.mountpoint in {path, parent} or self.source == source


def mounted_sources() -> list[MountedSource]:
    """In the order in which they were mounted."""
    with open(_TABLE, "rb") as table:
        fields = [line.split(b" ") for line in table]
    return [MountedSource(_unescape(line[1]), _unescape(line[0])) for line in fields if line[2] == _TYPE]


def _unescape(name: bytes) -> str:
    """The kernel writes blanks, tabs, line ends, backslashes and # in octal."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), name))
