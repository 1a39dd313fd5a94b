"""What is said about uploads: a report beside the file, a line in the log, and a list of those that ended."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import msgspec

from ovafs.errors import IncompletePackage
from ovafs.transfer.ingest.package import Imported
from ovafs.vfs.drop.entries import REPORT_OFFSET, ChoicesFile, DropEntry, DropFile, Report, Status, area_of, is_check
from ovafs.vfs.drop.names import REPORT_SUFFIX, report_name, show
from ovafs.vfs.drop.report import (
    adaptation_failure_report,
    adapting_report,
    check_report,
    choices_report,
    failure_report,
    given_up_report,
    success_report,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovafs.errors import InvalidChoices, OvafsError
    from ovafs.inventory.pending import PendingImport
    from ovafs.model import Machine
    from ovafs.transfer.adapt.adapter import Adapted
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


class _Course(NamedTuple):
    """Of an upload that ends: bytes that came, and when it began, in seconds since 1970."""

    received: int
    begun: float

    @classmethod
    def of(cls, upload: Upload) -> Self:
        """Of one that is written now."""
        return cls(upload.received, time.time() - (time.monotonic() - upload.begun))


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
        machines, warnings, pending = upload.imported
        if pending is not None:
            log.info("drop/%s: complete; its guest is adapted before its machine is there", show(name))
            self._report(file, report_name(name), adapting_report(name, machines), "", is_of_failure=False)
            return
        self._end_imported(name, _Course.of(upload), machines, warnings)
        if warnings:
            self._report(file, report_name(name), success_report(name, upload.imported), "", is_of_failure=False)
        elif (old := area_of(file.parent).children.get(report_name(name))) is not None:
            self._unplace(old)

    def adapted(self, file: DropFile, pending: PendingImport, adapted: Adapted) -> None:
        """The machines of an upload are there, whose guests have been adapted."""
        machines, warnings = list(adapted.machines), list(adapted.warnings)
        self._end_imported(file.name, _Course(file.size, pending.begun), machines, warnings)
        text = success_report(file.name, Imported(machines, warnings), adapted.output)
        self._report(file, report_name(file.name), text, "", is_of_failure=False)

    def not_adapted(self, file: DropFile, pending: PendingImport, error: OvafsError) -> None:
        """The machines of an upload are not there; what it brought is kept. In the log that was said already."""
        self._end(file.name, _Course(file.size, pending.begun), "failed", error=str(error))
        text = adaptation_failure_report(file.name, error)
        self._report(file, report_name(file.name), text, str(error), is_of_failure=False)

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
                self._end(file.name, _Course.of(upload), "failed", error=str(error))
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
            self._end(file.name, _Course.of(upload), "given up", error=reason)
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

    def _end_imported(self, name: bytes, course: _Course, machines: list[Machine], warnings: list[str]) -> None:
        for machine in machines:
            log.info("drop/%s: imported %s %s (%s)", show(name), machine.kind, machine.name, machine.uuid)
        ended = [EndedMachine(name=one.name, kind=one.kind, uuid=one.uuid) for one in machines]
        self._end(name, course, "imported", machines=ended, warnings=warnings)

    def _end(
        self,
        name: bytes,
        course: _Course,
        result: Literal["imported", "failed", "given up"],
        *,
        error: str = "",
        machines: list[EndedMachine] | None = None,
        warnings: list[str] | None = None,
    ) -> None:
        ended = EndedUpload(
            name=show(name),
            result=result,
            received=course.received,
            begun=course.begun,
            ended=time.time(),
            error=error,
            machines=machines or [],
            warnings=warnings or [],
        )
        self.history.append(ended)
