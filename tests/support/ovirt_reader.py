"""What oVirt's engine reads from the OVF of an OVA: its reader's rules, written down once more, as a judge.

A re-implementation of the behaviour of ovirt-engine's OvfHelper, OvfReader, OvfOvaReader and their VM and template
variants; nothing of ovafs is used. The engine parses leniently in some places and throws in others; so does this.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from lxml import etree

if TYPE_CHECKING:
    from collections.abc import Sequence

RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
NIC_TYPES = {"rtl8139_pv": 0, "rtl8139": 1, "e1000": 2, "pv": 3, "spapr-vlan": 4, "pci-passthrough": 5, "e1000e": 6}
TYPES_BY_RESOURCE = {15: "disk", 24: "graphics", 32768: "video"}
DEVICES_BY_RESOURCE = {15: "cdrom"}

_INT = re.compile(r"[+-]?[0-9]+")
_GUID = re.compile(r"[0-9a-fA-F]{1,8}(-[0-9a-fA-F]{1,4}){3}-[0-9a-fA-F]{1,12}")
_DATE = re.compile(r"\d{4}[/.]\d{2}[/.]\d{2} \d{2}:\d{2}:\d{2}")


class OvirtReaderError(Exception):
    """The engine throws: the OVA cannot be imported."""


@dataclass
class OvirtDisk:
    """A disk as the engine takes it over; ``image_id`` is None where the engine would make a new one up."""

    disk_id: str | None
    image_id: str | None
    size: int
    actual_size: int
    remote_path: str
    alias: str
    interface: str
    volume_format: str
    volume_type: str
    boot: bool
    description: str
    has_item: bool = False


@dataclass
class OvirtNic:
    name: str
    network: str | None
    mac: str | None
    type: int
    pci_address: str | None


@dataclass
class OvirtDevice:
    type: str
    device: str | None


@dataclass
class OvirtEntity:
    """What an import starts from."""

    id: str | None
    name: str
    os_id: int
    description: str = ""
    created: str | None = None
    exported: str | None = None
    sockets: int = 1
    cores: int = 1
    threads: int = 1
    memory_mib: int = 0
    monitors: int = 0
    bios_type: int = 0
    display_type: int | None = None
    cluster_version: str | None = None
    disks: list[OvirtDisk] = field(default_factory=list)
    nics: list[OvirtNic] = field(default_factory=list)
    devices: list[OvirtDevice] = field(default_factory=list)
    template: dict[str, str] = field(default_factory=dict)


def is_ovirts_own(ovf: bytes) -> bool:
    """Whether the engine takes the OVA for one of its own; any other goes to virt-v2v, and is no template."""
    return "xmlns:ovirt" in ovf.decode()


def directory_listing(ovfs: dict[str, bytes]) -> dict[str, str]:
    """What the engine makes of the listing of a directory of OVAs: from file name to OVF."""
    printed = "{" + "::".join(f"{name}={ovf.decode()}" for name, ovf in ovfs.items()) + "}"
    parts = [part.split("=", 1) for part in printed[1:-1].split("::")]
    if any(len(part) != 2 for part in parts):
        raise OvirtReaderError("an entry of the listing has no '='")
    return {part[0]: part[1] for part in parts}


def read_ovf(ovf: bytes, kind: Literal["vm", "template"] = "vm") -> OvirtEntity:
    """Read as the engine does; raises OvirtReaderError where the engine throws."""
    text = re.sub(r"[\r\n]", "", ovf.decode())
    text = re.sub(r"xmlns=[^-\s]*", "", text)
    try:
        document = etree.fromstring(text.encode(), etree.XMLParser(resolve_entities=False, no_network=True))
    except etree.XMLSyntaxError as error:
        raise OvirtReaderError(f"not well-formed after the engine's edits: {error}") from error
    if etree.ElementTree(document).docinfo.internalDTD is not None:
        raise OvirtReaderError("DOCTYPE")
    disks = _read_disks(document)
    system = _required(document, "//*/VirtualSystem")
    identifier = _attribute(system, "ovf:id")
    entity = OvirtEntity(
        id=identifier if _GUID.fullmatch(identifier) else None,
        name=_text(system, "Name") or identifier,
        os_id=_os_id(_required(system, "OperatingSystemSection")),
        disks=disks,
    )
    for item in _all(_required(system, "VirtualHardwareSection"), "Item"):
        _read_item(item, entity)
    _read_general_data(system, entity)
    if kind == "template":
        _read_template_data(system, entity)
    return entity


def _read_disks(document: etree._Element) -> list[OvirtDisk]:
    files = {_attribute(file, "ovf:id"): file for file in _all(document, "//*/File")}
    section = _required(document, "//*/DiskSection")
    return [_read_disk(disk, files) for disk in _all(section, "Disk")]


def _read_disk(disk: etree._Element, files: dict[str, etree._Element]) -> OvirtDisk:
    disk_id, file_ref = _attribute(disk, "ovf:diskId"), _attribute(disk, "ovf:fileRef")
    size = _int(_attribute(disk, "ovf:capacity"), bits=64)
    units = _optional(disk, "ovf:capacityAllocationUnits")
    if units is not None:
        size *= capacity_unit(units)
    if file_ref not in files:
        raise OvirtReaderError(f"no File for {file_ref}")
    file = files[file_ref]
    actual = _optional(disk, "ovf:populatedSize") or _optional(file, "ovf:size")
    return OvirtDisk(
        disk_id=disk_id if _GUID.fullmatch(disk_id) else None,
        image_id=file_ref if _GUID.fullmatch(file_ref) else None,
        size=size,
        actual_size=size if actual is None else _int(actual, bits=64),
        remote_path=_attribute(file, "ovf:href"),
        alias=_optional(disk, "ovf:disk-alias") or disk_id,
        interface=_enum(disk, "ovf:disk-interface", ("IDE", "VirtIO", "VirtIO_SCSI", "SPAPR_VSCSI", "SATA"), "IDE"),
        volume_format=_enum(disk, "ovf:volume-format", ("COW", "RAW", "Unassigned"), "Unassigned"),
        volume_type=_enum(disk, "ovf:volume-type", ("Sparse", "Preallocated", "Unassigned"), "Sparse"),
        boot=_boolean(_optional(disk, "ovf:boot")),
        description=disk_id if (given := _optional(disk, "ovf:description")) is None else given,
    )


def capacity_unit(unit: str) -> int:
    """Bytes in a unit of DSP0004's form "byte * x * y^z"; anything else throws."""
    base, *factors = unit.split("*")
    if base.strip() != "byte":
        raise OvirtReaderError(f"unit {unit}")
    product = 1
    for factor in factors:
        match = re.fullmatch(r"(\d+)(?:\^(\d+))?", factor.strip())
        if match is None:
            raise OvirtReaderError(f"unit {unit}")
        product *= int(match[1]) ** int(match[2] or 1)
    return product


