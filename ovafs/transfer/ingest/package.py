"""A whole import, from the first byte of a package to registered machines."""

from __future__ import annotations

import contextlib
import uuid
from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import InvalidPackage
from ovafs.model import MachineKind, Volume
from ovafs.transfer.ingest.landing import DryLanding, PoolLanding
from ovafs.transfer.ingest.machines import ImportChoices, Taken, make_machine
from ovafs.transfer.ingest.session import Ingest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ovafs.inventory.pool import Pool
    from ovafs.model import Machine
    from ovafs.transfer.ingest.session import Contents


class Imported(NamedTuple):
    """The machines of a package as they were registered, or would be, and what could not be kept as it was."""

    machines: list[Machine]
    warnings: list[str]


def import_package(pool: Pool, pieces: Iterable[memoryview], default_name: str, choices: ImportChoices) -> Imported:
    """Import the package that ``pieces`` are, one behind the other, into ``pool``: all of it, or nothing.

    ``default_name`` is for a machine that has no name. Blocks. Raises InvalidPackage, UnsupportedFeature,
    InvalidDefinition, NoSpace, WriteFailed, SourceError.
    """
    with (
        contextlib.closing(PoolLanding(pool, choices.format)) as landing,
        contextlib.closing(Ingest(landing, choices.spool_limit)) as ingest,
    ):
        contents = _take_in(ingest, pieces)
        volumes = {name: landing.volume_of(disk.writer) for name, disk in contents.disks.items() if disk.writer}
        imported = _machines(contents, volumes, choices, _taken(pool), default_name)
        landing.commit(imported.machines)
        ingest.hand_over()
    return imported


def check_package(pool: Pool, pieces: Iterable[memoryview], default_name: str, choices: ImportChoices) -> Imported:
    """Do everything that :func:`import_package` does, but store and register nothing."""
    with contextlib.closing(Ingest(DryLanding(), choices.spool_limit)) as ingest:
        contents = _take_in(ingest, pieces)
    volumes = {name: Volume(uuid=str(uuid.uuid4()), path=f"/{name}", format=choices.format) for name in contents.disks}
    return _machines(contents, volumes, choices, _taken(pool), default_name)


def _taken(pool: Pool) -> Taken:
    names = {(MachineKind(kind), name) for kind, name in pool.names()}
    return Taken(uuids=pool.uuids(), names=names, macs=pool.macs())


def _take_in(ingest: Ingest, pieces: Iterable[memoryview]) -> Contents:
    for piece in pieces:
        ingest.receive_data(piece)
    return ingest.finish()


def _machines(
    contents: Contents, volumes: dict[str, Volume], choices: ImportChoices, taken: Taken, default_name: str
) -> Imported:
    systems = contents.descriptor.systems
    if not systems:
        raise InvalidPackage("the descriptor has no virtual machine")
    if choices.name and len(systems) > 1:
        raise InvalidPackage(
            f"the package has {len(systems)} machines; one name is not enough", hint="import it without --name"
        )
    machines, warnings = [], list(contents.warnings)
    for system in systems:
        machine, said = make_machine(system, volumes, choices, taken, default_name)
        machines.append(machine)
        warnings += said
    return Imported(machines, warnings)
