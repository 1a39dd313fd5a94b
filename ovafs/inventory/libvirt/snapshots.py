"""Snapshots of domains as machines of their own, ``NAME@SNAPSHOT``: those whose disks lie in files of their own.

An external snapshot leaves the files as they are and lets the domain write to overlays. So the files are what the disks
were, until somebody writes to them all the same: a block commit does, which leaves the snapshot's metadata behind.
"""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

from ovafs.errors import InvalidDefinition, MachineNotFound
from ovafs.formats.domain.read import read_domain
from ovafs.formats.domain.snapshot import read_snapshot
from ovafs.inventory.inventory import DamagedMachine
from ovafs.inventory.libvirt.machines import machine_of, with_times
from ovafs.inventory.rows import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ovafs.formats.domain.read import VolumeSource
    from ovafs.formats.domain.snapshot import DomainSnapshot
    from ovafs.inventory.libvirt.connection import DomainText
    from ovafs.model import Machine, MachineKind

# QEMU finishes with a file a moment after libvirt has noted the time of the snapshot.
_SETTLING_SECONDS = 10


def snapshot_machines(
    domain: DomainText, kind: MachineKind, path_of: Callable[[VolumeSource], str]
) -> Iterator[Machine | DamagedMachine]:
    """A machine for each snapshot; one that cannot be read is damaged, with the reason."""
    for number, text in enumerate(domain.snapshots):
        name = f"{domain.name}@{number}"
        try:
            snapshot = read_snapshot(text)
            name = f"{domain.name}@{snapshot.name}"
            machine = _machine(domain, snapshot, kind, path_of)
            _check_disks(machine, snapshot)
            yield machine
        except (InvalidDefinition, MachineNotFound) as error:
            yield DamagedMachine(printable(name), error.summary, _uuid(domain, name), kind, error.hint)


def _machine(
    domain: DomainText, snapshot: DomainSnapshot, kind: MachineKind, path_of: Callable[[VolumeSource], str]
) -> Machine:
    name = f"{domain.name}@{snapshot.name}"
    then = read_domain(snapshot.domain)
    if inside := [disk.target for disk in then.disks if disk.target not in snapshot.external]:
        raise InvalidDefinition(
            f"the snapshot of disk {inside[0]} lies inside its image, which is not supported",
            "external ones are: 'virsh snapshot-create-as --disk-only'",
        )
    machine = machine_of(then._replace(uuid=_uuid(domain, name), name=name), kind, path_of)
    return with_times(machine, snapshot.created, snapshot.created)


def _check_disks(machine: Machine, snapshot: DomainSnapshot) -> None:
    for disk in machine.disks:
        try:
            written = os.stat(disk.volume.path).st_mtime
        except OSError:
            continue  # who plans the machine says what is wrong with it
        if written > snapshot.created + _SETTLING_SECONDS:
            raise InvalidDefinition(
                f"{disk.volume.path} was written to after the snapshot was made: it is not what it was",
                "remove the snapshot's metadata: 'virsh snapshot-delete --metadata'",
            )


def _uuid(domain: DomainText, name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"urn:ovafs:{domain.uuid}:snapshot:{name}"))
