"""The names in the drop directory, and what they stand for. Every change is one step, without an ``await``."""

from __future__ import annotations

import dataclasses
import time

from ovafs.errors import MachineNotFound, NameRefused, NameTaken, NotEmpty, StaleHandle
from ovafs.vfs.drop import names
from ovafs.vfs.drop.entries import (
    CHECK_INODE,
    CHECK_NAME,
    DROP_INODE,
    DROP_NAME,
    ChoicesFile,
    DropDirectory,
    DropEntry,
    DropFile,
    Status,
)


class DropTree:
    """Entries by inode and by name. An open file that was taken out keeps its inode until it is closed."""

    def __init__(self, status: Status) -> None:
        """``status`` is that of the drop directory."""
        self.root = DropDirectory(DROP_INODE, DROP_NAME, None, status)
        self.check = DropDirectory(CHECK_INODE, CHECK_NAME, self.root, dataclasses.replace(status))
        self.entries: dict[int, DropEntry] = {DROP_INODE: self.root, CHECK_INODE: self.check}

    def entry(self, inode: int) -> DropEntry:
        """The entry with this number. Raises StaleHandle."""
        found = self.entries.get(inode)
        if found is None:
            raise StaleHandle(f"inode {inode} of the drop directory is gone")
        return found

    def directory(self, inode: int) -> DropDirectory:
        """The directory with this number. Raises StaleHandle, NameRefused."""
        found = self.entry(inode)
        if not isinstance(found, DropDirectory):
            raise NameRefused(f"drop/{names.show(found.name)} is not a directory")
        return found

    def lookup(self, parent: int, name: bytes) -> DropEntry:
        """The entry under a name. Raises MachineNotFound."""
        if name == b".":
            return self.entry(parent)
        if parent == DROP_INODE and name == CHECK_NAME:
            return self.check
        found = self.directory(parent).children.get(name)
        if found is None:
            raise MachineNotFound(f"drop: no entry {name!r}")
        return found

    def files(self) -> list[DropFile]:
        """Every upload and receipt that has a name."""
        return [entry for entry in self.entries.values() if isinstance(entry, DropFile) and is_placed(entry)]

    def remove_directory(self, parent: int, name: bytes) -> None:
        """Remove an empty directory. Raises NotEmpty, MachineNotFound, NameRefused."""
        found = self.lookup(parent, name)
        if not isinstance(found, DropDirectory):
            raise NameRefused(f"drop/{names.show(name)} is not a directory")
        if found is self.check:
            raise NameRefused("drop/.check/ always stays")
        if found.children:
            raise NotEmpty(f"drop/{names.show(name)}/ has entries")
        self.unplace(found)

    def check_free(self, directory: DropDirectory, name: bytes) -> None:
        """Raise NameTaken, or StaleHandle for a directory that is gone."""
        if name in directory.children or (directory is self.root and name == CHECK_NAME):
            raise NameTaken(f"drop/{names.show(name)} exists")
        if self.entries.get(directory.inode) is not directory:
            raise StaleHandle(f"drop/{names.show(directory.name)}/ was removed")

    def place(self, entry: DropEntry) -> None:
        """Put an entry where its parent and its name say; what was there must have been taken out."""
        if entry.parent is None:
            raise ValueError("the drop directory itself has its place")
        entry.parent.children[entry.name] = entry
        entry.parent.status.mtime_ns = time.time_ns()
        self.entries[entry.inode] = entry

    def unplace(self, entry: DropEntry) -> None:
        """Take an entry out; open handles keep it."""
        if entry.parent is not None and entry.parent.children.get(entry.name) is entry:
            del entry.parent.children[entry.name]
            entry.parent.status.mtime_ns = time.time_ns()
        if not isinstance(entry, (DropFile, ChoicesFile)) or not entry.handles:
            self.entries.pop(entry.inode, None)


def is_placed(entry: DropFile | ChoicesFile) -> bool:
    """Whether the file has a name."""
    return entry.parent.children.get(entry.name) is entry
