"""The inventory that libvirt holds: every domain of a connection is a machine, and every snapshot, if wanted.

Nothing is changed there. A domain that runs is shown as it is defined now, one that is shut off as it would start.

What libvirt says is kept and asked for again when an event tells of a change, after ``POLL_SECONDS`` in any case, and
always where nobody watches (:meth:`LibvirtInventory.revision` begins that). While the connection is lost the last
listing stays.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ovafs.errors import InvalidDefinition, MachineNotFound, SourceError
from ovafs.formats.domain.read import VolumeSource, read_domain
from ovafs.inventory.inventory import BackupSettings, DamagedMachine, Snapshot
from ovafs.inventory.libvirt.backups import Backups
from ovafs.inventory.libvirt.connection import RECONNECT_SECONDS, Connection
from ovafs.inventory.libvirt.definition_times import DefinitionTimes
from ovafs.inventory.libvirt.descriptors import read_descriptor
from ovafs.inventory.libvirt.machines import machine_of, with_times
from ovafs.inventory.libvirt.snapshots import snapshot_machines
from ovafs.inventory.libvirt.variable_stores import VariableStores
from ovafs.inventory.rows import printable
from ovafs.model import Firmware, Machine, MachineKind, StateKind, definition_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from ovafs.formats.domain.read import Domain
    from ovafs.inventory.libvirt.backups import Backup
    from ovafs.inventory.libvirt.connection import DomainText

log = logging.getLogger(__name__)

POLL_SECONDS = 30.0

_USUAL = BackupSettings()


class _Known(NamedTuple):
    """What a domain was found to be, with the time of its definition."""

    machine: Machine | DamagedMachine
    left_out: Sequence[str]
    is_active: bool = False
    tags: frozenset[str] = frozenset()
    snapshots: tuple[Machine | DamagedMachine, ...] = ()


class LibvirtInventory:
    """The domains of ``uri``. ``is_template`` tells templates by their name, beside those that are marked there."""

    def __init__(
        self,
        uri: str,
        is_template: Callable[[str], bool] = lambda _: False,
        backups: BackupSettings = _USUAL,
        *,
        snapshots: bool = False,
    ) -> None:
        """Raises SourceError when there is no libvirt, or when it does not answer."""
        self.connection = Connection(uri)
        self._is_template = is_template
        self._has_snapshots = snapshots
        self._lock = threading.Lock()
        self.source_id = str(uuid.uuid5(uuid.NAMESPACE_URL, self.connection.canonical_uri))
        self._state = _state_directory(self.source_id)
        self._times = DefinitionTimes(self._state and os.path.join(self._state, "definitions.sqlite"))
        self._stores = VariableStores()
        self._known: dict[str, _Known] = {}
        self._domains_of_snapshots: dict[str, _Known] = {}
        self._read_all_at = float("-inf")
        self._made = 0
        self._last: Snapshot | None = None
        base = os.path.abspath(backups.scratch or os.path.join(_state_home(), "scratch"))
        self._backups = Backups(self.connection, self.source_id, backups._replace(scratch=base))

    @property
    def statvfs_path(self) -> str:
        """The root: libvirt's pools may lie anywhere."""
        return "/"

    @property
    def cache_dir(self) -> str | None:
        """A directory of this source on this host."""
        return self._state

    def revision(self) -> Hashable:
        """Changes with every event, and every ``POLL_SECONDS``; begins to watch when it is first asked."""
        if not self.connection.is_watching:
            self._backups.end_abandoned()
            self.connection.watch()
        seconds = RECONNECT_SECONDS if self.connection.is_lost else POLL_SECONDS
        return self.connection.events, int(time.monotonic() / seconds)

    def snapshot(self) -> Snapshot:
        """All domains; the last known while the connection is lost. Raises SourceError if there never was any."""
        with self._lock:
            try:
                self._last = self._read()
            except SourceError as error:
                if self._last is None:
                    raise
                log.warning("%s; the listing stays as it was", error)
            return self._last

    def machines(self) -> list[Machine]:
        """The usable machines."""
        return self.snapshot().machines

    def find(self, name_or_uuid: str, kind: MachineKind | None = None) -> Machine:
        """The machine with this name or UUID. Raises MachineNotFound, InvalidDefinition."""
        found = self.snapshot()
        everything: list[Machine | DamagedMachine] = [*found.machines, *found.damaged]
        for machine in everything:
            if name_or_uuid in {machine.name, machine.uuid} and kind in {None, machine.kind}:
                if isinstance(machine, DamagedMachine):
                    raise InvalidDefinition(f"{machine.name}: {machine.reason}", machine.hint)
                return machine
        raise MachineNotFound(f"{self.connection.uri} has no {kind or 'machine'} {printable(name_or_uuid)}")

    def tags(self, uuid: str) -> frozenset[str]:
        """Of the metadata element ``tag`` of ovafs; a snapshot has its domain's."""
        known = self._known.get(uuid) or self._domains_of_snapshots.get(uuid)
        return known.tags if known else frozenset()

    def left_out(self, machine: Machine) -> Sequence[str]:
        """Drives, disks and devices that stand in the domain and have no place in a package."""
        known = self._known.get(machine.uuid)
        return known.left_out if known else ()

    def read_state(self, machine: Machine, kind: StateKind) -> bytes:
        """The firmware's variables, as the listing with ``machine`` found them; libvirt gives out no others."""
        text = None
        if kind is StateKind.NVRAM and machine.nvram is not None:
            with self._lock:
                text = self._stores.text(machine.uuid, machine.nvram)
        if text is None:
            raise MachineNotFound(f"{machine.name} has no such state of its {kind} any more", "open the .ova again")
        return text

    def read_descriptor(self, machine: Machine) -> bytes | None:
        """The descriptor that a domain was imported from on this host, byte for byte; None if there is none."""
        return None if self._state is None else read_descriptor(self._state, machine.uuid)

    def can_back_up(self, machine: Machine) -> bool:
        """Whether the domain runs, on this host."""
        known = self._known.get(machine.uuid)
        return known is not None and known.is_active and self._backups.is_possible

    def begin_backup(self, machine: Machine) -> Backup:
        """A backup job in the pull mode. Raises StaleHandle, VolumeBusy, NoSpace, SourceError."""
        return self._backups.begin(machine)

    def close(self) -> None:
        """Idempotent."""
        self._backups.close()
        self.connection.close()
        with self._lock:
            self._times.close()

    # -- reading

    def _read(self) -> Snapshot:
        now = time.monotonic()
        with self.connection.changes() as changed:
            reads_all = not self.connection.is_watching or now - self._read_all_at > POLL_SECONDS
            uuids, texts = self.connection.list_domains(
                lambda one: reads_all or self.connection.made > self._made or one in changed or one not in self._known,
                snapshots=self._has_snapshots,
            )
        found = {domain.uuid: self._judge(domain) for domain in texts}
        self._known = {key: one for key, one in {**self._known, **self._dated(found)}.items() if key in uuids}
        self._stores.retain(uuids)
        if reads_all or self.connection.made > self._made:
            self._read_all_at, self._made = now, self.connection.made
        self._domains_of_snapshots = {machine.uuid: one for one in self._known.values() for machine in one.snapshots}
        return _snapshot(machine for one in self._known.values() for machine in (one.machine, *one.snapshots))

    def _judge(self, domain: DomainText) -> _Known:
        kind = MachineKind.TEMPLATE if self._is_template(domain.name) else MachineKind.VM
        try:
            read = read_domain(domain.text)
            kind = MachineKind.TEMPLATE if read.is_template else kind
            machine = machine_of(read, kind, self._path_of)
            snapshots = tuple(snapshot_machines(domain, machine, self._path_of))
            machine, left_out = self._with_variables(machine, read)
            return _Known(machine, left_out, domain.is_active, read.tags, snapshots)
        except (InvalidDefinition, MachineNotFound) as error:
            return _Known(DamagedMachine(printable(domain.name), error.summary, domain.uuid, kind, error.hint), ())

    def _with_variables(self, machine: Machine, read: Domain) -> tuple[Machine, Sequence[str]]:
        """The machine with its firmware's variables, and what is left out."""
        if not read.variables or machine.firmware is Firmware.BIOS:
            return machine, read.left_out
        if not self.connection.is_local:
            return machine, (*read.left_out, "the firmware's variables (NVRAM): they are on libvirt's host")
        state, reason = self._stores.look(machine.uuid, read.variables)
        if reason:
            return machine, (*read.left_out, f"the firmware's variables (NVRAM): {reason}")
        return msgspec.structs.replace(machine, nvram=state), read.left_out

    def _dated(self, found: dict[str, _Known]) -> dict[str, _Known]:
        usable = {key: one for key, one in found.items() if isinstance(one.machine, Machine)}
        digests = [
            (key, definition_digest(one.machine)) for key, one in usable.items() if isinstance(one.machine, Machine)
        ]
        dated = dict(found)
        for (key, _), times in zip(digests, self._times.of(digests), strict=True):
            machine = found[key].machine
            if isinstance(machine, Machine):
                dated[key] = found[key]._replace(machine=with_times(machine, times.created, times.modified))
        return dated

    def _path_of(self, source: VolumeSource) -> str:
        """The file of a disk: given, or asked of the storage pool that holds it. Raises MachineNotFound."""
        return self.connection.volume_path(source.pool, source.volume) if source.pool else source.path


def _snapshot(found: Iterable[Machine | DamagedMachine]) -> Snapshot:
    snapshot = Snapshot([], [])
    for machine in found:
        if isinstance(machine, Machine):
            snapshot.machines.append(machine)
        else:
            snapshot.damaged.append(machine)
    snapshot.machines.sort(key=lambda one: (one.kind != MachineKind.VM, one.name))
    snapshot.damaged.sort(key=lambda one: (one.kind != MachineKind.VM, one.name))
    return snapshot


def _state_home() -> str:
    home = os.environ.get("XDG_STATE_HOME") or (
        "/var/lib" if os.getuid() == 0 else os.path.expanduser("~/.local/state")
    )
    return os.path.join(home, "ovafs")


def _state_directory(source_id: str) -> str | None:
    """Where the times of definitions and the cache are kept; None if there is no place that can be written."""
    path = os.path.join(_state_home(), f"libvirt-{source_id}")
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        log.warning("%s cannot be made (%s): times of machines change with every start", path, error.strerror)
        return None
    return path if os.access(path, os.W_OK) else None
