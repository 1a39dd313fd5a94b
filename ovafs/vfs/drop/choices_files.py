"""Files ``NAME.ova.toml`` in the drop directory: written, read, renamed and judged. They are in memory only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovafs.errors import InvalidChoices, NoSpace
from ovafs.transfer.ingest.choices_file import MAX_SIZE
from ovafs.vfs.drop.chosen import parse
from ovafs.vfs.drop.entries import ChoicesFile, area_of
from ovafs.vfs.drop.names import is_final_choices, show
from ovafs.vfs.drop.tree import is_placed

if TYPE_CHECKING:
    from ovafs.transfer.ingest.choices import ImportChoices
    from ovafs.vfs.drop.entries import DropDirectory, Status
    from ovafs.vfs.drop.reporter import Reporter
    from ovafs.vfs.drop.tree import DropTree
    from ovafs.vfs.threads import Threads

_MOST_FILES = 256


class ChoicesFiles:
    """Those of one drop directory; used from its event loop only."""

    def __init__(self, tree: DropTree, threads: Threads, reporter: Reporter, defaults: ImportChoices) -> None:
        """``defaults`` are what a file need not say."""
        self._tree = tree
        self._threads = threads
        self._reporter = reporter
        self._defaults = defaults

    def create(self, inode: int, name: bytes, directory: DropDirectory, status: Status) -> ChoicesFile:
        """A new, empty file. Raises NoSpace if there are too many."""
        if sum(isinstance(entry, ChoicesFile) for entry in self._tree.entries.values()) >= _MOST_FILES:
            raise NoSpace(f"there are {_MOST_FILES} files with choices already", "remove those that no upload follows")
        file = ChoicesFile(inode, name, directory, status)
        self._tree.place(file)
        return file

    async def rename(self, file: ChoicesFile, target: DropDirectory, new_name: bytes) -> None:
        """Give a file another name. Raises InvalidChoices, with nothing renamed, if it counts then and is wrong."""
        await self._check(file, target, new_name)
        if (replaced := target.children.get(new_name)) is not None:
            self._tree.unplace(replaced)
        file.parent.children.pop(file.name, None)
        file.name, file.parent = new_name, target
        self._tree.place(file)

    def remove(self, file: ChoicesFile) -> None:
        """Take a file out, and what was said about it."""
        self._tree.unplace(file)
        self._reporter.choices_checked(file, file.name, None)

    def open(self, file: ChoicesFile, handle: int, *, writes: bool) -> None:
        """A handle of the file."""
        file.handles.add(handle)
        if writes:
            file.writers.add(handle)

    def write(self, file: ChoicesFile, offset: int, data: bytes) -> None:
        """Take bytes at an offset. Raises InvalidChoices beyond the limit; the file cannot be used then."""
        self._check_size(file, offset + len(data))
        text = file.text.ljust(offset, b"\0")
        file.set_text(text[:offset] + data + text[offset + len(data) :])

    def resize(self, file: ChoicesFile, size: int) -> None:
        """Cut off the end, or add zeros. Raises as :meth:`write`."""
        self._check_size(file, size)
        file.set_text(file.text[:size].ljust(size, b"\0"))

    async def close(self, file: ChoicesFile, handle: int) -> None:
        """The file is closed, or synced: raise InvalidChoices to whoever wrote what is wrong."""
        if handle in file.writers:
            await self._check(file, file.parent, file.name)

    def release(self, file: ChoicesFile, handle: int) -> None:
        """The handle is gone."""
        file.handles.discard(handle)
        file.writers.discard(handle)
        if not file.handles and not is_placed(file):
            self._tree.entries.pop(file.inode, None)

    async def _check(self, file: ChoicesFile, directory: DropDirectory, name: bytes) -> None:
        """Judge a file by the name that it has, or is going to have; say so in a report and in the log."""
        if directory is not area_of(directory) or not is_final_choices(name):
            return
        try:
            await self._threads.answer(None, "the choices", parse, name, file.text, self._defaults)
        except InvalidChoices as error:
            self._reporter.choices_checked(file, name, error)
            raise
        self._reporter.choices_checked(file, name, None)

    def _check_size(self, file: ChoicesFile, size: int) -> None:
        if size <= MAX_SIZE:
            return
        file.set_text(bytes(MAX_SIZE + 1))  # a part of the choices is as good as other ones
        error = InvalidChoices(f"drop/{show(file.name)}: longer than {MAX_SIZE} bytes, too long for choices")
        self._reporter.choices_checked(file, file.name, error)
        raise error
