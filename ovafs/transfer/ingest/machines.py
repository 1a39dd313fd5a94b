"""From what a descriptor says to a machine of the pool; what cannot be kept as it was is said in words."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

import msgspec

from ovafs.errors import NameTaken
from ovafs.formats.ovf.read_model import ControllerKind
from ovafs.inventory.define import new_mac
from ovafs.inventory.rules import check_machine
from ovafs.model import CpuTopology, Disk, DiskInterface, Machine, MachineKind, Nic, NicModel, Volume
from ovafs.transfer.ingest.choices import Clash, Identity
from ovafs.units import GIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovafs.formats.ovf.read_model import DiskSlot, NetworkAdapter, PackageDisk, System
    from ovafs.transfer.ingest.choices import DiskChoices, ImportChoices

_INTERFACES = {
    ControllerKind.IDE: DiskInterface.IDE,
    ControllerKind.SATA: DiskInterface.SATA,
    ControllerKind.VIRTIO: DiskInterface.VIRTIO,
    ControllerKind.VIRTIO_SCSI: DiskInterface.VIRTIO_SCSI,
}


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What the pool has already, and a new machine cannot have too. ``names`` are of (kind, name)."""

    uuids: set[str]
    names: set[tuple[str, str]]
    macs: set[str]


class Landed(msgspec.Struct, frozen=True, kw_only=True):
    """Where the disks of a package are, and what was chosen for single ones."""

    volumes: Mapping[PackageDisk, Volume]
    chosen: Mapping[PackageDisk, DiskChoices]


def make_machine(
    system: System, landed: Landed, choices: ImportChoices, taken: Taken, default_name: str | None
) -> tuple[Machine, list[str]]:
    """The machine for ``system``; and warnings.

    ``default_name`` is for a system without a name; None: it is not known yet, and any will do. What the machine
    takes is added to ``taken``. Raises InvalidDefinition when what the package says cannot be, NameTaken when a clash
    shall be refused.
    """
    warnings = list(system.warnings)
    kind = choices.kind or system.kind
    name = _name(choices.name or system.name or default_name, kind, choices.on_clash, taken, warnings)
    memory = system.memory if choices.memory is None else choices.memory
    if memory is None:
        warnings.append("the package does not say how much memory; the machine has 1 GiB")
    description = system.description if choices.description is None else choices.description
    now = int(time.time())
    machine = Machine(
        uuid=_uuid(system.uuid, choices.uuid, taken, warnings),
        name=name,
        kind=kind,
        description=description.replace("\r\n", "\n").replace("\r", "\n"),
        memory=memory or GIB,
        cpu=choices.cpu or system.cpu or CpuTopology(),
        firmware=choices.firmware or system.firmware,
        os=choices.os or system.os,
        created=now if system.created is None else max(0, min(system.created, now)),
        modified=now,
        disks=_disks(system.disks, name, landed, warnings),
        nics=_nics(system.nics, choices, taken, warnings),
    )
    warnings += _left_out(system)
    check_machine(machine)
    taken.uuids.add(machine.uuid)
    taken.names.add((kind, name))
    return machine, warnings


def _name(wanted: str | None, kind: MachineKind, on_clash: Clash, taken: Taken, warnings: list[str]) -> str:
    """``wanted`` or, if it is taken, one that is free; "imported" while nobody knows which one is wanted."""
    if wanted is None:
        return _free_name("imported", kind, taken)
    name = _free_name(wanted, kind, taken)
    if name != wanted:
        if on_clash is Clash.REFUSE:
            hint = "choose another name, remove the other machine, or let clashes get a suffix"
            raise NameTaken(f"the name {wanted!r} is taken by another {kind}", hint)
        warnings.append(f"the name is taken; the machine is called {name!r}")
    return name


def _free_name(name: str, kind: MachineKind, taken: Taken) -> str:
    candidate, number = name, 2
    while (kind, candidate) in taken.names:
        candidate, number = f"{name[:240]}-{number}", number + 1
    return candidate


def _uuid(wanted: str, identity: Identity, taken: Taken, warnings: list[str]) -> str:
    if wanted and identity is Identity.KEEP:
        if wanted not in taken.uuids:
            return wanted
        warnings.append(f"the UUID {wanted} is taken; the machine has a new one")
    return str(uuid.uuid4())


def _disks(slots: Sequence[DiskSlot], name: str, landed: Landed, warnings: list[str]) -> tuple[Disk, ...]:
    boot = next((number for number, slot in enumerate(slots) if slot.boot), 0)
    disks = []
    for number, slot in enumerate(slots):
        alias = slot.alias or f"{name[:240]}_Disk{number + 1}"
        chosen = landed.chosen.get(slot.disk)
        interface = (chosen and chosen.interface) or (_INTERFACES.get(slot.controller) if slot.controller else None)
        if interface is None:
            interface = DiskInterface.SATA  # the one that most guests boot from without new drivers
            warnings.append(f"disk {alias!r}: controller {slot.model or slot.controller or 'unknown'} becomes SATA")
        if slot.disk.file is None:
            warnings.append(f"disk {alias!r}: has no file in the package; it is empty")
        volume = landed.volumes[slot.disk]
        disks.append(Disk(uuid=str(uuid.uuid4()), alias=alias, volume=volume, interface=interface, boot=number == boot))
    return tuple(disks)


def _nics(
    adapters: Sequence[NetworkAdapter], choices: ImportChoices, taken: Taken, warnings: list[str]
) -> tuple[Nic, ...]:
    nics = []
    for number, adapter in enumerate(adapters, 1):
        name = adapter.name or f"nic{number}"
        if adapter.model is None:
            warnings.append(f"adapter {name!r}: model {adapter.model_text or 'unknown'} becomes e1000")
        wanted = adapter.mac if choices.mac is Identity.KEEP else ""
        mac = _free_mac(wanted, f"adapter {name!r}", taken, warnings)
        network = choices.network_for(adapter.network)
        nics.append(
            Nic(uuid=str(uuid.uuid4()), name=name, network=network, mac=mac, model=adapter.model or NicModel.E1000)
        )
    return tuple(nics)


def _free_mac(wanted: str, adapter: str, taken: Taken, warnings: list[str]) -> str:
    is_multicast = bool(wanted) and int(wanted[:2], 16) & 1 == 1
    mac = wanted
    if not wanted or is_multicast or wanted in taken.macs:
        mac = new_mac(taken.macs)
        if wanted:
            why = "is a multicast address" if is_multicast else "is taken"
            warnings.append(f"{adapter}: the MAC address {wanted} {why}; it has {mac}")
    taken.macs.add(mac)
    return mac


def _left_out(system: System) -> list[str]:
    """What the pool has no place for."""
    left = []
    if system.nvram is not None:
        left.append(f"the firmware's variables ({system.nvram.href}) are left out")
    if system.tpm is not None:
        left.append(f"the TPM's state ({system.tpm.href}) is left out")
    left += [f"the medium {drive.file.href} is left out" for drive in system.drives if drive.file is not None]
    if system.unknown:
        left.append(f"{len(system.unknown)} elements of the descriptor have no place in the pool")
    return left
