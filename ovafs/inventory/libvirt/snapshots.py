"""Snapshots of domains as machines of their own, ``NAME@SNAPSHOT``.

An external snapshot leaves a disk's files as they are and lets the domain write to an overlay. So the files are what
the disk was, until somebody writes to them all the same: a block commit does, which leaves the snapshot's metadata
behind. Then the domain itself is on such a file again, or its time tells. An internal one lies in the image that the
domain goes on to write to: it can be read while nobody does.
"""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

import msgspec

from ovafs.errors import InvalidDefinition, MachineNotFound
from ovafs.formats.domain.read import read_domain
from ovafs.formats.domain.snapshot import read_snapshot
from ovafs.inventory.inventory import DamagedMachine
from ovafs.inventory.libvirt.machines import machine_of, with_times
from ovafs.inventory.rows import printable
from ovafs.model import DiskFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from ovafs.formats.domain.read import VolumeSource
    from ovafs.formats.domain.snapshot import DomainSnapshot
    from ovafs.inventory.libvirt.connection import DomainText
    from ovafs.model import Machine, MachineKind

# QEMU finishes with a file a moment after libvirt has noted the time of the snapshot.
_SETTLING_SECONDS = 10


def snapshot_machines(
    domain: DomainText, now: Machine, path_of: Callable[[VolumeSource], str]
) -> Iterator[Machine | DamagedMachine]:
    """A machine for each snapshot of ``domain``, which is ``now``; one that cannot be read is damaged."""
    in_use = {disk.volume.path for disk in now.disks}
    for number, text in enumerate(domain.snapshots):
        name = f"{domain.name}@{number}"
        try:
            snapshot = read_snapshot(text)
            name = f"{domain.name}@{snapshot.name}"
            machine = _machine(domain, snapshot, now.kind, path_of)
            _check_disks(machine, snapshot, in_use)
            yield machine
        except (InvalidDefinition, MachineNotFound) as error:
            yield DamagedMachine(printable(name), error.summary, _uuid(domain, name), now.kind, error.hint)


def _machine(
    domain: DomainText, snapshot: DomainSnapshot, kind: MachineKind, path_of: Callable[[VolumeSource], str]
) -> Machine:
    name = f"{domain.name}@{snapshot.name}"
    then = read_domain(snapshot.domain)
    machine = machine_of(then._replace(uuid=_uuid(domain, name), name=name), kind, path_of)
    disks = []
    for disk, target in zip(machine.disks, then.disks, strict=True):
        if target.target in snapshot.external:
            disks.append(disk)
        elif target.target in snapshot.internal and disk.volume.format is DiskFormat.QCOW2:
            inside = msgspec.structs.replace(disk.volume, snapshot=snapshot.name)
            disks.append(msgspec.structs.replace(disk, volume=inside))
        else:
            raise InvalidDefinition(f"disk {target.target} is no part of the snapshot")
    return with_times(msgspec.structs.replace(machine, disks=tuple(disks)), snapshot.created, snapshot.created)


def _check_disks(machine: Machine, snapshot: DomainSnapshot, in_use: Collection[str]) -> None:
    for disk in machine.disks:
        if disk.volume.snapshot:
            continue
        try:
            written = os.stat(disk.volume.path).st_mtime
        except OSError:
            continue  # who plans the machine says what is wrong with it
        if disk.volume.path in in_use or written > snapshot.created + _SETTLING_SECONDS:
            raise InvalidDefinition(
                f"{disk.volume.path} was written to after the snapshot was made: it is not what it was",
                "remove the snapshot's metadata: 'virsh snapshot-delete --metadata'",
            )


def _uuid(domain: DomainText, name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"urn:ovafs:{domain.uuid}:snapshot:{name}"))
