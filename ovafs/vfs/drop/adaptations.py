"""Uploads that are complete and stored, whose guests are adapted before their machines are there: one at a time.

Who uploaded them has their answer long ago. They survive the mount; the next one goes on with them, and tries again
what failed. Runs on the loop of the drop directory; what blocks runs in a thread.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import trio

from ovafs.errors import OvafsError, UploadBusy
from ovafs.transfer.adapt.policy import Adapt
from ovafs.transfer.adapt.program import Stopped
from ovafs.vfs.drop.entries import DropFile
from ovafs.vfs.drop.names import show
from ovafs.vfs.nodes import FIRST_DROP_INODE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovafs.inventory.destination import Destination
    from ovafs.inventory.pending import PendingImport
    from ovafs.transfer.adapt.adapter import Adapted, Adapter
    from ovafs.vfs.drop.entries import DropEntry
    from ovafs.vfs.drop.reporter import Reporter

log = logging.getLogger(__name__)

_STEP_SECONDS = 1.0

_LOOK_SECONDS = 60.0
"""How often imports are looked at that another process may be working on."""


@dataclass(eq=False)
class Adaptation:
    """Of one upload."""

    pending: PendingImport
    state: Literal["waiting", "adapting", "failed"] = "waiting"
    error: str = ""


class Adaptations:
    """Those of one drop directory, whose entries by inode are ``entries``."""

    def __init__(
        self,
        destination: Destination,
        adapter: Adapter,
        reporter: Reporter,
        entries: Mapping[int, DropEntry],
        adapt: Adapt,
    ) -> None:
        """Blocks: reads what earlier mounts have left. With ``adapt`` never, that is registered as it is."""
        self._adapter = adapter
        self._reporter = reporter
        self._entries = entries
        self._adapts = adapt is not Adapt.NEVER
        self._running = [Adaptation(pending) for pending in destination.pending_imports()]
        self._wake = trio.Event()

    def add(self, pending: PendingImport) -> None:
        """An upload that was committed just now."""
        self._running.append(Adaptation(pending))
        self._wake.set()

    def all(self) -> list[tuple[DropFile, Adaptation]]:
        """Those that have an entry, the oldest first."""
        found = [(self._file(one), one) for one in self._running]
        return [(file, one) for file, one in found if file is not None]

    async def step(self) -> str:
        """What is done at the moment; "" if nothing is, or if the storage does not tell soon."""
        with trio.move_on_after(_STEP_SECONDS):
            return await trio.to_thread.run_sync(lambda: self._adapter.step, abandon_on_cancel=True)
        return ""

    def check_free(self, file: DropEntry) -> None:
        """Raise UploadBusy if the upload is not to be removed or replaced now."""
        if any(found is file and one.state != "failed" for found, one in self.all()):
            raise UploadBusy(f"drop/{show(file.name)}: its guest is being adapted", "wait until its machine is there")

    async def let_go(self, file: DropEntry) -> None:
        """Take away what waits of an upload whose adaptation has failed. Raises UploadBusy, SourceError."""
        self.check_free(file)
        for one in [one for found, one in self.all() if found is file]:
            await trio.to_thread.run_sync(self._adapter.discard, one.pending.uuid)
            self._running.remove(one)
            log.warning("drop/%s: given up", show(file.name))

    async def work(self) -> None:
        """Do it for ever."""
        while True:
            for one in [one for one in self._running if one.state == "waiting"]:
                try:
                    await self._carry_out(one)
                except Exception:  # one upload must not end the mount
                    log.exception("an adaptation failed unexpectedly")
                    one.state, one.error = "failed", "unexpected failure, see the log"
            self._wake = trio.Event()
            if not any(one.state == "waiting" for one in self._running):
                await self._wake.wait()
            else:
                with trio.move_on_after(_LOOK_SECONDS):
                    await self._wake.wait()

    async def _carry_out(self, one: Adaptation) -> None:
        if one.pending.entry is None:  # of a command that was killed, or that is at work
            if await trio.to_thread.run_sync(self._adapter.discard, one.pending.uuid):
                self._running.remove(one)
            return
        one.state = "adapting"
        try:
            adapted = await self._in_thread(one.pending.uuid)
        except Stopped:
            return
        except OvafsError as error:
            one.state, one.error = "failed", str(error)
            log.warning("drop/%s: not registered: %s", self._name(one), error)
            if (file := self._file(one)) is not None:
                self._reporter.not_adapted(file, one.pending, error)
            return
        if adapted is None:
            one.state = "waiting"
            return
        self._running.remove(one)
        file = self._file(one)
        if file is not None:
            self._reporter.adapted(file, one.pending, adapted)

    async def _in_thread(self, uuid: str) -> Adapted | None:
        """Ended, with what it has started, before the mount ends."""
        stop = threading.Event()
        adapted, failure = None, None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_set_at_end, stop)
            with trio.CancelScope(shield=True):
                try:
                    adapted = await trio.to_thread.run_sync(
                        lambda: self._adapter.carry_out(uuid, stop, adapts=self._adapts)
                    )
                except (OvafsError, Stopped) as error:  # a nursery would wrap it
                    failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return adapted

    def _file(self, one: Adaptation) -> DropFile | None:
        file = None if one.pending.entry is None else self._entries.get(FIRST_DROP_INODE + one.pending.entry)
        return file if isinstance(file, DropFile) else None

    def _name(self, one: Adaptation) -> str:
        file = self._file(one)
        return "?" if file is None else show(file.name)


async def _set_at_end(stop: threading.Event) -> None:
    try:
        await trio.sleep_forever()
    finally:
        stop.set()
