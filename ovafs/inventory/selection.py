"""Which machines of a source are shown, and which of them as templates: by patterns of their names, and by tags."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import msgspec

from ovafs.errors import MachineNotFound
from ovafs.inventory.inventory import Snapshot

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from ovafs.inventory.inventory import Backup, DamagedMachine, Inventory
    from ovafs.model import Machine, MachineKind, StateKind


class Selection(msgspec.Struct, frozen=True):
    """Shell patterns (``*``, ``?``, ``[…]``). Nothing to include: everything; what is excluded is never shown.

    ``tag`` are tags of which a machine must have one to be shown. ``templates`` is for sources that do not tell
    templates from machines, and ``snapshots`` shows those of each machine, too: all three are for libvirt.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    tag: tuple[str, ...] = ()
    snapshots: bool = False

    def shows(self, name: str, tags: frozenset[str]) -> bool:
        """Whether a machine of this name, with these tags, is shown."""
        is_included = not self.include or _matches(name, self.include)
        has_tag = not self.tag or not tags.isdisjoint(self.tag)
        return is_included and has_tag and not _matches(name, self.exclude)

    def is_template(self, name: str) -> bool:
        """Whether a machine of this name is a template."""
        return _matches(name, self.templates)

    def of(self, inventory: Inventory) -> Inventory:
        """``inventory`` as far as it is shown."""
        return inventory if self.include == self.exclude == self.tag == () else _SelectedInventory(inventory, self)


class _SelectedInventory:
    """An inventory of which only the selected machines are seen. The whole one is closed by who opened it."""

    def __init__(self, inventory: Inventory, selection: Selection) -> None:
        self._inventory = inventory
        self._selection = selection

    @property
    def source_id(self) -> str:
        """As of the whole inventory: a machine's inode does not depend on what else is shown."""
        return self._inventory.source_id

    @property
    def statvfs_path(self) -> str:
        """As of the whole inventory."""
        return self._inventory.statvfs_path

    @property
    def cache_dir(self) -> str | None:
        """As of the whole inventory."""
        return self._inventory.cache_dir

    def revision(self) -> Hashable:
        """As of the whole inventory."""
        return self._inventory.revision()

    def snapshot(self) -> Snapshot:
        """The selected machines."""
        found = self._inventory.snapshot()
        return Snapshot(
            [machine for machine in found.machines if self._shows(machine)],
            [damaged for damaged in found.damaged if self._shows(damaged)],
        )

    def _shows(self, machine: Machine | DamagedMachine) -> bool:
        return self._selection.shows(machine.name, self.tags(machine.uuid))

    def machines(self) -> list[Machine]:
        """The usable ones of them."""
        return self.snapshot().machines

    def find(self, name_or_uuid: str, kind: MachineKind | None = None) -> Machine:
        """A selected machine. Raises MachineNotFound, InvalidDefinition."""
        machine = self._inventory.find(name_or_uuid, kind)
        if not self._shows(machine):
            raise MachineNotFound(f"{machine.name} is not among the machines that are shown")
        return machine

    def tags(self, uuid: str) -> frozenset[str]:
        """As of the whole inventory."""
        return self._inventory.tags(uuid)

    def left_out(self, machine: Machine) -> Sequence[str]:
        """As of the whole inventory."""
        return self._inventory.left_out(machine)

    def read_state(self, machine: Machine, kind: StateKind) -> bytes:
        """As of the whole inventory."""
        return self._inventory.read_state(machine, kind)

    def read_descriptor(self, machine: Machine) -> bytes | None:
        """As of the whole inventory."""
        return self._inventory.read_descriptor(machine)

    def can_back_up(self, machine: Machine) -> bool:
        """As of the whole inventory."""
        return self._inventory.can_back_up(machine)

    def begin_backup(self, machine: Machine) -> Backup:
        """As of the whole inventory."""
        return self._inventory.begin_backup(machine)

    def close(self) -> None:
        """Nothing is its own."""


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
