"""What the drop directory is made of: directories, uploads and their receipts, reports."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ovafs.vfs.drop.upload import State
from ovafs.vfs.nodes import FIRST_DROP_INODE, FIRST_MACHINE_INODE

if TYPE_CHECKING:
    from ovafs.vfs.drop.chosen import UploadChoices
    from ovafs.vfs.drop.upload import Upload

DROP_INODE = 4
DROP_NAME = b"drop"

# Where packages are only checked. Not listed, so that what mirrors or walks the drop directory leaves it alone. The
# number is the first one of the range: the catalog counts from 1 on.
CHECK_INODE = FIRST_DROP_INODE
CHECK_NAME = b".check"

# The number of an upload's report, behind its own: the catalog does not count so far.
REPORT_OFFSET = 1 << 39


@dataclass
class Status:
    """What ``stat`` shows and ``chmod``, ``chown`` and ``touch`` change; permission bits only."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int = field(default_factory=time.time_ns)


@dataclass(eq=False)
class DropDirectory:
    """The drop directory, or a temporary directory in it."""

    inode: int
    name: bytes
    parent: DropDirectory | None
    status: Status
    children: dict[bytes, DropEntry] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """As of any directory here."""
        return 4096


@dataclass(eq=False)
class DropFile:
    """An upload; or, without one, the receipt of an upload that was imported."""

    inode: int
    name: bytes
    parent: DropDirectory
    status: Status
    upload: Upload | None = None
    choices: UploadChoices | None = None  # of the upload
    receipt_size: int = 0
    handles: set[int] = field(default_factory=set)
    writers: set[int] = field(default_factory=set)  # those of them that may write
    busy: set[int] = field(default_factory=set)  # handles that wrote, or may write, since they were last flushed

    @property
    def is_imported(self) -> bool:
        """Whether it is a receipt by now."""
        return self.upload is None or self.upload.state is State.COMMITTED

    @property
    def size(self) -> int:
        """In bytes."""
        return self.receipt_size if self.upload is None else self.upload.size


@dataclass(eq=False)
class ChoicesFile:
    """Choices for an upload, as TOML; or what is on its way to that."""

    inode: int
    name: bytes
    parent: DropDirectory
    status: Status
    text: bytes = b""
    handles: set[int] = field(default_factory=set)
    writers: set[int] = field(default_factory=set)

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.text)

    def set_text(self, text: bytes) -> None:
        """Put ``text`` in the place of what was there."""
        self.text = text
        self.status.mtime_ns = time.time_ns()


@dataclass(eq=False)
class Report:
    """Text by ovafs about an upload."""

    inode: int
    name: bytes
    parent: DropDirectory
    status: Status
    text: bytes
    reason: str
    is_of_failure: bool
    written: float = field(default_factory=time.monotonic)

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.text)


DropEntry = DropDirectory | DropFile | ChoicesFile | Report


def area_of(directory: DropDirectory) -> DropDirectory:
    """The directory where files get their final names: the one that ``directory`` is, or is somewhere in."""
    while directory.parent is not None and directory.inode != CHECK_INODE:
        directory = directory.parent
    return directory


def is_check(entry: DropFile | ChoicesFile) -> bool:
    """Whether the file lies where packages are only checked."""
    return area_of(entry.parent).inode == CHECK_INODE


def is_drop_inode(inode: int) -> bool:
    """Whether the number is one of the drop directory or of something in it."""
    return inode == DROP_INODE or FIRST_DROP_INODE <= inode < FIRST_MACHINE_INODE
