"""Looking after uploads that nobody writes: they are imported once they are complete, and go when their time is over.

| what | goes |
|---|---|
| an upload that is not complete, or that failed | ``keep`` after its last write, with all that it holds |
| the same while a program has it open | not before it was idle for ``IDLE_SECONDS``, too |
| a report of a failure | ``keep`` after it was written, once its upload is gone |
| a receipt, and the report beside it | never by itself |
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import trio

from ovafs.errors import IncompletePackage, OvafsError
from ovafs.vfs.drop import names
from ovafs.vfs.drop.entries import Report, area_of
from ovafs.vfs.drop.upload import Occasion, State

if TYPE_CHECKING:
    from ovafs.vfs.drop.folder import DropFolder

log = logging.getLogger(__name__)

# After so long without a write an upload is looked at without being asked.
IDLE_SECONDS = 300.0


class Caretaker:
    """Looks after one drop directory; used from its event loop only."""

    def __init__(self, drop: DropFolder) -> None:
        self._drop = drop

    async def tend(self) -> None:
        """Do it for ever."""
        while True:
            await trio.sleep(min(IDLE_SECONDS / 10, max(1.0, self._drop.keep / 10)))
            await self.commit_idle()
            await self.remove_expired()

    async def commit_idle(self) -> None:
        """Commit what is complete and was not written for a while: NFS clients never close.

        Gaps may still be late data here, so an upload with gaps is not complete: its report says what is missing.
        """
        now = time.monotonic()
        for file in self._drop.files():
            final_name = self._drop.final_name(file)
            upload = file.upload
            if upload is None or upload.state is not State.OPEN or final_name is None:
                continue
            if now - upload.written < IDLE_SECONDS:
                continue
            try:
                await self._drop.try_commit(file, final_name, Occasion.IDLE)
            except IncompletePackage as error:
                self._drop.report_failure(file, upload, error)
            except OvafsError as error:
                log.debug("drop/%s: still not imported: %s", names.show(file.name), error)
            except Exception:  # one upload must not end the mount
                log.exception("drop/%s: unexpected failure", names.show(file.name))

    async def remove_expired(self) -> None:
        """Remove what nobody continued, and what nobody read."""
        now = time.monotonic()
        for file in self._drop.files():
            upload = file.upload
            if upload is None or upload.state is State.COMMITTED or upload.is_working:
                continue
            if now - upload.written < max(self._drop.keep, IDLE_SECONDS if file.handles else 0.0):
                continue
            try:
                await self._drop.give_up(file)
            except OvafsError as error:
                log.warning("drop/%s: cannot be removed: %s", names.show(file.name), error)
            except Exception:  # as above
                log.exception("drop/%s: unexpected failure", names.show(file.name))
        for report in [one for one in self._drop.entries.values() if isinstance(one, Report)]:
            if report.is_of_failure and now - report.written >= self._drop.keep and not self._has_upload(report):
                await self._drop.unlink(report.parent.inode, report.name)

    def _has_upload(self, report: Report) -> bool:
        uploads = [file for file in self._drop.files() if file.upload and area_of(file.parent) is report.parent]
        return any(names.report_name(file.name) == report.name for file in uploads)
