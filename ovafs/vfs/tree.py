"""The tree: which names there are, and which generation each name stands for now.

Concurrency: everything runs on one trio loop; what blocks (the catalog, ``stat`` of images, planning) runs in a
worker thread on values that do not change, and its result is put in place in one step without an ``await``.
So readers always see one consistent state. ``_refreshing`` lets one refresh run at a time; who waits for it
uses its result.

A name is checked against the storage at most once in ``FRESH_SECONDS``; in between it stands for the generation
found last. That is safe: ``open`` plans again, and answers ESTALE when the generation is no longer that one.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, TypeVar

import trio

from ovafs.errors import InvalidDefinition, MachineNotFound, OvafsError, StaleHandle
from ovafs.inventory.inventory import DamagedMachine
from ovafs.model import Machine, MachineKind
from ovafs.vfs.names import file_names
from ovafs.vfs.nodes import ROOT_INODE, Directory, MachineFile, entry_cookie, machine_inode
from ovafs.vfs.threads import Threads, no_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from ovafs.inventory.inventory import Inventory
    from ovafs.transfer.description import Description
    from ovafs.transfer.packager import Packager

log = logging.getLogger(__name__)

_T = TypeVar("_T")

FRESH_SECONDS = 1.0

# The catalog is asked for changes this often at most, when a name is known already.
CATALOG_FRESH_SECONDS = 0.2

# Work of one thread call; short, so that storage that hangs can be told from much work.
SLICE_SECONDS = 0.5

ROOT = Directory(ROOT_INODE, b"", None)
VMS = Directory(2, b"vms", MachineKind.VM)
TEMPLATES = Directory(3, b"templates", MachineKind.TEMPLATE)
DIRECTORIES = {directory.inode: directory for directory in (ROOT, VMS, TEMPLATES)}

Node = Directory | MachineFile


class Entry:
    """A machine under its name: its present generation, or why there is none.

    A damaged machine is listed too: if it vanished, a mirror would delete its copy.
    """

    __slots__ = ("checked", "cookie", "error", "machine", "name", "node")

    def __init__(self, name: bytes, machine: Machine | DamagedMachine) -> None:
        self.name = name
        self.machine = machine
        self.cookie = entry_cookie(machine.uuid)
        self.node: MachineFile | None = None
        self.error: OvafsError | None = None
        self.checked = float("-inf")

    @property
    def is_held(self) -> bool:
        """Whether all who come are to share the generation that is open."""
        return self.node is not None and self.node.is_held

    @property
    def is_fresh(self) -> bool:
        """True while the last look at the storage is recent enough, or does not matter."""
        return self.is_held or trio.current_time() - self.checked < FRESH_SECONDS


class Tree:
    """Names, entries and nodes of one mount."""

    def __init__(self, inventory: Inventory, packager: Packager) -> None:
        self._inventory = inventory
        self._packager = packager
        self._revision: Hashable = object()  # equals no revision
        self._revision_checked = float("-inf")
        self._entries: dict[MachineKind, dict[bytes, Entry]] = {kind: {} for kind in MachineKind}
        self._changed_ns = dict.fromkeys((None, *MachineKind), time.time_ns())
        self._nodes: dict[int, MachineFile] = {}
        self._refreshing = trio.Lock()
        self.threads = Threads()

    async def lookup(self, parent: int, name: bytes) -> Node:
        """The node under a name of a directory; ``.`` of any inode ever shown, ``..`` of any directory.

        Raises MachineNotFound, StaleHandle (``.`` of an inode that stands for nothing any more), or why the
        machine cannot be shown.
        """
        if name == b".":
            return await self.node(parent)
        if name == b"..":
            return ROOT
        directory = DIRECTORIES.get(parent)
        if directory is ROOT:
            for child in (VMS, TEMPLATES):
                if child.name == name:
                    return child
        if directory is None or directory.kind is None:
            raise MachineNotFound(f"no entry {name!r} in the directory with inode {parent}")
        entry = await self._look_up_entry(directory.kind, name)
        if entry is None or entry.node is None:
            raise (entry and entry.error) or MachineNotFound(f"{directory.name.decode()}/: no entry {name!r}")
        return entry.node

    async def _look_up_entry(self, kind: MachineKind, name: bytes) -> Entry | None:
        """The entry of a name, looked at just now."""
        entry = self._entries[kind].get(name)
        if entry is None or trio.current_time() - self._revision_checked > CATALOG_FRESH_SECONDS:
            await self._refresh_catalog()
            entry = self._entries[kind].get(name)
        while entry is not None:
            await self._refresh_entries([entry])
            looked_at, entry = entry, self._entries[kind].get(name)
            if entry is looked_at:  # else the catalog changed meanwhile
                break
        return entry

    async def node(self, inode: int) -> Node:
        """The node of an inode number, also one from before a restart.

        Raises StaleHandle when the number stands for no present generation and nobody holds it.
        """
        found = DIRECTORIES.get(inode) or self._nodes.get(inode)
        if found is None:
            await self._refresh_catalog()
            await self._refresh_entries([e for entries in self._entries.values() for e in entries.values()])
            found = self._nodes.get(inode)
        if found is None:
            raise StaleHandle(f"inode {inode} stands for a machine or a generation that is gone")
        return found

    async def node_to_open(self, inode: int) -> Node:
        """The node of an inode number that shall be opened.

        Raises StaleHandle also for a generation that was replaced since the kernel looked its name up: it looks
        again then, so that who opens a file after a change gets what is there after it.
        """
        await self._refresh_catalog()
        node = await self.node(inode)
        if isinstance(node, MachineFile) and not node.is_current:
            raise StaleHandle(f"{node.machine.name}: its definition changed since it was looked up")
        return node

    async def look_for_changes(self, directory: Directory) -> None:
        """Take over what changed in a directory, unless that was done a moment ago; the root never changes."""
        if directory.kind is not None and trio.current_time() - self._revision_checked > CATALOG_FRESH_SECONDS:
            await self._refresh_catalog()

    def changed_ns(self, directory: Directory) -> int:
        """When a name was last seen to come or go; NFS clients believe their listing until this time changes."""
        return self._changed_ns[directory.kind]

    async def entries(self, directory: Directory) -> list[Entry]:
        """The present entries of ``vms/`` or ``templates/``, by cookie, each looked at just now."""
        if directory.kind is None:
            raise ValueError("the root's entries are fixed")
        await self._refresh_catalog()
        found = sorted(self._entries[directory.kind].values(), key=lambda entry: entry.cookie)
        await self._refresh_entries(found)
        return found

    async def known(self) -> tuple[list[Entry], OvafsError | None]:
        """Every entry as it was found last: the catalog is read, the storage is not looked at.

        Also why the catalog cannot be read, if so.
        """
        error = None
        try:
            await self._refresh_catalog()
        except OvafsError as failed:
            error = failed
        return [entry for entries in self._entries.values() for entry in entries.values()], error

    def forget(self, inode: int, count: int) -> None:
        """The kernel dropped ``count`` lookups; a generation that is neither known to it nor present goes."""
        node = self._nodes.get(inode)
        if node is not None:
            node.lookups -= count
            self._drop_if_unused(node)

    def doubt(self, node: MachineFile) -> None:
        """Look at the machine's storage again at the next lookup: its generation turned out to be stale."""
        for entry in self._entries[node.machine.kind].values():
            if entry.node is node:
                entry.checked = float("-inf")

    def retire(self, node: MachineFile) -> None:
        """What the node stood for is gone: its name stands for what is found next."""
        for entry in self._entries[node.machine.kind].values():
            if entry.node is node:
                entry.checked = float("-inf")
                self._place(entry, None)

    def failed(self, node: MachineFile, error: OvafsError) -> None:
        """The machine could not be opened: its name says so until its storage is looked at again."""
        for entry in self._entries[node.machine.kind].values():
            if entry.node is node:
                self._settle(entry, error)

    async def space(self) -> os.statvfs_result:
        """How much room there is where the machines come from."""
        return await self._ask_inventory(os.statvfs, self._inventory.statvfs_path)

    async def _ask_inventory(self, function: Callable[..., _T], *arguments: object) -> _T:
        return await self.threads.answer(None, "the inventory", function, *arguments)

    async def _refresh_catalog(self) -> None:
        """Take over what changed in the inventory; machines that did not change keep their entries."""
        async with self._refreshing:
            revision = await self._ask_inventory(self._inventory.revision)
            self._revision_checked = trio.current_time()
            if revision == self._revision:
                return
            machines, damaged = await self._ask_inventory(self._inventory.snapshot)
            await self._ask_inventory(self._packager.preload, machines)
            previous = [entry for entries in self._entries.values() for entry in entries.values()]
            for kind in MachineKind:
                merged = self._merge(kind, [*machines, *damaged])
                if merged.keys() != self._entries[kind].keys():
                    self._changed_ns[kind] = time.time_ns()
                self._entries[kind] = merged
            self._revision = revision
            for entry in previous:
                if self._entries[entry.machine.kind].get(entry.name) is not entry:
                    self._place(entry, None)

    def _merge(self, kind: MachineKind, machines: Sequence[Machine | DamagedMachine]) -> dict[bytes, Entry]:
        before = {entry.machine.uuid: entry for entry in self._entries[kind].values()}
        after = {machine.uuid: machine for machine in machines if machine.kind == kind}
        merged = {}
        for name, uuid in file_names((m.uuid, m.name) for m in after.values()).items():
            entry = before.get(uuid)
            if entry is None or entry.name != name or entry.machine != after[uuid]:
                entry = Entry(name, after[uuid])
            entry.checked = float("-inf")  # whatever changed may be what it shows: a machine was started
            merged[name] = entry
        return merged

    async def _refresh_entries(self, entries: Sequence[Entry]) -> None:
        """Describe anew every entry that is not fresh; few threads for many, since each switch costs 0.1 ms."""
        stale = []
        for entry in entries:
            if self.threads.is_hanging(entry.machine.uuid):
                self._settle(entry, no_answer(entry.machine.name))
            elif not entry.is_fresh:
                stale.append(entry)
        late = 0
        while stale:
            # Many machines may lie on storage that hangs: all waits together are bounded, at 1.65 times the first.
            results, is_late = await self._describe_some([entry.machine for entry in stale], patience=(1 + late) ** -2)
            for entry, result in zip(stale, results, strict=False):
                self._settle(entry, result)
            if is_late:
                late += 1
                stale[len(results) - 1].checked = float("-inf")  # who asks for it alone waits longer
            stale = stale[len(results) :]

    async def _describe_some(
        self, machines: Sequence[Machine | DamagedMachine], patience: float
    ) -> tuple[list[Description | OvafsError], bool]:
        """The descriptions of the first machines, as many as fit into a slice of time, at least one.

        Also whether the last of them is none because it did not come in time.
        """
        results: list[Description | OvafsError] = []
        seconds = min(
            SLICE_SECONDS, self.threads.seconds * patience
        )  # so that one that is late stops after its machine
        try:
            await self.threads.run(
                lambda: self._describe_in_thread(machines, results, seconds),
                lambda: machines[min(len(results), len(machines) - 1)].uuid,
                patience,
            )
        except trio.TooSlowError:
            # The thread may still append to its list, which nobody reads any more.
            results = results[: len(machines) - 1]
            return [*results, no_answer(machines[len(results)].name)], True
        return results, False

    def _describe_in_thread(
        self, machines: Sequence[Machine | DamagedMachine], results: list[Description | OvafsError], seconds: float
    ) -> None:
        end = time.monotonic() + seconds
        for machine in machines:
            if isinstance(machine, DamagedMachine):
                results.append(InvalidDefinition(machine.reason, machine.hint))
                continue
            try:
                results.append(self._packager.describe(machine))
            except OvafsError as error:
                results.append(error)
            except Exception as error:  # one broken machine must not hide the others
                log.exception("%s: unexpected failure while planning", machine.name)
                results.append(OvafsError(f"{machine.name}: unexpected failure: {error!r}"))
            if time.monotonic() > end:
                return

    def _settle(self, entry: Entry, result: Description | OvafsError) -> None:
        """Put a description, or an error, in place; no await, so the new state appears in one step."""
        if self._entries[entry.machine.kind].get(entry.name) is not entry:
            return  # the catalog changed meanwhile
        if entry.is_held:
            return  # it was opened meanwhile
        entry.checked = trio.current_time()
        if isinstance(result, OvafsError):
            if str(result) != str(entry.error):
                log.warning("%s: %s", entry.machine.name, result)
            entry.error = result
            self._place(entry, None)
            return
        entry.error = None
        is_known = entry.node is not None and entry.node.description.generation == result.generation
        if not is_known and isinstance(entry.machine, Machine):
            self._place(entry, self._node_of(entry.machine, result))

    def _node_of(self, machine: Machine, description: Description) -> MachineFile:
        inode = machine_inode(self._inventory.source_id, machine, description.generation)
        return self._nodes.get(inode) or MachineFile(inode, machine, description)

    def _place(self, entry: Entry, node: MachineFile | None) -> None:
        """Let the entry's name stand for ``node``; the generation before goes, unless the kernel holds it."""
        before, entry.node = entry.node, node
        if node is not None:
            node.is_current = True
            self._nodes[node.inode] = node
        if before is not None and before is not node:
            before.is_current = False
            self._drop_if_unused(before)

    def _drop_if_unused(self, node: MachineFile) -> None:
        if node.lookups <= 0 and not node.is_current:
            self._nodes.pop(node.inode, None)
