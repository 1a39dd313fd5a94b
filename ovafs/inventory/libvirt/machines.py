"""From a libvirt domain to a machine of the neutral model."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import msgspec

from ovafs.errors import InvalidDefinition
from ovafs.inventory.rules import check_machine
from ovafs.model import Disk, Machine, MachineKind, Nic, Volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovafs.formats.domain.read import Domain, VolumeSource


def machine_of(domain: Domain, kind: MachineKind, path_of: Callable[[VolumeSource], str]) -> Machine:
    """The machine that ``domain`` is; its times are 0, since libvirt has none.

    ``path_of`` finds the file of a volume. UUIDs of disks and adapters, which libvirt does not give either, follow
    from the domain's: they are the same wherever and whenever the machine is looked at. Raises InvalidDefinition.
    """
    for disk in domain.disks:
        if disk.refused:
            raise InvalidDefinition(f"disk {disk.target} {disk.refused}")
    orders = [disk.boot_order for disk in domain.disks if disk.boot_order]
    machine = Machine(
        uuid=domain.uuid,
        name=domain.name,
        kind=kind,
        description=domain.description,
        memory=domain.memory,
        cpu=domain.cpu,
        firmware=domain.firmware,
        os=domain.os,
        created=0,
        modified=0,
        disks=tuple(
            Disk(
                uuid=_derived(domain, "disk", disk.target),
                alias=f"{domain.name[:240]}_{disk.target}",
                volume=Volume(
                    uuid=_derived(domain, "volume", disk.target), path=path_of(disk.source), format=disk.format
                ),
                interface=disk.interface,
                boot=bool(orders) and disk.boot_order == min(orders),
            )
            for disk in domain.disks
        ),
        nics=tuple(
            Nic(
                uuid=_derived(domain, "nic", nic.mac),
                name=f"nic{number}",
                network=nic.network,
                mac=nic.mac,
                model=nic.model,
            )
            for number, nic in enumerate(domain.nics, 1)
        ),
    )
    check_machine(machine)
    return machine


def disk_targets(domain: Domain) -> dict[str, str]:
    """Targets ("vda") of the domain's disks by the UUIDs that they have as disks of a machine."""
    return {_derived(domain, "disk", disk.target): disk.target for disk in domain.disks}


def with_times(machine: Machine, created: int, modified: int) -> Machine:
    """The machine with its times, in whole seconds since the epoch."""
    return msgspec.structs.replace(machine, created=created, modified=modified)


def _derived(domain: Domain, kind: str, name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"urn:ovafs:{domain.uuid}:{kind}:{name}"))
