"""Imports that are on stable storage, whose machines are registered once their guests have been adapted.

They are kept in the journal from the moment that their writers have their answer: a process that ends in between
loses none of them. Their volumes stay noted, as those of this import.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from ovafs.model import Machine  # noqa: TC001 - msgspec needs it to read what was kept

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from ovafs.inventory.destination import Taken
    from ovafs.model import MachineKind

log = logging.getLogger(__name__)


class PendingImport(msgspec.Struct, frozen=True, kw_only=True):
    """Machines as they are going to be; ``states`` and ``descriptor`` belong to them.

    ``entry`` is the number of the upload's entry in the drop directory, None for an import that nobody was told of.
    ``begun`` is in seconds since the epoch. ``is_required``: without an adaptation it is not registered.
    ``is_adapted``: everything is done but to bring the changes home and to register; ``machines`` have the new
    hardware then. ``failure`` says why it waits for an administrator.
    """

    uuid: str
    machines: tuple[Machine, ...]
    states: dict[str, bytes]
    descriptor: bytes
    begun: float
    entry: int | None = None
    is_required: bool = False
    is_adapted: bool = False
    warnings: tuple[str, ...] = ()
    failure: str = ""

    @property
    def volumes(self) -> list[str]:
        """UUIDs of all volumes."""
        return [disk.volume.uuid for machine in self.machines for disk in machine.disks]

    @property
    def paths(self) -> list[str]:
        """Their files, in the same order."""
        return [disk.volume.path for machine in self.machines for disk in machine.disks]


_DECODER = msgspec.msgpack.Decoder(PendingImport)


def keep(connection: sqlite3.Connection, pending: PendingImport) -> None:
    """Add it, or put it in the place of what was kept of it; its volumes are noted already."""
    connection.execute(
        "INSERT OR REPLACE INTO pending_imports (uuid, data) VALUES (?, ?)",
        (pending.uuid, msgspec.msgpack.encode(pending)),
    )
    connection.executemany(
        "UPDATE unfinished_volumes SET pending = ? WHERE uuid = ?",
        [(pending.uuid, volume) for volume in pending.volumes],
    )


def give_up(connection: sqlite3.Connection, uuid: str) -> None:
    """Forget it; its volumes are nobody's then."""
    connection.execute("DELETE FROM pending_imports WHERE uuid = ?", (uuid,))
    connection.execute("UPDATE unfinished_volumes SET pending = NULL WHERE pending = ?", (uuid,))


def forget_registered(connection: sqlite3.Connection) -> None:
    """Forget those whose volumes are no longer noted."""
    connection.execute(
        "DELETE FROM pending_imports"
        " WHERE uuid NOT IN (SELECT pending FROM unfinished_volumes WHERE pending IS NOT NULL)"
    )


def read_all(connection: sqlite3.Connection) -> list[PendingImport]:
    """All of them, the oldest first; what cannot be read is said in the log and stays."""
    found = []
    for uuid, data in connection.execute("SELECT uuid, data FROM pending_imports").fetchall():
        try:
            found.append(_DECODER.decode(data))
        except (msgspec.MsgspecError, TypeError) as error:
            log.warning("the import %.40r, which waits for its adaptation, cannot be read: %s", uuid, error)
    return sorted(found, key=lambda pending: pending.begun)


def reserve(taken: Taken, pending: Iterable[PendingImport], kinds: Sequence[MachineKind] = ()) -> Taken:
    """What is taken, with what these are going to take; names of all ``kinds`` if there are any."""
    for machine in (machine for one in pending for machine in one.machines):
        taken.uuids.add(machine.uuid)
        taken.names.update((str(kind), machine.name) for kind in kinds or (machine.kind,))
        taken.macs.update(nic.mac for nic in machine.nics)
    return taken
