"""What is kept of finished uploads across restarts: their names, sizes and times, in the destination's catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovafs.inventory.receipts import Receipt
from ovafs.vfs.drop.entries import is_check
from ovafs.vfs.drop.tree import is_placed
from ovafs.vfs.nodes import FIRST_DROP_INODE

if TYPE_CHECKING:
    from ovafs.inventory.destination import Destination
    from ovafs.vfs.drop.entries import DropDirectory, DropFile
    from ovafs.vfs.threads import Threads


class ReceiptKeeper:
    """Keeps the receipts of one drop directory, whose first directory is ``root``; used from its event loop only."""

    def __init__(self, destination: Destination, threads: Threads, root: DropDirectory) -> None:
        self._destination = destination
        self._threads = threads
        self._root = root

    def of(self, file: DropFile, name: bytes) -> Receipt | None:
        """What to keep of a file that is imported under this final name; None of what leaves nothing behind."""
        if not is_placed(file) or is_check(file):
            return None
        known, number = file.status, file.inode - FIRST_DROP_INODE
        return Receipt(number, name, file.size, known.mtime_ns, known.mode, known.uid, known.gid)

    async def keep(self, file: DropFile) -> None:
        """Remember how an imported file is now; of one that has no final name any more, nothing."""
        if not file.is_imported or not is_placed(file) or is_check(file):
            return
        receipt = self.of(file, file.name)
        if file.parent is not self._root or receipt is None:
            await self.forget(file)
        else:
            await self._threads.answer(None, "the drop directory's pool", self._destination.keep_receipt, receipt)

    async def forget(self, file: DropFile) -> None:
        """Forget the file's receipt; whether there is one does not matter."""
        number = file.inode - FIRST_DROP_INODE
        await self._threads.answer(None, "the drop directory's pool", self._destination.forget_receipt, number)
