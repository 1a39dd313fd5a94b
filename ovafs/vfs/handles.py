"""Open files: handles share the pinned package of their generation, which is released after the last of them.

A machine that runs is read from a backup of it, of which there can be one: as long as it is open, and no older than a
certain age, the machine's name stands for it. It is kept for ``GRACE_SECONDS`` after the last handle, for readers that
open the file for each piece. Who wants a newer one waits for the end of the older.

Concurrency: ``_Pin.lock`` lets one task open a package while others wait for it. Counting and releasing have no
``await``; files are closed in a thread.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import trio

from ovafs.errors import OvafsError, StaleHandle, VolumeBusy, VolumeChanged
from ovafs.vfs.threads import close_later

if TYPE_CHECKING:
    from ovafs.inventory.inventory import Backup
    from ovafs.model import Machine
    from ovafs.transfer.open_package import OpenPackage
    from ovafs.transfer.packager import Packager
    from ovafs.vfs.nodes import MachineFile
    from ovafs.vfs.tree import Tree

log = logging.getLogger(__name__)

GRACE_SECONDS = 2.0

WAIT_SECONDS = 30.0
"""For the end of an older backup; who opens a file cannot be killed meanwhile."""

BACKUP_AGE = 3600.0
"""Seconds for which readers that come later share a backup."""


class OpenFile(NamedTuple):
    """A generation that is open, in ``readers`` handles; ``backup`` if the machine runs."""

    machine: Machine
    readers: int
    backup: Backup | None


class _Pin:
    """A generation that is held open, and how many handles hold it."""

    __slots__ = ("ended", "handles", "lock", "logged", "node", "package")

    def __init__(self, node: MachineFile) -> None:
        self.node = node
        self.handles = 0
        self.lock = trio.Lock()
        self.package: OpenPackage | None = None
        self.logged = ""
        self.ended = trio.Event()


class Handles:
    """The open files of one mount."""

    def __init__(self, tree: Tree, packager: Packager, backup_age: float = BACKUP_AGE) -> None:
        self._tree = tree
        self._packager = packager
        self._backup_age = backup_age
        self._pins: dict[int, _Pin] = {}
        self._backups: dict[str, _Pin] = {}  # by the machine's UUID, until they have ended
        self._handles: dict[int, _Pin] = {}
        self._last_handle = 0

    async def open(self, node: MachineFile) -> int:
        """Pin the node's generation; returns a handle.

        Raises StaleHandle when the generation is no longer to be had (the name must be looked up again), or why
        the machine cannot be read.
        """
        pin = self._pins.setdefault(node.inode, _Pin(node))
        pin.handles += 1
        try:
            async with pin.lock:
                if pin.package is None and node.description.is_live:
                    pin.package = await self._open_backup(pin)
                elif pin.package is None:
                    pin.package = await self._open_package(node)
                else:
                    await self._check_unchanged(pin.package, node)
        except BaseException:
            pin.handles -= 1
            if not pin.handles:
                self._let_go(pin)
            raise
        self._last_handle += 1
        self._handles[self._last_handle] = pin
        return self._last_handle

    async def read_into(self, handle: int, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` from ``offset``: exact bytes, fewer than asked only at the end of the file.

        Raises VolumeChanged, ReadFailed or InvalidImage; each message is logged once for an open generation.
        """
        pin = self._handles[handle]
        if pin.package is None:
            raise StaleHandle(f"{pin.node.machine.name}: the handle is closed")
        try:
            return await pin.package.read_into(offset, buffer)
        except OvafsError as error:
            if pin.logged != str(error):
                pin.logged = str(error)
                place = pin.package.package.label(min(offset, pin.package.size - 1))
                log.error("%s: read at %d (%s): %s", pin.node.machine.name, offset, place, error)  # noqa: TRY400
            raise

    def opened(self) -> list[OpenFile]:
        """What is open; also a backup that is in its time of grace."""
        return [
            OpenFile(pin.node.machine, pin.handles, pin.package.backup)
            for pin in self._pins.values()
            if pin.package is not None
        ]

    def release(self, handle: int) -> None:
        """Close a handle; the last one of a generation releases its files and locks."""
        pin = self._handles.pop(handle)
        pin.handles -= 1
        if pin.handles:
            return
        if pin.node.is_held:
            trio.lowlevel.spawn_system_task(self._let_go_later, pin)
        else:
            self._let_go(pin)

    def close(self) -> None:
        """Release everything; the event loop has ended."""
        for pin in self._pins.values():
            if pin.package is not None:
                pin.package.close()
        self._pins.clear()
        self._handles.clear()
        self._backups.clear()

    async def _let_go_later(self, pin: _Pin) -> None:
        await trio.sleep(GRACE_SECONDS)
        if not pin.handles:
            self._let_go(pin)

    def _let_go(self, pin: _Pin) -> None:
        """Forget a pin that no handle holds, and close its package if it has one still."""
        if self._pins.get(pin.node.inode) is pin:
            del self._pins[pin.node.inode]
        package, pin.package = pin.package, None
        if package is None:
            return
        if pin.node.backup is not None:
            pin.node.backup = None
            self._tree.retire(pin.node)
        close_later(package, lambda: self._has_ended(pin))

    def _has_ended(self, pin: _Pin) -> None:
        pin.ended.set()
        if self._backups.get(pin.node.machine.uuid) is pin:
            del self._backups[pin.node.machine.uuid]

    async def _open_backup(self, pin: _Pin) -> OpenPackage:
        """Open the package of a machine that runs, when the backup before has ended."""
        node = pin.node
        node.is_opening = True
        try:
            await self._wait_for_older(node)
            package = await self._open_package(node)
        finally:
            node.is_opening = False
        node.backup = package.backup
        node.held_until = time.monotonic() + self._backup_age
        self._backups[node.machine.uuid] = pin
        return package

    async def _wait_for_older(self, node: MachineFile) -> None:
        older = self._backups.get(node.machine.uuid)
        if older is None:
            return
        with trio.move_on_after(WAIT_SECONDS):
            await older.ended.wait()
            return
        error = VolumeBusy(
            node.machine.name, "somebody still reads an older backup of it", "wait for the end, 'ovafs status' tells"
        )
        node.is_opening = False
        self._tree.failed(node, error)
        raise error

    async def _check_unchanged(self, package: OpenPackage, node: MachineFile) -> None:
        """A generation that others still hold, but whose images changed under them, is no use to a new handle."""
        try:
            await self._tree.threads.answer(node.machine.uuid, node.machine.name, package.check_unchanged)
        except VolumeChanged as error:
            self._tree.doubt(node)
            raise StaleHandle(f"{node.machine.name}: {error.summary}") from error

    async def _open_package(self, node: MachineFile) -> OpenPackage:
        opening = _Opening(self._packager, node)
        try:
            return await self._tree.threads.answer(node.machine.uuid, node.machine.name, opening.run)
        except StaleHandle:
            self._tree.doubt(node)
            raise
        except OvafsError as error:
            node.is_opening = False  # so that its name can say what is wrong
            self._tree.failed(node, error)
            raise
        finally:
            opening.give_up_unless_done()


class _Opening:
    """An open in a worker thread that may be given up: then the thread itself releases what it opened."""

    def __init__(self, packager: Packager, node: MachineFile) -> None:
        self._packager = packager
        self._node = node
        self._lock = threading.Lock()
        self._is_done = False
        self._is_given_up = False

    def run(self) -> OpenPackage:
        package = self._packager.open(self._node.machine, self._node.description)
        with self._lock:
            self._is_done = True
            if self._is_given_up:
                package.close()
        return package

    def give_up_unless_done(self) -> None:
        with self._lock:
            self._is_given_up = not self._is_done
