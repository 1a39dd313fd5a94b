"""The Items of a VirtualHardwareSection: which of them count, and what each kind of device says.

| ResourceType | device | read |
|---|---|---|
| 3 | processors | VirtualQuantity; oVirt's sockets, cores, threads; VMware's CoresPerSocket |
| 4 | memory | VirtualQuantity and AllocationUnits |
| 5, 6, 20 | IDE, SCSI, other storage controller | ResourceSubType, Address |
| 10 | network adapter | Connection, ResourceSubType, name, MAC, whether it is connected |
| 14, 15, 16 | floppy, CD, DVD drive | HostResource |
| 17 | disk | HostResource, Parent, AddressOnParent |

Properties are in the namespaces ``rasd``, ``sasd``, ``epasd`` (with ``.xsd`` behind them in VirtualBox's) or none,
so only their local names count. OVF 0.9 and oVirt before 4.4 spell InstanceId.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import InvalidPackage
from ovafs.formats.ovf.read_envelope import applies
from ovafs.formats.ovf.read_model import ControllerKind, NetworkAdapter
from ovafs.formats.ovf.read_xml import VMWARE, attribute, elements, local_name, namespace, text_of
from ovafs.formats.ovf.units import memory_size, whole_number
from ovafs.model import CpuTopology, NicModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lxml import etree

CPU, MEMORY, IDE, SCSI, NIC, FLOPPY, CD, DVD, DISK, STORAGE = 3, 4, 5, 6, 10, 14, 15, 16, 17, 20

MAX_PROCESSORS = 1 << 20

_ITEMS = ("Item", "StorageItem", "EthernetPortItem")
_MAC = re.compile(r"[0-9a-f]{2}(?:[:-]?[0-9a-f]{2}){5}")
_TRUE = frozenset(("true", "1"))

# Words, and oVirt's numbers.
_NIC_MODELS = {
    "virtio": NicModel.VIRTIO,
    "pv": NicModel.VIRTIO,
    "3": NicModel.VIRTIO,
    "e1000": NicModel.E1000,
    "2": NicModel.E1000,
    "e1000e": NicModel.E1000E,
    "6": NicModel.E1000E,
    "rtl8139": NicModel.RTL8139,
    "1": NicModel.RTL8139,
}

_CONTROLLERS = {
    "ahci": ControllerKind.SATA,
    "vmware.sata.ahci": ControllerKind.SATA,
    "sata": ControllerKind.SATA,
    "nvme": ControllerKind.NVME,
    "vmware.nvme.controller": ControllerKind.NVME,
    "virtio": ControllerKind.VIRTIO,
    "virtioscsi": ControllerKind.VIRTIO_SCSI,
    "virtio-scsi": ControllerKind.VIRTIO_SCSI,
}
_CONTROLLER_DEFAULTS = {IDE: ControllerKind.IDE, SCSI: ControllerKind.SCSI, STORAGE: ControllerKind.SATA}


class Item(NamedTuple):
    """One Item; ``fields`` are its properties by local name, the first of several; ``type`` is -1 when it is none."""

    element: etree._Element
    type: int
    fields: dict[str, str]

    def get(self, *names: str) -> str:
        """The first of these properties that is not empty; "" else."""
        return next((self.fields[name] for name in names if self.fields.get(name)), "")

    @property
    def id(self) -> str:
        """The InstanceID, which need not be a number."""
        return self.get("InstanceID", "InstanceId")

    @property
    def title(self) -> str:
        """What it is called, for people."""
        return self.get("ElementName", "Caption") or f"item {self.id}"

    @property
    def has_foreign_parts(self) -> bool:
        """Whether it holds VMware's or other settings that are not read."""
        foreign = (child for child in elements(self.element) if namespace(child) == VMWARE)
        return any(local_name(child) != "CoresPerSocket" for child in foreign)


