"""What the drop directory says about itself: uploads that run or wait, and those that ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

import msgspec

from ovafs.vfs.drop.names import show
from ovafs.vfs.drop.reporter import EndedUpload  # noqa: TC001 - msgspec needs it to read a document
from ovafs.vfs.drop.upload import State

if TYPE_CHECKING:
    from ovafs.vfs.drop.adaptations import Adaptation
    from ovafs.vfs.drop.entries import DropDirectory, DropFile
    from ovafs.vfs.drop.folder import DropFolder
    from ovafs.vfs.drop.upload import Upload


class UploadStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An upload that is not imported, or not yet. Sizes are bytes, times seconds since 1970.

    ``position``: everything before it was taken in; ``waiting``: what came behind a gap, of ``received``;
    ``spooled``: members that wait for the descriptor; ``expected`` is None while it is not known.
    """

    name: str
    state: Literal["receiving", "incomplete", "importing", "failed"]
    uid: int
    received: int
    expected: int | None
    position: int
    waiting: int
    spooled: int
    begun: float
    written: float
    kept_until: float
    error: str = ""


class AdaptationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An upload that is complete, and whose machines are there once their guests are adapted.

    ``since`` is in seconds since 1970. ``step`` is what the converter is at, in its words. What has failed waits for
    the next mount, or until the upload is removed.
    """

    name: str
    state: Literal["waiting", "adapting", "failed"]
    machines: list[str]
    since: float
    step: str = ""
    error: str = ""


class DropStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The drop directory. ``allocated``: bytes that unfinished volumes take in the pool, None if that is not known."""

    uploads: list[UploadStatus]
    adapting: list[AdaptationStatus] = []
    ended: list[EndedUpload]
    allocated: int | None
    spool_limit: int
    keep_partial: float


def upload_status(file: DropFile, upload: Upload, keep: float) -> UploadStatus:
    """Of an upload as it is at this moment."""
    expected, spooled = upload.progress
    written = upload.written_at
    announced = upload.size if upload.size > upload.received else 0
    return UploadStatus(
        name=_path(file),
        state=_state(file, upload),
        uid=file.status.uid,
        received=upload.received,
        expected=max(expected or 0, announced) or None,
        position=upload.position,
        waiting=upload.waiting,
        spooled=spooled,
        begun=time.time() - (time.monotonic() - upload.begun),
        written=written,
        kept_until=written + keep,
        error="" if upload.error is None else str(upload.error),
    )


async def drop_status(drop: DropFolder) -> DropStatus:
    """Of the whole directory; receipts are not uploads any more."""
    running = [(file, file.upload) for file in drop.files() if file.upload is not None]
    running = [(file, upload) for file, upload in running if upload.state is not State.COMMITTED]
    step = await drop.adaptations.step()
    return DropStatus(
        uploads=[upload_status(file, upload, drop.keep) for file, upload in running],
        adapting=[_adaptation_status(file, one, step) for file, one in drop.adaptations.all()],
        ended=list(drop.reporter.history),
        allocated=await drop.allocated([upload for _, upload in running]),
        spool_limit=drop.spool_limit,
        keep_partial=drop.keep,
    )


def _adaptation_status(file: DropFile, one: Adaptation, step: str) -> AdaptationStatus:
    return AdaptationStatus(
        name=_path(file),
        state=one.state,
        machines=[machine.name for machine in one.pending.machines],
        since=one.pending.begun,
        step=step if one.state == "adapting" else "",
        error=one.error,
    )


def _state(file: DropFile, upload: Upload) -> Literal["receiving", "incomplete", "importing", "failed"]:
    if upload.state is State.FAILED:
        return "failed"
    if upload.is_committing:
        return "importing"
    return "receiving" if file.handles else "incomplete"


def _path(file: DropFile) -> str:
    parts = [file.name]
    parent: DropDirectory | None = file.parent
    while parent is not None and parent.parent is not None:
        parts.insert(0, parent.name)
        parent = parent.parent
    return "/".join(show(part) for part in parts)
