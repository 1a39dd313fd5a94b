"""Open files: handles share the pinned package of their generation, which is released after the last of them.

A machine that runs is read from a backup of it, of which there can be one: as long as it is open, the machine's name
stands for it. It is kept for ``GRACE_SECONDS`` after the last handle, for readers that open the file for each piece.

Concurrency: ``_Pin.lock`` lets one task open a package while others wait for it. Counting and releasing have no
``await``; files are closed in a thread.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, NamedTuple

import trio

from ovafs.errors import OvafsError, StaleHandle, VolumeChanged
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


class OpenFile(NamedTuple):
    """A generation that is open, in ``readers`` handles; ``backup`` if the machine runs."""

    machine: Machine
    readers: int
    backup: Backup | None


class _Pin:
    """A generation that is held open, and how many handles hold it."""

    __slots__ = ("handles", "lock", "logged", "node", "package")

    def __init__(self, node: MachineFile) -> None:
        self.node = node
        self.handles = 0
        self.lock = trio.Lock()
        self.package: OpenPackage | None = None
        self.logged = ""


class Handles:
    """The open files of one mount."""

    def __init__(self, tree: Tree, packager: Packager) -> None:
        self._tree = tree
        self._packager = packager
        self._pins: dict[int, _Pin] = {}
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
                if pin.package is None:
                    pin.package = await self._open_package(node)
                else:
                    await self._check_unchanged(pin.package, node)
        except BaseException:
            pin.handles -= 1
            if not pin.handles and (package := self._let_go(pin)):
                close_later(package)
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
        elif package := self._let_go(pin):
            close_later(package)

    def close(self) -> None:
        """Release everything; the event loop has ended."""
        for pin in self._pins.values():
            if pin.package is not None:
                pin.package.close()
        self._pins.clear()
        self._handles.clear()

    async def _let_go_later(self, pin: _Pin) -> None:
        await trio.sleep(GRACE_SECONDS)
        if not pin.handles and (package := self._let_go(pin)):
            close_later(package)

    def _let_go(self, pin: _Pin) -> OpenPackage | None:
        """Forget a pin that no handle holds; returns the package to be closed, if there is one still."""
        if self._pins.get(pin.node.inode) is pin:
            del self._pins[pin.node.inode]
        if pin.node.backup is not None:
            pin.node.backup = None
            self._tree.retire(pin.node)
        package, pin.package = pin.package, None
        return package

    async def _check_unchanged(self, package: OpenPackage, node: MachineFile) -> None:
        """A generation that others still hold, but whose images changed under them, is no use to a new handle."""
        try:
            await self._tree.threads.answer(node.machine.uuid, node.machine.name, package.check_unchanged)
        except VolumeChanged as error:
            self._tree.doubt(node)
            raise StaleHandle(f"{node.machine.name}: {error.summary}") from error

    async def _open_package(self, node: MachineFile) -> OpenPackage:
        opening = _Opening(self._packager, node)
        node.is_opening = node.description.is_live
        try:
            package = await self._tree.threads.answer(node.machine.uuid, node.machine.name, opening.run)
            node.backup = package.backup
        except StaleHandle:
            node.is_opening = False
            self._tree.doubt(node)
            raise
        except OvafsError as error:
            node.is_opening = False
            self._tree.failed(node, error)
            raise
        finally:
            node.is_opening = False
            opening.give_up_unless_done()
        return package


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
