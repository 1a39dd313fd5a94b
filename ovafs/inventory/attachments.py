"""What the catalog keeps with a machine beside its definition: state of firmware and TPM, and its descriptor.

None of it is read for a listing. It belongs to the machine's UUID: it stays when the definition is replaced, and
goes with the machine. Machines of one package share one descriptor.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import InvalidDefinition, MachineNotFound
from ovafs.model import state_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from ovafs.model import Machine, StateKind

MAX_DESCRIPTOR = 8 << 20
"""Bytes of a descriptor: what the reader of descriptors takes."""


class Attachments(NamedTuple):
    """What is kept with the machines of one import: texts of states by their digests, and the descriptor or b""."""

    states: Mapping[str, bytes]
    descriptor: bytes


NONE = Attachments({}, b"")


def keep(connection: sqlite3.Connection, machine: Machine, kept: Attachments) -> None:
    """Store what belongs to a machine that is new. Raises InvalidDefinition for a state without its text."""
    for kind, state in machine.states.items():
        text = kept.states.get(state.digest)
        if text is None:
            raise InvalidDefinition(f"{machine.name!r} has a state of its {kind}, but not the text of it")
        connection.execute(
            "INSERT OR REPLACE INTO states (machine, kind, size, digest, data) VALUES (?, ?, ?, ?, ?)",
            (machine.uuid, kind, state.size, state.digest, text),
        )
    if kept.descriptor:
        digest = hashlib.sha256(kept.descriptor).hexdigest()
        connection.execute(
            "INSERT OR IGNORE INTO descriptors (digest, data) VALUES (?, ?)", (digest, zlib.compress(kept.descriptor))
        )
        connection.execute("INSERT OR REPLACE INTO machine_descriptors VALUES (?, ?)", (machine.uuid, digest))


def retain(connection: sqlite3.Connection, machine: Machine) -> None:
    """Drop states that the machine's new definition does not have. Raises InvalidDefinition for one that is new."""
    stored = dict(connection.execute("SELECT kind, digest FROM states WHERE machine = ?", (machine.uuid,)).fetchall())
    for kind, state in machine.states.items():
        if stored.pop(kind, None) != state.digest:
            raise InvalidDefinition(f"{machine.name!r} cannot get another state of its {kind}")
    for kind in stored:
        connection.execute("DELETE FROM states WHERE machine = ? AND kind = ?", (machine.uuid, kind))


def forget(connection: sqlite3.Connection, machine: object) -> None:
    """Drop everything that is kept with the machine with this row id, before its rows are deleted."""
    for table in ("states", "machine_descriptors"):
        connection.execute(
            f"DELETE FROM {table} WHERE machine = (SELECT uuid FROM machines WHERE id = ?)",  # noqa: S608 # two names
            (machine,),
        )
    connection.execute("DELETE FROM descriptors WHERE digest NOT IN (SELECT digest FROM machine_descriptors)")


def read_state(connection: sqlite3.Connection, machine: Machine, kind: StateKind) -> bytes:
    """The text of a state, which is what the definition says, or an error."""
    query = "SELECT data FROM states WHERE machine = ? AND kind = ? AND digest = ?"
    wanted = machine.states[kind]
    row = connection.execute(query, (machine.uuid, kind, wanted.digest)).fetchone()
    if row is None:
        raise MachineNotFound(
            f"the state of the {kind} of {machine.name!r} is gone: the machine was changed or removed"
        )
    text = bytes(row[0])
    if state_of(text) != wanted:
        raise InvalidDefinition(f"the state of the {kind} of {machine.name!r} is damaged in the catalog")
    return text


def read_descriptor(connection: sqlite3.Connection, machine: Machine) -> bytes | None:
    """The descriptor of a machine, or None."""
    query = "SELECT digest, data FROM machine_descriptors JOIN descriptors USING (digest) WHERE machine = ?"
    row = connection.execute(query, (machine.uuid,)).fetchone()
    if row is None:
        return None
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(bytes(row[1]), MAX_DESCRIPTOR + 1)
    except zlib.error:
        data = b""
    if hashlib.sha256(data).hexdigest() != row[0]:
        raise InvalidDefinition(f"the descriptor of {machine.name!r} is damaged in the catalog")
    return data
