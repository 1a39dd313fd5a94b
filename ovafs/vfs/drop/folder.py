"""The drop directory: its names, and what becomes of them. Knows no FUSE.

Concurrency: runs on one trio loop. Names change in one step, without an ``await``. What blocks runs in a thread, one
at a time for an upload; whoever waits for it is bounded by ``LONGEST_CALL``.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from ovafs.errors import (
    IncompletePackage,
    NameRefused,
    NameTaken,
    OvafsError,
    StaleHandle,
    UploadBusy,
    WrittenTwice,
)
from ovafs.transfer.adapt.adapter import LONGEST_CONVERSION, Adapter
from ovafs.transfer.ingest.landing import PoolLanding
from ovafs.transfer.ingest.package import PackageImport
from ovafs.transfer.ingest.spool import Spool
from ovafs.vfs.drop import names
from ovafs.vfs.drop.adaptations import Adaptations
from ovafs.vfs.drop.choices_files import ChoicesFiles
from ovafs.vfs.drop.chosen import UploadChoices
from ovafs.vfs.drop.entries import (
    CHECK_NAME,
    ChoicesFile,
    DropDirectory,
    DropEntry,
    DropFile,
    Report,
    Status,
    area_of,
    is_check,
)
from ovafs.vfs.drop.reader import Reader
from ovafs.vfs.drop.receipt_keeper import ReceiptKeeper
from ovafs.vfs.drop.reporter import Reporter
from ovafs.vfs.drop.tree import DropTree, is_placed
from ovafs.vfs.drop.upload import Occasion, State, Upload
from ovafs.vfs.nodes import FIRST_DROP_INODE
from ovafs.vfs.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ovafs.inventory.destination import Destination
    from ovafs.inventory.receipts import Receipt
    from ovafs.transfer.ingest.choices import ImportChoices

log = logging.getLogger(__name__)

T = TypeVar("T")

# A commit waits until large volumes are on stable storage.
LONGEST_CALL = 600.0

# How long what nobody continues is kept, in seconds.
KEEP_SECONDS = 24 * 3600.0


class DropFolder(DropTree):
    """The drop directory of one mount, with one destination."""

    def __init__(
        self,
        destination: Destination,
        choices: ImportChoices,
        status: Status,
        spool_limit: int,
        keep: float = KEEP_SECONDS,
        adapt_limit: float = LONGEST_CONVERSION,
    ) -> None:
        """Blocks: removes what a crash left.

        ``spool_limit``: bytes of one upload that may wait behind a gap. ``keep``: seconds that an upload which
        nobody continues is kept. ``adapt_limit``: seconds for the adaptation of one guest.
        """
        super().__init__(status)
        self.keep = keep
        self._destination = destination
        self._choices = choices
        self.spool_limit = spool_limit
        self._commit_lock = threading.Lock()
        self._threads = Threads(LONGEST_CALL)
        self._reader = Reader(destination, self._threads)
        self._receipts = ReceiptKeeper(destination, self._threads, self.root)
        self.reporter = Reporter(self.place, self.unplace, keep)
        self.choices = ChoicesFiles(self, self._threads, self.reporter, choices)
        PoolLanding(destination).close()
        for receipt in destination.receipts():
            number, name, size, mtime_ns, mode, uid, gid = receipt
            kept = Status(mode, uid, gid, mtime_ns)
            self.place(DropFile(FIRST_DROP_INODE + number, name, self.root, kept, receipt_size=size))
        adapter = Adapter(destination, adapt_limit)
        self.adaptations = Adaptations(destination, adapter, self.reporter, self.entries, choices.adapt)

    def close(self) -> None:
        """Take away every upload that was not committed."""
        self._reader.close()
        for entry in self.entries.values():
            if isinstance(entry, DropFile) and entry.upload is not None:
                entry.upload.discard()

    # -- names

    async def create(self, parent: int, name: bytes, status: Status) -> DropFile | ChoicesFile:
        """A new, empty upload, or file for choices. Raises NameRefused, NameTaken, NoSpace."""
        directory = self.directory(parent)
        _check(names.check_file_name, name)
        inode = await self._new_inode()
        self.check_free(directory, name)
        if names.is_choices(name):
            return self.choices.create(inode, name, directory, status)
        file = DropFile(inode, name, directory, status)
        self._begin_upload(file)
        self.place(file)
        return file

    async def make_directory(self, parent: int, name: bytes, status: Status) -> DropDirectory:
        """A temporary directory. Raises NameRefused, NameTaken."""
        directory = self.directory(parent)
        _check(names.check_directory_name, name)
        inode = await self._new_inode()
        self.check_free(directory, name)
        made = DropDirectory(inode, name, directory, status)
        self.place(made)
        return made

    async def unlink(self, parent: int, name: bytes) -> None:
        """Remove a file: of an upload everything that was not committed, of a receipt the receipt alone."""
        found = self.lookup(parent, name)
        if isinstance(found, DropDirectory):
            raise NameRefused(f"drop/{names.show(name)} is a directory")
        await self._remove(found)

    async def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, *, may_replace: bool) -> None:
        """Give a file another name; if that is a final one and the content is complete, import it first.

        An incomplete upload gets its name and stays incomplete. Raises NameTaken, NameRefused, and why the import
        failed: then nothing is renamed, and what had the new name is still there.
        """
        file, target = self.lookup(parent, name), self.directory(new_parent)
        if not isinstance(file, (DropFile, ChoicesFile)):
            raise NameRefused(f"drop/{names.show(name)}: only uploads and choices can be renamed")
        _check(names.check_file_name, new_name)
        replaced = target.children.get(new_name)
        if replaced is file:
            return
        if replaced is not None and not may_replace:
            raise NameTaken(f"drop/{names.show(new_name)} exists")
        self._check_rename(file, target, new_name)
        if replaced is not None:
            self.adaptations.check_free(replaced)
        if isinstance(file, ChoicesFile):
            await self.choices.rename(file, target, new_name)
            return
        if target is area_of(target) and names.is_final(new_name):
            with contextlib.suppress(IncompletePackage):
                await self.try_commit(file, new_name, Occasion.CLOSE)
        if (current := target.children.get(new_name)) is not None and isinstance(current, DropFile):
            await self._remove(current)
        if not is_placed(file):
            raise StaleHandle(f"drop/{names.show(name)} was removed")
        file.parent.children.pop(file.name, None)
        file.name, file.parent = new_name, target
        self.place(file)
        await self._receipts.keep(file)

    def _check_rename(self, file: DropFile | ChoicesFile, target: DropDirectory, new_name: bytes) -> None:
        if names.is_choices(new_name) != isinstance(file, ChoicesFile):
            raise NameRefused(f"drop/{names.show(file.name)} cannot become {names.show(new_name)}", "copy it there")
        if area_of(file.parent) is not area_of(target):
            raise NameRefused("what is in drop/.check/ is not imported, and nothing else is checked", "copy it there")
        is_check_directory = target is self.root and new_name == CHECK_NAME
        if isinstance(target.children.get(new_name), (DropDirectory, Report)) or is_check_directory:
            raise NameRefused(f"drop/{names.show(new_name)} cannot be replaced")

    # -- content

    def open(self, file: DropFile, handle: int, *, writes: bool) -> None:
        """A handle of the file. Raises UploadBusy when another one is writing."""
        if writes:
            self._check_idle(file, handle)
            file.busy.add(handle)
            file.writers.add(handle)
        file.handles.add(handle)

    async def truncate(self, file: DropFile, handle: int | None) -> None:
        """Begin again, with an empty upload; what was imported from this file before stays."""
        if file.upload is not None and file.upload.is_empty and file.upload.state is State.OPEN:
            file.upload.set_size(0)
            return
        self._check_idle(file, handle)
        await self.adaptations.let_go(file)
        before = file.upload
        self._begin_upload(file)
        self._reader.forget(file)
        file.status.mtime_ns = time.time_ns()
        if before is not None:
            await self._run(before, before.discard)
        await self._receipts.forget(file)

    async def resize(self, file: DropFile, size: int, handle: int | None) -> None:
        """ftruncate(2). Raises WrittenTwice."""
        if size == 0:
            await self.truncate(file, handle)
        elif file.upload is not None:
            await self._run(file.upload, file.upload.set_size, size)
        elif size != file.receipt_size:
            await self.truncate(file, handle)
            await self.resize(file, size, handle)

    async def read(self, file: DropFile, offset: int, length: int) -> bytes:
        """Exactly what was written, fewer bytes than asked only at the end. Raises as :meth:`Reader.read`."""
        return await self._reader.read(file, offset, length)

    async def write(self, file: DropFile, handle: int, offset: int, data: bytes) -> None:
        """Take bytes; the import has them when this returns."""
        known = await self._count_repeated(file, offset, data)
        if known and known == len(data):
            return
        offset, data = offset + known, data[known:]
        upload = file.upload
        if upload is None:
            raise WrittenTwice("the package was imported")
        self._check_idle(file, handle)
        file.busy.add(handle)
        try:
            await self._run(upload, upload.write, offset, data)
        except OvafsError as error:
            if not file.is_imported:
                self.report_failure(file, upload, error)
            raise
        file.status.mtime_ns = time.time_ns()
        await self._receipts.keep(file)  # padding may still come behind a package that was imported

    async def flush(self, file: DropFile, handle: int) -> None:
        """close(2): commit what is complete under a final name. Raises why it is not, if anything was written.

        Who has only read is not told: cmp and rsync look at what is there, and would take it for an error of reading.
        """
        file.busy.discard(handle)
        if handle in file.writers:
            await self.try_commit(file, self.final_name(file), Occasion.CLOSE)

    async def sync(self, file: DropFile, handle: int) -> None:
        """fsync(2): as :meth:`flush`, but more may still come, and what is incomplete is no error.

        NFS clients send it in the middle, and at the end they send nothing else.
        """
        file.busy.discard(handle)
        with contextlib.suppress(IncompletePackage):
            await self.try_commit(file, self.final_name(file), Occasion.SYNC)

    def release(self, file: DropFile, handle: int) -> None:
        """The handle is gone."""
        file.handles.discard(handle)
        file.writers.discard(handle)
        file.busy.discard(handle)
        if not file.handles:
            self._reader.forget(file)
            if not is_placed(file):
                self.entries.pop(file.inode, None)

    async def status_changed(self, file: DropEntry) -> None:
        """To be called after a change of ``status``: receipts remember it."""
        if isinstance(file, DropFile):
            await self._receipts.keep(file)

    # -- for whoever looks after it

    async def allocated(self, uploads: Sequence[Upload]) -> int | None:
        """Bytes that the unfinished volumes of ``uploads`` take; None if the pool does not answer."""
        try:
            return await self._run("space", lambda: sum(upload.allocated for upload in uploads))
        except OvafsError:
            return None

    def final_name(self, file: DropFile) -> bytes | None:
        """The name that the file's package may be imported under now."""
        return file.name if file.parent is area_of(file.parent) and names.is_final(file.name) else None

    async def give_up(self, file: DropFile) -> None:
        """Remove an upload that was not imported; of one that could have been continued, say so in a report."""
        if file.upload is not None and file.upload.state is State.OPEN:
            self.reporter.given_up(file, file.upload)
        await self._remove(file)

    # -- inside

    async def try_commit(self, file: DropFile, final_name: bytes | None, occasion: Occasion) -> None:
        """Import the file if it is complete; see :meth:`Upload.try_commit`. Failures are reported and raised."""
        upload = file.upload
        if upload is None or upload.is_announced:
            return
        default_name = None if final_name is None else names.machine_name(final_name)
        receipt = None if final_name is None else self._receipts.of(file, final_name)
        try:
            choices = None
            if final_name is not None and file.choices is not None:
                choices = await self._run(None, file.choices.at_commit, file, final_name)
            await self._run(upload, lambda: upload.try_commit(default_name, occasion, choices, receipt))
        except OvafsError as error:
            if occasion is Occasion.CLOSE or not isinstance(error, IncompletePackage):
                self.report_failure(file, upload, error)
            raise
        if upload.imported is not None and not upload.is_announced:
            upload.is_announced = True
            await self._committed(file, final_name or file.name, upload, receipt)

    async def _committed(self, file: DropFile, name: bytes, upload: Upload, receipt: Receipt | None) -> None:
        if is_check(file):
            self.reporter.checked(file, name, upload)
            return
        try:
            current = self._receipts.of(file, name)
            if current is not None and current != receipt:  # a touch, or padding, while it was committed
                await self._run(None, self._destination.keep_receipt, current)
        except OvafsError as error:  # the import stands, and who wrote it must not send it again
            log.warning("drop/%s: imported, but its change is not remembered: %s", names.show(name), error)
        if upload.imported is not None and upload.imported.pending is not None:
            self.adaptations.add(upload.imported.pending)
        self.reporter.imported(file, name, upload)
        used = None if file.choices is None else file.choices.used_up()
        if used is not None:
            log.info("drop/%s: imported as %s says, which is used up", names.show(name), names.show(used.name))
            self.choices.remove(used)

    def report_failure(self, file: DropFile, upload: Upload, error: OvafsError) -> None:
        """Say beside the file why it is not imported."""
        if file.upload is upload and is_placed(file):  # else nobody waits for it any more
            self.reporter.failed(file, upload, error)

    async def _count_repeated(self, file: DropFile, offset: int, data: bytes) -> int:
        """How many of the bytes were written before just like this: all that were written before, or 0.

        What cannot be read cannot be compared. None of the tools that were traced writes anything twice but what it
        could read (rsync --inplace), so there are no digests of what went by.
        """
        end = file.size if file.upload is None or file.is_imported else file.upload.position
        known = min(len(data), end - offset)
        if known <= 0:
            return 0
        try:
            before = await self._reader.try_read(file, offset, known)
        except OvafsError:
            return 0
        return known if before == data[:known] else 0

    async def _remove(self, entry: DropFile | ChoicesFile | Report) -> None:
        if isinstance(entry, ChoicesFile):
            self.choices.remove(entry)
            return
        await self.adaptations.let_go(entry)
        self.unplace(entry)
        if isinstance(entry, DropFile):
            if entry.upload is not None:
                await self._run(entry.upload, entry.upload.discard)
            await self._receipts.forget(entry)

    async def _new_inode(self) -> int:
        return FIRST_DROP_INODE + await self._run(None, self._destination.new_entry_number)

    def _begin_upload(self, file: DropFile) -> None:
        """Give the file a new upload; its import begins with the first byte."""
        choices = UploadChoices(self._choices)
        file.choices = choices
        file.upload = Upload(
            lambda: PackageImport(self._destination, None, choices.begin(file), dry=is_check(file)),
            lambda: Spool(self._destination.volumes_path),
            self.spool_limit,
            self._commit_lock,
        )

    async def _run(self, upload: Upload | str | None, function: Callable[..., T], *arguments: object) -> T:
        return await self._threads.answer(upload, "the drop directory's pool", function, *arguments)

    def _check_idle(self, file: DropFile, handle: int | None) -> None:
        if file.busy - {handle}:
            raise UploadBusy(f"drop/{names.show(file.name)} is being written", "wait, or use another name")


def _check(check: Callable[[bytes], None], name: bytes) -> None:
    """Say in the log what a refused name should have been: the writer's tool shows an errno alone."""
    try:
        check(name)
    except NameRefused as error:
        log.warning("%s", error)
        raise