class Controller(NamedTuple):
    """What disks sit on."""

    kind: ControllerKind
    model: str
    bus: int | None


def read_items(section: etree._Element, configuration: str) -> list[Item]:
    """The Items that count for a configuration: one that names it stands for the general one of the same InstanceID.

    Items with ``ovf:bound`` minimum or maximum only limit what others say.
    """
    counting = [
        (_item(element), bool(attribute(element, "configuration")))
        for element in elements(section, *_ITEMS)
        if applies(element, configuration) and attribute(element, "bound") not in {"min", "max"}
    ]
    special = {item.id for item, is_special in counting if is_special and item.id}
    return [item for item, is_special in counting if is_special or item.id not in special]


def all_references(section: etree._Element) -> Iterator[str]:
    """The HostResource of every Item, of all configurations."""
    for element in elements(section, *_ITEMS):
        yield from (text_of(child) for child in elements(element) if local_name(child) == "HostResource")


def _item(element: etree._Element) -> Item:
    fields: dict[str, str] = {}
    for child in elements(element):
        fields.setdefault(local_name(child), text_of(child))
    kind = fields.get("ResourceType", "")
    return Item(element, int(kind) if re.fullmatch(r"[0-9]{1,6}", kind) else -1, fields)


def read_cpu(item: Item) -> CpuTopology:
    """Sockets, cores and threads. Raises InvalidPackage for numbers that cannot be."""

    def number(name: str) -> int:
        text = item.get(name)
        return whole_number(text, f"processors ({name})", lowest=1, highest=MAX_PROCESSORS) if text else 0

    if sockets := number("num_of_sockets"):
        cpu = CpuTopology(sockets=sockets, cores=number("cpu_per_socket") or 1, threads=number("threads_per_cpu") or 1)
    else:
        total, cores = number("VirtualQuantity") or 1, number("CoresPerSocket") or 1
        fits = total % cores == 0
        cpu = CpuTopology(sockets=total // cores, cores=cores) if fits else CpuTopology(sockets=total)
    if cpu.total > MAX_PROCESSORS:
        raise InvalidPackage(f"processors: {cpu.total} are more than any machine has")
    return cpu


def read_memory(item: Item) -> int | None:
    """Bytes, whole MiB; None when the Item states no quantity."""
    quantity = item.get("VirtualQuantity")
    return memory_size(quantity, item.get("AllocationUnits")) if quantity else None


def read_controller(item: Item) -> Controller:
    """A controller; its subtype may be a list, of which the first known one counts."""
    model = item.get("ResourceSubType")
    kinds = (_CONTROLLERS[word] for word in model.lower().split() if word in _CONTROLLERS)
    default = _CONTROLLER_DEFAULTS[item.type]
    if item.type == STORAGE and model:
        default = ControllerKind.OTHER
    return Controller(next(kinds, default), model, small_number(item.get("Address", "BusNumber")))


def small_number(text: str) -> int | None:
    """The number of a bus or a slot; None when there is none."""
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text) else None


def read_nic(item: Item) -> NetworkAdapter:
    """A network adapter; its subtype may be a list, of which the first known one counts."""
    model = item.get("ResourceSubType")
    models = (_NIC_MODELS[word] for word in model.lower().split() if word in _NIC_MODELS)
    connected = item.get("Linked", "AutomaticAllocation")
    return NetworkAdapter(
        name=item.get("Name", "ElementName", "Caption"),
        network=item.get("Connection"),
        model=next(models, None),
        model_text=model,
        mac=read_mac(item.get("MACAddress")) or read_mac(item.get("Address")),
        connected=not connected or connected.lower() in _TRUE,
    )


def read_mac(text: str) -> str:
    """An Ethernet address in lower case with colons; "" for anything else, such as oVirt's PCI addresses."""
    text = text.lower()
    if _MAC.fullmatch(text) is None:
        return ""
    return bytes.fromhex(re.sub("[:-]", "", text)).hex(":")
