"""What a mount says about itself, in ``.ovafs/status.json``: from what is known, without a look at any image."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import msgspec

from ovafs import __version__
from ovafs.inventory.inventory import DamagedMachine
from ovafs.vfs.drop.status import DropStatus, drop_status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovafs.storage.engine.engines import Engines
    from ovafs.vfs.drop.folder import DropFolder
    from ovafs.vfs.handles import Handles, OpenFile
    from ovafs.vfs.tree import Entry, Tree

_MOST_REASONS = 100


class BrokenMachine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that cannot be shown, as it was found last."""

    name: str
    kind: str
    reason: str


class MachineCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Machines by what is known of them; those of which nothing is known yet are listed and not checked.

    ``reasons`` tells of the first 100 that are broken. ``problem``: why the source cannot be read now, or "".
    """

    listed: int
    checked: int
    broken: int
    reasons: list[BrokenMachine]
    problem: str = ""


class OpenBackup(msgspec.Struct, frozen=True, kw_only=True):
    """The backup that a running machine is read from: since when its administrator waits with snapshots and the like.

    ``scratch_used`` are the bytes that the guest has overwritten since. ``failure``: why it has ended, or "".
    ``frozen``: whether the guest's file systems stood still at its moment.
    """

    since: float
    scratch_used: int
    failure: str
    frozen: bool = False


class OpenMachine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine whose .ova is open, in ``readers`` handles; ``backup`` is null unless it runs."""

    name: str
    kind: str
    uuid: str
    readers: int
    backup: OpenBackup | None = None


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A disk that a process of QEMU serves, for ``readers``; without any it ends soon."""

    path: str
    pid: int
    readers: int


class MountStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The document. Times are seconds since 1970, sizes are bytes; ``drop`` is None without a drop directory.

    Fields may be added, never renamed.
    """

    version: str
    source: str
    source_id: str
    mountpoint: str
    pid: int
    since: float
    now: float
    options: dict[str, str | int | float | bool | list[str] | None]
    machines: MachineCounts
    open: list[OpenMachine]
    engines: list[EngineStatus]
    drop: DropStatus | None


class StatusWriter:
    """Writes the document of one mount."""

    def __init__(
        self,
        where: tuple[str, str, str],
        options: Mapping[str, str | float | bool | list[str] | None],
        tree: Tree,
        handles: Handles,
        engines: Engines,
        drop: DropFolder | None,
    ) -> None:
        """``where``: the source, its UUID and the mount point."""
        self._source, self._source_id, self._mountpoint = where
        self._options = dict(options)
        self._tree = tree
        self._handles = handles
        self._engines = engines
        self._drop = drop
        self._since = time.time()

    async def document(self) -> bytes:
        """The JSON document as of now, in UTF-8."""
        status = MountStatus(
            version=__version__,
            source=_text(self._source),
            source_id=self._source_id,
            mountpoint=_text(self._mountpoint),
            pid=os.getpid(),
            since=self._since,
            now=time.time(),
            options=self._options,
            machines=await self._machines(),
            open=[_open_machine(file) for file in self._handles.opened()],
            engines=[
                EngineStatus(path=_text(one.path), pid=one.pid, readers=one.readers) for one in self._engines.running()
            ],
            drop=None if self._drop is None else await drop_status(self._drop),
        )
        return msgspec.json.format(msgspec.json.encode(status), indent=2) + b"\n"

    async def _machines(self) -> MachineCounts:
        entries, problem = await self._tree.known()
        broken = [one for one in map(_broken, entries) if one is not None]
        return MachineCounts(
            listed=len(entries),
            checked=sum(entry.error is not None or entry.node is not None for entry in entries),
            broken=len(broken),
            reasons=broken[:_MOST_REASONS],
            problem="" if problem is None else _text(str(problem)),
        )


def _open_machine(file: OpenFile) -> OpenMachine:
    machine, backup = file.machine, None
    if file.backup is not None:
        backup = OpenBackup(
            since=file.backup.began,
            scratch_used=file.backup.scratch_used,
            failure=_text(file.backup.failure),
            frozen=file.backup.is_frozen,
        )
    return OpenMachine(
        name=_text(machine.name), kind=machine.kind, uuid=machine.uuid, readers=file.readers, backup=backup
    )


def _broken(entry: Entry) -> BrokenMachine | None:
    machine = entry.machine
    if entry.error is not None:
        reason = str(entry.error)
    elif isinstance(machine, DamagedMachine):
        reason = machine.reason
    else:
        return None
    return BrokenMachine(name=_text(machine.name), kind=machine.kind, reason=_text(reason))


def _text(text: str) -> str:
    """A path or a message that JSON can carry, whatever bytes it was made of."""
    return text.encode("utf-8", "backslashreplace").decode()