def _os_id(section: etree._Element) -> int:
    ovirt = _optional(section, "ovirt:id")
    if ovirt is not None:
        return 33 if (number := _int(ovirt)) == 1502 else number
    return {"80": 5, "101": 5, "103": 17, "121": 27}.get(_attribute(section, "ovf:id"), 0)


def _read_item(item: etree._Element, entity: OvirtEntity) -> None:
    match _required_text(item, "rasd:ResourceType"):
        case "3":
            entity.sockets = _int(_text(item, "rasd:num_of_sockets") or _required_text(item, "rasd:VirtualQuantity"))
            entity.cores = _int(_text(item, "rasd:cpu_per_socket") or "1")
            entity.threads = _int(_text(item, "rasd:threads_per_cpu") or "1")
        case "4":
            entity.memory_mib = _int(_required_text(item, "rasd:VirtualQuantity"))
        case "17":
            _read_disk_item(item, entity)
        case "10":
            _read_nic(item, entity)
        case "32768":
            entity.monitors = _int(_required_text(item, "rasd:VirtualQuantity"))
            entity.devices.append(_device(item))
        case "24" | "15" | "0":
            entity.devices.append(_device(item))


def _read_disk_item(item: etree._Element, entity: OvirtEntity) -> None:
    disk_id = _required_text(item, "rasd:HostResource").rpartition("/")[2]
    for disk in entity.disks:
        if disk.description == disk_id:
            disk.has_item = True
            return


def _read_nic(item: etree._Element, entity: OvirtEntity) -> None:
    network = _required_text(item, "rasd:Connection")
    name = _text(item, "rasd:Name")
    sub_type = _text(item, "rasd:ResourceSubType")
    if not sub_type:
        number = NIC_TYPES["pv"]
    elif _INT.fullmatch(sub_type):
        number = int(sub_type)
    else:
        number = NIC_TYPES.get(sub_type.lower(), NIC_TYPES["pv"])
    if number not in NIC_TYPES.values():
        raise OvirtReaderError(f"NIC type {number}")
    if (speed := _text(item, "rasd:speed")) is not None:
        _int(speed)
    nic_name = f"nic{len(entity.nics) + 1}" if name is None else name
    entity.nics.append(
        OvirtNic(nic_name, network or None, _text(item, "rasd:MACAddress"), number, _text(item, "rasd:Address"))
    )


