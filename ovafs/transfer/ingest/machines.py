"""From what a descriptor says to a machine of the pool; what cannot be kept as it was is said in words."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from ovafs.errors import NameTaken
from ovafs.formats.ovf.read_model import ControllerKind, label_of
from ovafs.inventory.define import new_mac
from ovafs.inventory.rules import check_machine
from ovafs.model import (
    CpuTopology,
    Disk,
    DiskInterface,
    Firmware,
    Machine,
    MachineKind,
    Nic,
    NicModel,
    State,
    Volume,
    state_of,
)
from ovafs.transfer.ingest.choices import Clash, Identity
from ovafs.units import GIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ovafs.formats.ovf.read_model import DiskSlot, NetworkAdapter, PackageDisk, PackageFile, RemovableDrive, System
    from ovafs.inventory.destination import Taken
    from ovafs.transfer.ingest.choices import DiskChoices, ImportChoices

_INTERFACES = {
    ControllerKind.IDE: DiskInterface.IDE,
    ControllerKind.SATA: DiskInterface.SATA,
    ControllerKind.VIRTIO: DiskInterface.VIRTIO,
    ControllerKind.VIRTIO_SCSI: DiskInterface.VIRTIO_SCSI,
}


_MAX_LABELS = 20
"""Kinds of elements without a place that a message lists; descriptors of appliances have hundreds."""


class Landed(msgspec.Struct, frozen=True, kw_only=True):
    """Where the disks of a package are, and what was chosen for single ones; the texts of states, by file name."""

    volumes: Mapping[PackageDisk, Volume]
    chosen: Mapping[PackageDisk, DiskChoices]
    states: Mapping[str, bytes]


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
    firmware = choices.firmware or system.firmware
    nvram = _state(system.nvram, landed.states)
    if nvram is not None and choices.firmware is Firmware.BIOS:
        warnings.append("the state of the UEFI firmware is left out; a BIOS has none")
        nvram = None
    now = int(time.time())
    machine = Machine(
        uuid=_uuid(system.uuid, choices.uuid, taken, warnings),
        name=name,
        kind=kind,
        description=description.replace("\r\n", "\n").replace("\r", "\n"),
        memory=memory or GIB,
        cpu=choices.cpu or system.cpu or CpuTopology(),
        firmware=firmware,
        os=choices.os or system.os,
        created=now if system.created is None else max(0, min(system.created, now)),
        modified=now,
        disks=_disks(system.disks, name, landed, warnings),
        nics=_nics(system.nics, choices, taken, warnings),
        nvram=nvram,
        tpm=_state(system.tpm, landed.states),
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


def _state(file: PackageFile | None, states: Mapping[str, bytes]) -> State | None:
    text = states.get(file.href) if file is not None else None
    return None if text is None else state_of(text)


def _left_out(system: System) -> list[str]:
    """What the pool has no place for."""
    return [*map(_drive_left_out, system.drives), *without_place(system.unknown)]


def _drive_left_out(drive: RemovableDrive) -> str:
    if drive.file is not None:
        return f"the medium {drive.file.href} is left out"
    return f"the {'floppy' if drive.is_floppy else 'CD'} drive {drive.name!r} is left out"


def without_place(pieces: Sequence[str]) -> list[str]:
    """What is said of elements that the model has no place for: once for all of them."""
    if not pieces:
        return []
    counts = Counter(map(label_of, pieces))
    labels = [f"{label} ({count} times)" if count > 1 else label for label, count in counts.items()]
    more = f" and {len(labels) - _MAX_LABELS} more" if len(labels) > _MAX_LABELS else ""
    return [f"no place in the pool, kept in the descriptor: {', '.join(labels[:_MAX_LABELS])}{more}"]
