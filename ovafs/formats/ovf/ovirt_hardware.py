"""The hardware of a machine as Items of an OVF's VirtualHardwareSection, in oVirt's flavour.

One Item for each device, InstanceIDs counted from 1. The children of an Item stand in the order of the CIM schema
(by name), with what is oVirt's own behind them.

==============================  =============  ================================================================
device                          ResourceType   properties beyond ElementName, InstanceID and ResourceType
==============================  =============  ================================================================
processors                      3              VirtualQuantity = all of them; sockets, cores, threads (oVirt's)
memory                          4              VirtualQuantity in MiB: oVirt never looks at AllocationUnits
IDE, SCSI, SATA controller      5, 6, 20
disk                            17             HostResource; AddressOnParent and Parent unless it is virtio-blk
network adapter                 10             Connection = network, may be empty; ResourceSubType = oVirt's
                                               number of the model; Name and MACAddress (oVirt's)
video card                      32768          VirtualQuantity = monitors; Type, Device (oVirt's)
virtio-scsi controller          0              Type, Device (oVirt's)
TPM                             0              HostResource = its state; Type, Device (oVirt's)
==============================  =============  ================================================================
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from ovafs.formats.ovf.xmltext import escape
from ovafs.model import CpuTopology, Disk, DiskInterface, Machine, Nic, NicModel
from ovafs.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CONTROLLERS = {
    DiskInterface.IDE: (5, "IDE controller"),
    DiskInterface.VIRTIO_SCSI: (6, "SCSI controller"),
    DiskInterface.SATA: (20, "SATA controller"),
}
_NIC_MODELS = {NicModel.RTL8139: 1, NicModel.E1000: 2, NicModel.VIRTIO: 3, NicModel.E1000E: 6}


def hardware_items(machine: Machine, interfaces: Sequence[DiskInterface]) -> Iterator[str]:
    """The Items of the machine, whose disks sit on ``interfaces`` (one for each disk), as lines of XML.

    Raises InvalidDefinition when a text cannot be written in XML.
    """
    numbers = itertools.count(1)
    yield _cpu_item(machine.cpu, next(numbers))
    yield _memory_item(machine.memory // MIB, next(numbers))
    parents: dict[DiskInterface, int] = {}
    for interface, (resource_type, name) in _CONTROLLERS.items():
        if interface in interfaces:
            parents[interface] = next(numbers)
            yield _item(
                ("rasd:ElementName", name),
                ("rasd:InstanceID", parents[interface]),
                ("rasd:ResourceType", resource_type),
            )
    slots = {interface: itertools.count() for interface in parents}
    for disk, interface in zip(machine.disks, interfaces, strict=True):
        slot = (next(slots[interface]), parents[interface]) if interface in parents else None
        yield _disk_item(disk, next(numbers), slot)
    for nic in machine.nics:
        yield _nic_item(nic, next(numbers))
    yield _device_item("Video card", next(numbers), 32768, "video", "vga")
    if DiskInterface.VIRTIO_SCSI in interfaces:
        yield _device_item("VirtIO-SCSI controller", next(numbers), 0, "controller", "virtio-scsi")
    if machine.tpm is not None:
        yield _tpm_item(next(numbers))


def _cpu_item(cpu: CpuTopology, number: int) -> str:
    return _item(
        ("rasd:ElementName", f"{cpu.total} CPU"),
        ("rasd:InstanceID", number),
        ("rasd:ResourceType", 3),
        ("rasd:VirtualQuantity", cpu.total),
        ("rasd:num_of_sockets", cpu.sockets),
        ("rasd:cpu_per_socket", cpu.cores),
        ("rasd:threads_per_cpu", cpu.threads),
        ("rasd:max_num_of_vcpus", cpu.total),
    )


def _memory_item(mebibytes: int, number: int) -> str:
    return _item(
        ("rasd:AllocationUnits", "byte * 2^20"),
        ("rasd:ElementName", f"{mebibytes} MiB of memory"),
        ("rasd:InstanceID", number),
        ("rasd:ResourceType", 4),
        ("rasd:VirtualQuantity", mebibytes),
    )


def _disk_item(disk: Disk, number: int, slot: tuple[int, int] | None) -> str:
    """``slot`` is the address on the controller and the controller's InstanceID."""
    return _item(
        *([("rasd:AddressOnParent", slot[0])] if slot else []),
        ("rasd:ElementName", disk.alias),
        ("rasd:HostResource", f"ovf:/disk/{disk.uuid}"),
        ("rasd:InstanceID", number),
        *([("rasd:Parent", slot[1])] if slot else []),
        ("rasd:ResourceType", 17),
    )


def _nic_item(nic: Nic, number: int) -> str:
    return _item(
        ("rasd:Connection", nic.network),
        ("rasd:ElementName", nic.name),
        ("rasd:InstanceID", number),
        ("rasd:ResourceSubType", _NIC_MODELS[nic.model]),
        ("rasd:ResourceType", 10),
        ("rasd:Name", nic.name),
        ("rasd:MACAddress", nic.mac),
    )


def _device_item(name: str, number: int, resource_type: int, kind: str, device: str) -> str:
    """A device that only oVirt knows; others may leave it out."""
    return _item(
        ("rasd:ElementName", name),
        ("rasd:InstanceID", number),
        ("rasd:ResourceType", resource_type),
        ("rasd:VirtualQuantity", 1),
        ("Type", kind),
        ("Device", device),
        attributes=' ovf:required="false"',
    )


def _tpm_item(number: int) -> str:
    return _item(
        ("rasd:ElementName", "TPM"),
        ("rasd:HostResource", "ovf:/file/tpm.dat"),
        ("rasd:InstanceID", number),
        ("rasd:ResourceType", 0),
        ("Type", "tpm"),
        ("Device", "tpm"),
        attributes=' ovf:required="false"',
    )


def _item(*children: tuple[str, str | int], attributes: str = "") -> str:
    lines = "".join(
        f"        <{tag}>{value if isinstance(value, int) else escape(value)}</{tag}>\n" for tag, value in children
    )
    return f"      <Item{attributes}>\n{lines}      </Item>\n"
