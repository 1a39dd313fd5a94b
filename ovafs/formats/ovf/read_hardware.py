"""The hardware of one system, put together from its Items."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovafs.errors import InvalidPackage
from ovafs.formats.ovf.read_dialects import is_firmware_setting
from ovafs.formats.ovf.read_items import (
    CD,
    CPU,
    DISK,
    DVD,
    FLOPPY,
    IDE,
    MEMORY,
    NIC,
    SCSI,
    STORAGE,
    Controller,
    Item,
    read_controller,
    read_cpu,
    read_items,
    read_memory,
    read_nic,
    small_number,
)
from ovafs.formats.ovf.read_model import DiskSlot, NetworkAdapter, PackageDisk, PackageFile, RemovableDrive
from ovafs.formats.ovf.read_xml import Leftovers, elements, name

if TYPE_CHECKING:
    from lxml import etree

    from ovafs.formats.ovf.read_envelope import Resources
    from ovafs.model import CpuTopology

_OVIRT_VIDEO_OR_NVRAM = 32768  # oVirt: a video card; VirtualBox: the NVRAM file
_OTHER = 0  # oVirt: says in Type and Device what it is


def claim(disk: PackageDisk) -> object:
    """What only one attached disk may have: its file. Disks of different configurations often name the same file."""
    return disk.file.id if disk.file else id(disk)


class Hardware:
    """What the Items of one system come to, while they are read."""

    def __init__(self, resources: Resources, leftovers: Leftovers, attached: set[object]) -> None:
        """``attached`` has the ``claim`` of every disk that a system of the package has already."""
        self.cpu: CpuTopology | None = None
        self.memory: int | None = None
        self.disks: list[DiskSlot] = []
        self.disk_items: dict[str, int] = {}  # InstanceID of a disk's Item: its place among the disks
        self.nics: list[NetworkAdapter] = []
        self.drives: list[RemovableDrive] = []
        self.nvram: PackageFile | None = None
        self.tpm: PackageFile | None = None
        self.leftovers = leftovers
        self.warnings: list[str] = []
        self.resources = resources
        self._controllers: dict[str, Controller] = {}
        self._attached = attached
        self._readers = {
            CPU: self._add_cpu,
            MEMORY: self._add_memory,
            NIC: self._add_nic,
            FLOPPY: self._add_drive,
            CD: self._add_drive,
            DVD: self._add_drive,
            DISK: self._add_disk,
            _OVIRT_VIDEO_OR_NVRAM: self._add_state,
            _OTHER: self._add_state,
        }

    def read(self, section: etree._Element) -> None:
        """Read a VirtualHardwareSection. Raises InvalidPackage."""
        items = read_items(section, self.resources.configuration)
        others = []
        for item in items:
            # virt-v2v writes its video card as ResourceType 20, which is SATA, with a Type
            if item.type in {IDE, SCSI, STORAGE} and not item.get("Type"):
                self._controllers.setdefault(item.id, read_controller(item))
            else:
                others.append(item)
        for item in others:
            reader = self._readers.get(item.type)
            if reader is None or not reader(item) or item.has_foreign_parts:
                self.leftovers.keep(item.element)
        for child in elements(section):
            if name(child) not in _KNOWN_PARTS and not is_firmware_setting(child):
                self.leftovers.keep(child)

    # Each reader says whether the Item has its place in the model now.

    def _add_cpu(self, item: Item) -> bool:
        if self.cpu is not None:
            self.warnings.append(f"a second number of processors ({item.title}) is left out")
            return False
        self.cpu = read_cpu(item)
        return True

    def _add_memory(self, item: Item) -> bool:
        if self.memory is not None:
            self.warnings.append(f"a second size of memory ({item.title}) is left out")
            return False
        self.memory = read_memory(item)
        return self.memory is not None

    def _add_nic(self, item: Item) -> bool:
        self.nics.append(read_nic(item))
        return True

    def _add_drive(self, item: Item) -> bool:
        reference = item.get("HostResource")
        file = self.resources.file(reference) if reference else None
        if reference and file is None:
            self.warnings.append(f"{item.title!r} holds {reference[:100]!r}, which is not in the package")
        self.drives.append(RemovableDrive(is_floppy=item.type == FLOPPY, name=item.title, file=file))
        return True

    def _add_state(self, item: Item) -> bool:
        file = self.resources.file(item.get("HostResource"))
        if file is None:
            return False
        if item.get("Type").lower() == "tpm":
            self.tpm = file
        elif item.type == _OVIRT_VIDEO_OR_NVRAM:
            self.nvram = file
        else:
            return False
        return True

    def _add_disk(self, item: Item) -> bool:
        reference = item.get("HostResource")
        if not reference:
            self.warnings.append(f"the disk {item.title!r} has no content and no size; it is left out")
            return False
        disk = self.resources.disk(reference)
        if disk is None:
            raise InvalidPackage(f"the disk {item.title[:100]!r} is {reference[:100]!r}, which no Disk describes")
        if claim(disk) in self._attached:
            raise InvalidPackage(f"the disk {reference[:100]!r} or its file is attached twice; disks are not shared")
        if disk.is_iso:
            self.drives.append(RemovableDrive(name=item.title, file=disk.file))
            return True
        self._attached.add(claim(disk))
        controller = self._controllers.get(item.get("Parent"))
        slot = DiskSlot(
            disk=disk,
            alias=disk.alias or item.get("ElementName", "Caption"),
            controller=disk.interface or (controller.kind if controller else None),
            model=controller.model if controller else "",
            bus=controller.bus if controller else None,
            address=small_number(item.get("AddressOnParent")),
            boot=disk.boot,
        )
        self.disk_items[item.id] = len(self.disks)
        self.disks.append(slot)
        return True


_KNOWN_PARTS = frozenset(("Info", "System", "Item", "StorageItem", "EthernetPortItem"))
