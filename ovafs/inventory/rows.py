"""Machines as rows of the catalog, and back. What is read is not trusted: each machine is checked on its own."""

from __future__ import annotations

import functools
import sqlite3
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ovafs.errors import InvalidDefinition
from ovafs.inventory.inventory import DamagedMachine, Snapshot
from ovafs.inventory.rules import check_machine
from ovafs.model import Machine, MachineKind, StateKind
from ovafs.printable import printable as escaped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Row = tuple[object, ...]

_MACHINES = """
    SELECT id, uuid, kind, name, description, memory, sockets, cores, threads, firmware, os, created, modified
    FROM machines {where} ORDER BY kind DESC, name, id
"""
# The outer join keeps a disk whose volume is missing, so that the machine is reported and not shown with one disk less.
_DISKS = """
    SELECT machine, disks.uuid, alias, interface, boot, volumes.uuid, path, format, secret
    FROM disks LEFT JOIN volumes ON volumes.id = volume {where} ORDER BY machine, position
"""
_NICS = "SELECT machine, uuid, name, network, mac, model FROM nics {where} ORDER BY machine, position"

_STATES = """
    SELECT machines.id, states.kind, size, digest FROM states JOIN machines ON machines.uuid = states.machine {where}
"""

_FLAGS = {0: False, 1: True}

_REPAIR = "remove it and add it again"


class Rows(NamedTuple):
    """What was read of one state of the catalog, unchecked."""

    machines: list[Row]
    disks: list[Row]
    nics: list[Row]
    states: list[Row]


def fetch(connection: sqlite3.Connection, query: str, parameters: tuple[object, ...] = ()) -> list[Row]:
    """All rows of a query, where bytes that are not UTF-8 come as surrogates, as in file names (PEP 383)."""
    try:
        return connection.execute(query, parameters).fetchall()
    except sqlite3.OperationalError as error:
        if hasattr(error, "sqlite_errorcode"):
            raise
        # Not SQLite's error: Python's decoder met such bytes, and they must harm their own machine only. Decoding
        # this way from the start would double the time of the query.
        connection.text_factory = functools.partial(str, encoding="utf-8", errors="surrogateescape")
        return connection.execute(query, parameters).fetchall()


def read_all(connection: sqlite3.Connection) -> Rows:
    """The rows of every machine."""
    return Rows(*(fetch(connection, query.format(where="")) for query in (_MACHINES, _DISKS, _NICS, _STATES)))


def read_one(connection: sqlite3.Connection, machine: object) -> Rows:
    """The rows of the machine with this row id."""
    return Rows(
        fetch(connection, _MACHINES.format(where="WHERE id = ?"), (machine,)),
        fetch(connection, _DISKS.format(where="WHERE machine = ?"), (machine,)),
        fetch(connection, _NICS.format(where="WHERE machine = ?"), (machine,)),
        fetch(connection, _STATES.format(where="WHERE machines.id = ?"), (machine,)),
    )


def parse_rows(rows: Rows) -> Snapshot:
    """The machines that are right, in the order of the rows, and the others with what is wrong."""
    disks = _group(rows.disks)
    nics = _group(rows.nics)
    states = _group(rows.states)
    snapshot = Snapshot([], [])
    for row in rows.machines:
        try:
            machine = _parse_machine(row, *(group.get(row[0], ()) for group in (disks, nics, states)))
        except InvalidDefinition as error:
            snapshot.damaged.append(_damaged(row, str(error)))
        else:
            snapshot.machines.append(machine)
    return snapshot


def _damaged(row: Row, reason: str) -> DamagedMachine:
    row_id, uuid, kind, name, *_ = row
    shown_as = MachineKind.TEMPLATE if kind == MachineKind.TEMPLATE else MachineKind.VM
    return DamagedMachine(printable(name), reason, f"{row_id}/{printable(uuid)}", shown_as, _REPAIR)


def printable(text: object) -> str:
    """Text from the catalog for a terminal or a log, whatever it holds: at most 255 characters, controls escaped."""
    return escaped(str(text)[:255])


def insert_machine(connection: sqlite3.Connection, machine: Machine) -> None:
    """Write a checked machine's rows. The caller's transaction makes them one change."""
    cpu = machine.cpu
    row = connection.execute(
        "INSERT INTO machines (uuid, kind, name, description, memory, sockets, cores, threads, firmware, os, created,"
        " modified) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(machine.uuid, machine.kind, machine.name, machine.description, machine.memory),
            *(cpu.sockets, cpu.cores, cpu.threads, machine.firmware, machine.os, machine.created, machine.modified),
        ),
    ).lastrowid
    for position, disk in enumerate(machine.disks):
        volume = connection.execute(
            "INSERT INTO volumes (uuid, path, format, secret) VALUES (?, ?, ?, ?)",
            (disk.volume.uuid, disk.volume.path, disk.volume.format, disk.volume.secret),
        ).lastrowid
        connection.execute(
            "INSERT INTO disks (machine, position, uuid, alias, volume, interface, boot) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (row, position, disk.uuid, disk.alias, volume, disk.interface, disk.boot),
        )
    for position, nic in enumerate(machine.nics):
        connection.execute(
            "INSERT INTO nics (machine, position, uuid, name, network, mac, model) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (row, position, nic.uuid, nic.name, nic.network, nic.mac, nic.model),
        )


def delete_machine(connection: sqlite3.Connection, machine: object) -> None:
    """Delete the rows of the machine with this row id, its volumes' too. The images stay."""
    volumes = connection.execute("SELECT volume FROM disks WHERE machine = ?", (machine,)).fetchall()
    connection.execute("DELETE FROM machines WHERE id = ?", (machine,))
    connection.executemany("DELETE FROM volumes WHERE id = ?", volumes)


def _group(rows: Iterable[Row]) -> Mapping[object, list[Row]]:
    groups: dict[object, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[0]].append(row)
    return groups


def _parse_machine(row: Row, disks: Iterable[Row], nics: Iterable[Row], states: Iterable[Row]) -> Machine:
    _, uuid, kind, name, description, memory, sockets, cores, threads, firmware, os, created, modified = row
    definition = {
        "uuid": uuid,
        "kind": kind,
        "name": name,
        "description": description,
        "memory": memory,
        "cpu": {"sockets": sockets, "cores": cores, "threads": threads},
        "firmware": firmware,
        "os": os,
        "created": created,
        "modified": modified,
        "disks": [_disk(disk) for disk in disks],
        "nics": [_nic(nic) for nic in nics],
    }
    for _, state, size, digest in states:
        if state not in set(StateKind):
            raise InvalidDefinition(f"it has a state of the unknown kind {printable(state)!r}")
        definition[str(state)] = {"size": size, "digest": digest}
    try:
        machine = msgspec.convert(definition, Machine)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:  # the latter: bytes where a word of a list stood
        raise InvalidDefinition(printable(error)) from error
    check_machine(machine)
    return machine


def _disk(row: Row) -> dict[str, object]:
    _, uuid, alias, interface, boot, volume, path, image_format, secret = row
    return {
        "uuid": uuid,
        "alias": alias,
        "interface": interface,
        "boot": _FLAGS.get(boot, boot) if isinstance(boot, int) else boot,
        "volume": {"uuid": volume, "path": path, "format": image_format, "secret": secret},
    }


def _nic(row: Row) -> dict[str, object]:
    _, uuid, name, network, mac, model = row
    return {"uuid": uuid, "name": name, "network": network, "mac": mac, "model": model}
