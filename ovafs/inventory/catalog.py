"""The pool's catalog: machines, in the file of its journal."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ovafs.errors import InvalidDefinition, MachineNotFound, NameTaken, StaleHandle
from ovafs.inventory import attachments, rows
from ovafs.inventory.database import sqlite_errors
from ovafs.inventory.destination import Taken
from ovafs.inventory.journal import Journal
from ovafs.inventory.rules import check_machine

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Sequence

    from ovafs.inventory.attachments import Attachments
    from ovafs.inventory.inventory import Backup, Snapshot
    from ovafs.inventory.receipts import Receipt
    from ovafs.model import Machine, MachineKind, StateKind, Volume


class Removed(NamedTuple):
    """What ``Catalog.remove`` took out; ``images`` are the paths of its volumes that stay as they are.

    ``given_up`` are the UUIDs of those that are nobody's any more.
    """

    uuid: str
    name: str
    kind: str
    images: list[str]
    given_up: list[str]


class _Match(NamedTuple):
    id: object
    uuid: str
    name: str
    kind: str


class Catalog(Journal):
    """An open catalog. Any thread may call any method; any number of processes may have it open."""

    def revision(self) -> Hashable:
        """Differs from earlier ones once the catalog may have changed, also by another process."""
        with sqlite_errors(self._path):
            return self._reader.revision()

    def snapshot(self) -> Snapshot:
        """All machines in one consistent read."""
        with sqlite_errors(self._path), self._reader.read() as connection:
            found = rows.read_all(connection)
        return rows.parse_rows(found)

    def find(self, name_or_uuid: str, kind: MachineKind | None = None) -> Machine:
        """The machine with this name or UUID.

        Raises MachineNotFound, or InvalidDefinition if there are two of them or if it is damaged.
        """
        with sqlite_errors(self._path), self._reader.read() as connection:
            return _parse(connection, _match(connection, name_or_uuid, kind))

    def macs(self) -> set[str]:
        """Every MAC address in use."""
        with sqlite_errors(self._path), self._reader.read() as connection:
            return {str(mac) for (mac,) in rows.fetch(connection, "SELECT mac FROM nics")}

    def users_of(self, image: str) -> list[str]:
        """Names of the machines that have the image at this path as a volume."""
        with sqlite_errors(self._path), self._reader.read() as connection:
            found = rows.fetch(
                connection,
                "SELECT DISTINCT machines.name FROM volumes JOIN disks ON volumes.id = volume"
                " JOIN machines ON machines.id = machine WHERE path = ? ORDER BY 1",
                (image,),
            )
        return [rows.printable(name) for (name,) in found]

    def add(self, machine: Machine) -> None:
        """Register a machine. Raises NameTaken, or InvalidDefinition (broken rule, MAC or UUID in use)."""
        self.register([machine], [], attachments.NONE)

    def register(
        self,
        machines: Sequence[Machine],
        volumes: Sequence[str],
        kept: Attachments,
        receipt: Receipt | None = None,
        archive: bytes | None = None,
    ) -> None:
        """Add the machines of an import and what is kept with them, and take the notes of its ``volumes`` away.

        ``receipt`` and ``archive`` are kept as :meth:`keep_receipt` does it. All in one change. Raises as :meth:`add`.
        """
        for machine in machines:
            check_machine(machine)
        with self._change() as connection:
            for machine in machines:
                _insert(connection, machine)
                attachments.keep(connection, machine, kept)
            self._settle(connection, volumes, receipt, archive)

    def read_state(self, machine: Machine, kind: StateKind) -> bytes:
        """The text of a state that the machine has. Raises MachineNotFound if it has changed, InvalidDefinition."""
        with sqlite_errors(self._path), self._reader.read() as connection:
            return attachments.read_state(connection, machine, kind)

    def read_descriptor(self, machine: Machine) -> bytes | None:
        """The descriptor that the machine was imported from, byte for byte; None if it was not imported.

        Raises InvalidDefinition when it is damaged.
        """
        with sqlite_errors(self._path), self._reader.read() as connection:
            return attachments.read_descriptor(connection, machine)

    def tags(self, uuid: str) -> frozenset[str]:  # noqa: ARG002 - none of them
        """None: a pool has no tags."""
        return frozenset()

    def can_back_up(self, machine: Machine) -> bool:  # noqa: ARG002 - none of them
        """Never: what runs a machine of a pool is not known."""
        return False

    def begin_backup(self, machine: Machine) -> Backup:
        """Raises StaleHandle: see :meth:`can_back_up`."""
        raise StaleHandle(f"{machine.name}: no backup of a machine in a pool can be made")

    def volume_uuids(self) -> set[str]:
        """UUIDs of the volumes that machines are on."""
        return self._column("SELECT uuid FROM volumes")

    def registered_volumes(self, among: Collection[str]) -> set[str]:
        """Those of them that machines are on."""
        return self.volume_uuids().intersection(among) if among else set()

    def taken(self) -> Taken:
        """UUIDs, kinds with names, and MAC addresses of all machines, whatever is stored as these."""
        with sqlite_errors(self._path), self._reader.read() as connection:
            machines = list(rows.fetch(connection, "SELECT uuid, kind, name FROM machines"))
        return Taken(
            uuids={str(uuid) for uuid, _, _ in machines},
            names={(str(kind), str(name)) for _, kind, name in machines},
            macs=self.macs(),
        )

    def volumes(self) -> dict[str, Volume]:
        """The volumes that machines are on, by UUID; damaged machines have none."""
        return {disk.volume.uuid: disk.volume for machine in self.snapshot().machines for disk in machine.disks}

    def replace(self, machine: Machine) -> Machine:
        """Put a new definition in the place of the one with the same UUID, and return it as it is stored.

        ``created`` stays; ``modified`` becomes later than it was, whatever the clock says. Raises MachineNotFound,
        NameTaken, InvalidDefinition.
        """
        with self._change() as connection:
            match = _match(connection, machine.uuid, None)
            old = _parse(connection, match)
            modified = max(machine.modified, old.modified + 1)
            new = msgspec.structs.replace(machine, created=old.created, modified=modified)
            check_machine(new)
            rows.delete_machine(connection, match.id)
            _insert(connection, new)
            attachments.retain(connection, new)
        return new

    def remove(self, name_or_uuid: str, kind: MachineKind | None = None, *, give_up: Collection[str] = ()) -> Removed:
        """Take a machine out, damaged or not; its images stay. Raises MachineNotFound, InvalidDefinition.

        Of its volumes, those with a UUID among ``give_up`` are noted as unfinished ones are, in the same change.
        """
        with self._change() as connection:
            match = _match(connection, name_or_uuid, kind)
            volumes = rows.fetch(
                connection,
                "SELECT volumes.uuid, path FROM disks JOIN volumes ON volumes.id = volume WHERE machine = ?"
                " ORDER BY position",
                (match.id,),
            )
            attachments.forget(connection, match.id)
            rows.delete_machine(connection, match.id)
            given_up = [str(uuid) for uuid, _ in volumes if uuid in give_up]
            connection.executemany("INSERT INTO unfinished_volumes (uuid) VALUES (?)", [(uuid,) for uuid in given_up])
        images = [rows.printable(path) for uuid, path in volumes if uuid not in give_up]
        return Removed(match.uuid, match.name, match.kind, images, given_up)


def _match(connection: sqlite3.Connection, name_or_uuid: str, kind: MachineKind | None) -> _Match:
    # An argument that is not UTF-8 cannot be bound as text; as these bytes it is like no stored text.
    name, uuid = (text.encode("utf-8", "surrogatepass") for text in (name_or_uuid, name_or_uuid.lower()))
    selected = rows.fetch(
        connection,
        "SELECT id, uuid, name, kind FROM machines WHERE name = CAST(? AS TEXT) OR uuid = CAST(? AS TEXT)"
        " ORDER BY kind DESC, uuid",
        (name, uuid),
    )
    found = [_Match(row[0], *map(rows.printable, row[1:])) for row in selected if kind in {None, row[3]}]
    if not found:
        raise MachineNotFound(
            f"there is no {kind or 'machine'} {name_or_uuid!r}", "'ovafs vm list' shows what there is"
        )
    if len(found) > 1:
        raise InvalidDefinition(
            f"{name_or_uuid!r} means {' and '.join(f'the {match.kind} {match.uuid}' for match in found)}",
            "say which by its UUID (or --template)",
        )
    return found[0]


def _parse(connection: sqlite3.Connection, match: _Match) -> Machine:
    machines, damaged = rows.parse_rows(rows.read_one(connection, match.id))
    for machine in damaged:
        raise InvalidDefinition(f"{machine.name} is damaged in the catalog: {machine.reason}", machine.hint)
    return machines[0]


def _insert(connection: sqlite3.Connection, machine: Machine) -> None:
    taken = connection.execute("SELECT uuid FROM machines WHERE kind = ? AND name = ?", (machine.kind, machine.name))
    if row := taken.fetchone():
        raise NameTaken(f"there is a {machine.kind} {machine.name!r} already ({row[0]})", "choose another name")
    for nic in machine.nics:
        query = "SELECT machines.name FROM nics JOIN machines ON machines.id = machine WHERE mac = ?"
        for (user,) in rows.fetch(connection, query, (nic.mac,)):
            raise InvalidDefinition(f"the MAC address {nic.mac} is used by {user!r} already", "choose another one")
    try:
        rows.insert_machine(connection, machine)
    except sqlite3.IntegrityError as error:
        raise InvalidDefinition(f"{machine.name!r} cannot be added: {error}") from error
