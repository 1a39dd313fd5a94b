"""What the tree is made of: directories and machine files, with attributes as plain numbers."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, NamedTuple

from ovafs.transfer.description import DIALECT

if TYPE_CHECKING:
    from ovafs.inventory.inventory import Backup
    from ovafs.model import Machine, MachineKind
    from ovafs.transfer.description import Description

ROOT_INODE = 1
CONTROL_INODE = 5
STATUS_INODE = 6

# Entries of the drop directory have the numbers from 1024 on, as the catalog counts them, machines those behind.
FIRST_DROP_INODE = 1024
FIRST_MACHINE_INODE = 1 << 40


class Attributes(NamedTuple):
    """What ``stat`` shows of a node, without owner and mode (those are the mount's)."""

    inode: int
    size: int
    stored: int
    mtime_ns: int
    is_directory: bool


class Directory(NamedTuple):
    """A directory: the root, or the one of all machines of a kind."""

    inode: int
    name: bytes
    kind: MachineKind | None


class MachineFile:
    """One generation of a machine's .ova; its inode stands for these bytes and never for others."""

    __slots__ = ("backup", "description", "held_until", "inode", "is_current", "is_opening", "lookups", "machine")

    def __init__(self, inode: int, machine: Machine, description: Description) -> None:
        self.inode = inode
        self.machine = machine
        self.description = description
        self.lookups = 0  # references that the kernel holds
        self.is_current = False  # some name stands for it now
        self.is_opening = False  # a backup of the running machine begins
        self.backup: Backup | None = None
        self.held_until = 0.0  # as time.monotonic counts

    @property
    def is_held(self) -> bool:
        """Whether its name goes on to stand for it, since all readers share the backup of a running machine."""
        if self.backup is None:
            return self.is_opening
        return not self.backup.failure and time.monotonic() < self.held_until

    @property
    def attributes(self) -> Attributes:
        """The attributes of this generation: they never change."""
        known = self.description
        return Attributes(self.inode, known.size, known.stored, known.mtime_ns, is_directory=False)

    @property
    def xattrs(self) -> dict[bytes, bytes]:
        """Extended attributes, by name."""
        return {
            b"user.ovafs.id": self.machine.uuid.encode(),
            b"user.ovafs.generation": self.description.generation.encode(),
            b"user.ovafs.dialect": DIALECT.encode(),
        }


def machine_inode(source_id: str, machine: Machine, generation: str) -> int:
    """The inode number of a generation: the same after a restart and on every host, never reused for other bytes.

    63 bits (some tools read inode numbers as signed), above the fixed numbers of directories. Two of 10,000
    machines with 1,000 generations each collide with a probability below 1e-5.
    """
    text = f"{source_id}/{machine.uuid}/{DIALECT}/{generation}"
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
    inode = FIRST_DROP_INODE + number % ((1 << 63) - FIRST_DROP_INODE)
    return inode if inode >= FIRST_MACHINE_INODE else inode + (1 << 62)


def entry_cookie(uuid: str) -> int:
    """A directory entry's position: stable while others come and go, at least 3 (NFS treats 1 and 2 as special)."""
    return 3 + (int.from_bytes(hashlib.sha256(uuid.encode()).digest()[:8]) >> 2)