def _check_device_id(item: etree._Element) -> None:
    """The old spelling of InstanceID makes the reader look for a GUID, and for Type first."""
    old = _text(item, "rasd:InstanceId")
    if old is None:
        return
    if not _text(item, "Type"):
        raise OvirtReaderError("rasd:InstanceId without Type")
    if not _GUID.fullmatch(old):
        raise OvirtReaderError(f"rasd:InstanceId {old!r} is no GUID")


def _device(item: etree._Element) -> OvirtDevice:
    _check_device_id(item)
    resource_type = _int(_required_text(item, "rasd:ResourceType"))
    kind = _text(item, "Type") or TYPES_BY_RESOURCE.get(resource_type)
    if kind is None:
        raise OvirtReaderError(f"a device of resource type {resource_type} without Type")
    device = _text(item, "Device")
    if device is None and resource_type == 0:
        raise OvirtReaderError("a device of resource type 0 without Device")
    return OvirtDevice(kind, device or DEVICES_BY_RESOURCE.get(resource_type))


def _read_general_data(system: etree._Element, entity: OvirtEntity) -> None:
    entity.description = _text(system, "Description") or ""
    entity.created = _date(system, "CreationDate")
    entity.exported = _date(system, "ExportDate")
    entity.cluster_version = _text(system, "ClusterCompatibilityVersion")
    for name, highest in ("VmType", 2), ("Origin", 10), ("DefaultDisplayType", 4), ("BiosType", 3):
        value = _text(system, name)
        if value and not 0 <= _int(value) <= highest:
            raise OvirtReaderError(f"{name} {value}")
    entity.bios_type = _int(_text(system, "BiosType") or "0")
    display = _text(system, "DefaultDisplayType")
    entity.display_type = _int(display) if display else None


def _read_template_data(system: etree._Element, entity: OvirtEntity) -> None:
    names = ("IsDisabled", "TemplateType", "BaseTemplateId", "TemplateVersionNumber", "TemplateVersionName")
    for name in (*names, "TemplateSealed"):
        if value := _text(system, name):
            entity.template[name] = value
    if entity.template.get("TemplateType", "TEMPLATE") not in {"TEMPLATE", "INSTANCE_TYPE", "IMAGE_TYPE", "VM"}:
        raise OvirtReaderError("TemplateType")
    _int(entity.template.get("TemplateVersionNumber", "1"))
    base = entity.template.setdefault("BaseTemplateId", entity.id or "")
    if not _GUID.fullmatch(base):
        raise OvirtReaderError("BaseTemplateId")


def _all(element: etree._Element, path: str) -> list[etree._Element]:
    found = element.xpath(path, namespaces={"rasd": RASD})
    assert isinstance(found, list)
    return cast("list[etree._Element]", found)


def _required(element: etree._Element, path: str) -> etree._Element:
    found = _all(element, path)
    if not found:
        raise OvirtReaderError(f"no {path}")
    return found[0]


def _text(element: etree._Element, name: str) -> str | None:
    """The text below the first child of this name; None when there is no such child."""
    found = _all(element, name)
    return "".join(str(text) for text in found[0].itertext()) if found else None


def _required_text(element: etree._Element, name: str) -> str:
    text = _text(element, name)
    if text is None:
        raise OvirtReaderError(f"no {name}")
    return text


def _optional(element: etree._Element, name: str) -> str | None:
    """The attribute spelled exactly so, prefix and all: the engine does not look at namespaces here."""
    found = _all(element, f"@*[name()='{name}']")
    return str(found[0]) if found else None


def _attribute(element: etree._Element, name: str) -> str:
    value = _optional(element, name)
    if value is None:
        raise OvirtReaderError(f"no {name}")
    return value


def _enum(element: etree._Element, name: str, values: Sequence[str], default: str) -> str:
    value = _optional(element, name) or default
    if value not in values:
        raise OvirtReaderError(f"{name}={value}")
    return value


def _int(text: str, bits: int = 32) -> int:
    """Integer.parseInt and Long.parseLong: no blanks, no fraction, in range."""
    if not _INT.fullmatch(text) or not -(2 ** (bits - 1)) <= int(text) < 2 ** (bits - 1):
        raise OvirtReaderError(f"{text!r} is no {bits}-bit number")
    return int(text)


def _boolean(text: str | None) -> bool:
    return text is not None and text.lower() == "true"


def _date(element: etree._Element, name: str) -> str | None:
    """A date in another form is logged and ignored."""
    text = _text(element, name)
    return text if text is not None and _DATE.fullmatch(text) else None
