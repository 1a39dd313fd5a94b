"""What VDSM and virt-v2v read from the OVF of an OVA: two more judges, written down from their behaviour.

VDSM (``lib/vdsm/v2v.py``) and virt-v2v (``input/OVF.ml``) look elements and attributes up by their namespace, and
stop at numbers that are none. Nothing of ovafs is used.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from lxml import etree

NAMESPACES = {
    "ovf": "http://schemas.dmtf.org/ovf/envelope/1",
    "rasd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData",
}
OVF = "{" + NAMESPACES["ovf"] + "}"
CONTROLLERS = {5: "ide", 6: "scsi", 20: "sata"}


class V2vError(Exception):
    """The reader stops with an error."""


class VdsmDisk(NamedTuple):
    capacity: int
    alias: str
    allocation: int


class VdsmNic(NamedTuple):
    name: str
    bridge: str | None
    model: str


class VdsmInfo(NamedTuple):
    name: str | None
    memory_mib: int
    cpus: int
    disks: list[VdsmDisk]
    nics: list[VdsmNic]
    is_ovirts_own: bool


class V2vDisk(NamedTuple):
    href: str
    controller: str | None


class V2vSource(NamedTuple):
    """What ``virt-v2v --print-source`` would print."""

    name: str | None
    memory: int
    cpus: int
    disks: list[V2vDisk]
    networks: list[str]


def read_as_vdsm(ovf: bytes) -> VdsmInfo:
    """VDSM's ``get_ova_info``; raises V2vError where it fails."""
    root = etree.fromstring(ovf)
    return VdsmInfo(
        name=_first(root, "./ovf:VirtualSystem/ovf:Name/text()"),
        memory_mib=_quantity(root, 4),
        cpus=_quantity(root, 3),
        disks=[_vdsm_disk(root, disk) for disk in _all(root, ".//ovf:DiskSection/ovf:Disk")],
        nics=[_vdsm_nic(item) for item in _all(root, ".//ovf:Item[rasd:ResourceType='10']")],
        is_ovirts_own="ovirt" in root.nsmap,
    )


def _quantity(root: etree._Element, resource_type: int) -> int:
    value = _first(root, f".//ovf:Item[rasd:ResourceType='{resource_type}']/rasd:VirtualQuantity/text()")
    return _int(value, f"quantity of resource {resource_type}")


def _vdsm_disk(root: etree._Element, disk: etree._Element) -> VdsmDisk:
    capacity = _int(disk.get(f"{OVF}capacity"), "capacity") * _unit(disk.get(f"{OVF}capacityAllocationUnits"))
    files = _all(root, f"./ovf:References/ovf:File[@ovf:id='{disk.get(f'{OVF}fileRef')}']")
    if not files:
        raise V2vError("disk href info")
    sizes = [value for value in (disk.get(f"{OVF}populatedSize"), files[0].get(f"{OVF}size")) if value]
    allocation = max((_int(size, "size") for size in sizes), default=0)
    return VdsmDisk(capacity, str(files[0].get(f"{OVF}href")), allocation)


def _unit(text: str | None) -> int:
    if text is None:
        return 1
    match = re.fullmatch(r"byte(?:\s?\*\s?(\d+))?(?:\s?\*\s?(\d+)\s?\^\s?(\d+))?", text)
    if match is None:
        raise V2vError(f"unit {text}")
    power: int = int(match[2] or 1) ** int(match[3] or 1)
    return int(match[1] or 1) * power


def _vdsm_nic(item: etree._Element) -> VdsmNic:
    name, model = _first(item, "rasd:ElementName/text()"), _first(item, "rasd:ResourceSubType/text()")
    if model is None or not _all(item, "rasd:ElementName"):
        raise V2vError("nic info")
    return VdsmNic(name or "", _first(item, "rasd:Connection/text()"), model)


def read_as_virt_v2v(ovf: bytes) -> V2vSource:
    """virt-v2v's ``parse_ovf_from_ova``; raises V2vError where it stops, and where it warns of a controller."""
    root = etree.fromstring(ovf)
    section = "/ovf:Envelope/ovf:VirtualSystem/ovf:VirtualHardwareSection"

    def quantity(resource_type: int, default: int) -> int:
        path = f"{section}/ovf:Item[rasd:ResourceType/text()={resource_type}]/rasd:VirtualQuantity/text()"
        value = _first(root, path)
        return default if value is None else _int(value, path)

    return V2vSource(
        name=_first(root, "/ovf:Envelope/ovf:VirtualSystem/ovf:Name/text()"),
        memory=quantity(4, 1024) << 20,
        cpus=quantity(3, 1),
        disks=[_v2v_disk(root, item) for item in _all(root, f"{section}/ovf:Item[rasd:ResourceType/text()=17]")],
        networks=[
            _first(item, "rasd:Connection/text()") or f"eth{number}"
            for number, item in enumerate(_all(root, f"{section}/ovf:Item[rasd:ResourceType/text()=10]"))
        ],
    )


def _v2v_disk(root: etree._Element, item: etree._Element) -> V2vDisk:
    parent = _first(item, "rasd:Parent/text()")
    controller = None if parent is None else _controller(root, _int(parent, "Parent"))
    match = re.match(r"(?:ovf:)?/disk/(.*)", _first(item, "rasd:HostResource/text()") or "")
    if match is None:
        raise V2vError("could not parse disk rasd:HostResource from OVF document")
    file_ref = _first(root, f"/ovf:Envelope/ovf:DiskSection/ovf:Disk[@ovf:diskId='{match[1]}']/@ovf:fileRef")
    if file_ref is None:
        raise V2vError("error parsing disk fileRef")
    href = _first(root, f"/ovf:Envelope/ovf:References/ovf:File[@ovf:id='{file_ref}']/@ovf:href")
    if href is None:
        raise V2vError(f"no href in ovf:File (id={file_ref})")
    return V2vDisk(href, controller)


def _controller(root: etree._Element, number: int) -> str:
    path = f"/ovf:Envelope/ovf:VirtualSystem/ovf:VirtualHardwareSection/ovf:Item[rasd:InstanceID/text()={number}]"
    resource_type = _int(_first(root, f"{path}/rasd:ResourceType/text()"), "controller")
    if resource_type not in CONTROLLERS:
        raise V2vError(f"unknown controller type {resource_type}")
    return CONTROLLERS[resource_type]


def _all(element: etree._Element, path: str) -> list[Any]:
    found = element.xpath(path, namespaces=NAMESPACES)
    assert isinstance(found, list)
    return found


def _first(element: etree._Element, path: str) -> str | None:
    found = _all(element, path)
    return str(found[0]) if found else None


def _int(text: str | None, what: str) -> int:
    if text is None or not re.fullmatch(r"-?[0-9]+", text):
        raise V2vError(f"{what}: {text!r} is no number")
    return int(text)
