"""What is said about uploads: a report beside the file, a line in the log, and a list of those that ended."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Literal

import msgspec

from ovafs.errors import IncompletePackage
from ovafs.vfs.drop.entries import REPORT_OFFSET, ChoicesFile, DropEntry, DropFile, Report, Status, area_of, is_check
from ovafs.vfs.drop.names import REPORT_SUFFIX, report_name, show
from ovafs.vfs.drop.report import check_report, choices_report, failure_report, given_up_report, success_report

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovafs.errors import InvalidChoices, OvafsError
    from ovafs.vfs.drop.upload import Upload

log = logging.getLogger(__name__)

_LONGEST_HISTORY = 100


class EndedMachine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that an upload brought."""

    name: str
    kind: str
    uuid: str


class EndedUpload(msgspec.Struct, frozen=True, kw_only=True):
    """An upload that was imported, that failed or that was given up. Times are seconds since 1970."""

    name: str
    result: Literal["imported", "failed", "given up"]
    received: int
    begun: float
    ended: float
    error: str = ""
    machines: list[EndedMachine] = []
    warnings: list[str] = []


class Reporter:
    """Reports in one drop directory, whose entries ``place`` and ``unplace`` put in and take out."""

    def __init__(
        self,
        place: Callable[[DropEntry], None],
        unplace: Callable[[DropEntry], None],
        keep: float,
    ) -> None:
        """``keep``: seconds that an incomplete upload has to be continued in."""
        self._place = place
        self._unplace = unplace
        self._keep = keep
        self.history: deque[EndedUpload] = deque(maxlen=_LONGEST_HISTORY)

    def imported(self, file: DropFile, name: bytes, upload: Upload) -> None:
        """The upload was imported under the final ``name``."""
        if upload.imported is None:
            raise ValueError("the upload was not imported")
        machines, warnings = upload.imported
        for machine in machines:
            log.info("drop/%s: imported %s %s (%s)", show(name), machine.kind, machine.name, machine.uuid)
        ended = [EndedMachine(name=one.name, kind=one.kind, uuid=one.uuid) for one in machines]
        self._end(name, upload, "imported", machines=ended, warnings=warnings)
        if warnings:
            self._report(file, report_name(name), success_report(name, upload.imported), "", is_of_failure=False)
        elif (old := area_of(file.parent).children.get(report_name(name))) is not None:
            self._unplace(old)

    def checked(self, file: DropFile, name: bytes, upload: Upload) -> None:
        """The upload would be imported under the final ``name``."""
        if upload.imported is None:
            raise ValueError("the upload was not checked")
        for machine in upload.imported.machines:
            log.info("drop/.check/%s: would import %s %s", show(name), machine.kind, machine.name)
        self._report(file, report_name(name), check_report(name, upload.imported), "", is_of_failure=False)

    def failed(self, file: DropFile, upload: Upload, error: OvafsError) -> None:
        """Say why the upload is not imported; in the log, too, unless that was said before."""
        name = report_name(file.name)
        before = area_of(file.parent).children.get(name)
        if not isinstance(before, Report) or before.reason != str(error):
            if is_check(file):
                log.warning("drop/.check/%s: would not be imported: %s", show(file.name), error)
            else:
                log.warning("drop/%s: not imported: %s", show(file.name), error)
            if not isinstance(error, IncompletePackage) and not is_check(file):
                self._end(file.name, upload, "failed", error=str(error))
        text = failure_report(file.name, upload.received, error, upload.written_at + self._keep)
        self._report(file, name, text, str(error), is_of_failure=True)

    def choices_checked(self, file: ChoicesFile, name: bytes, error: InvalidChoices | None) -> None:
        """Say what is wrong with choices that are, or shall be, called ``name``; or take back what was said."""
        report = name + REPORT_SUFFIX
        before = area_of(file.parent).children.get(report)
        if error is None:
            if before is not None:
                self._unplace(before)
            return
        if not isinstance(before, Report) or before.reason != str(error):
            log.warning("%s", error)
        self._report(file, report, choices_report(name, error), str(error), is_of_failure=True)

    def given_up(self, file: DropFile, upload: Upload) -> None:
        """The upload is going to be removed, since nobody continued it."""
        log.warning("drop/%s: removed: nothing was written for too long", show(file.name))
        reason = "nothing was written for too long"
        if not is_check(file):
            self._end(file.name, upload, "given up", error=reason)
        text = given_up_report(file.name, upload.received)
        self._report(file, report_name(file.name), text, reason, is_of_failure=True)

    def _report(
        self, file: DropFile | ChoicesFile, name: bytes, text: bytes, reason: str, *, is_of_failure: bool
    ) -> None:
        """Needs nothing of the catalog: there is a report also while that is locked or full."""
        status = Status(0o444 & (file.status.mode | 0o400), file.status.uid, file.status.gid)
        area = area_of(file.parent)
        if (old := area.children.get(name)) is not None:
            self._unplace(old)
        inode = file.inode + REPORT_OFFSET
        self._place(Report(inode, name, area, status, text, reason=reason, is_of_failure=is_of_failure))

    def _end(
        self,
        name: bytes,
        upload: Upload,
        result: Literal["imported", "failed", "given up"],
        *,
        error: str = "",
        machines: list[EndedMachine] | None = None,
        warnings: list[str] | None = None,
    ) -> None:
        now = time.time()
        ended = EndedUpload(
            name=show(name),
            result=result,
            received=upload.received,
            begun=now - (time.monotonic() - upload.begun),
            ended=now,
            error=error,
            machines=machines or [],
            warnings=warnings or [],
        )
        self.history.append(ended)
