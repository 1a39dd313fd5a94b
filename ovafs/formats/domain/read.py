"""libvirt's domain XML: what it says of a machine, in the words of the neutral model.

| element | read |
|---|---|
| ``name``, ``uuid``, ``title``, ``description`` | title and description become one text |
| ``metadata`` | libosinfo's ``os``; ``template`` and ``tag`` in the name space of ovafs, at any depth |
| ``memory``, ``vcpu``, ``cpu/topology`` | memory in whole MiB, rounded up |
| ``os`` | ``firmware``, ``loader``, ``nvram``, ``boot`` |
| ``devices/disk`` | target, bus, kind of source, format, boot order; what stands against showing it |
| ``devices/interface`` | network or bridge, model, MAC |

Source: https://libvirt.org/formatdomain.html. Elements that are not listed are not read. The text comes from libvirt,
which has checked it; what users wrote into it is bounded all the same.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from lxml import etree

from ovafs.errors import InvalidDefinition
from ovafs.formats.domain.network import read_network_disk
from ovafs.model import CpuTopology, DiskFormat, DiskInterface, Firmware, NicModel
from ovafs.units import MIB, align_up

if TYPE_CHECKING:
    from collections.abc import Iterator


NAMESPACE = "urn:ovafs:domain:1"
"""Of the metadata elements ``template``, which makes a template of a domain, and ``tag``.

libvirt wants one element of a name space directly below ``metadata``, so who has both puts them into a third.
"""

MAX_DOCUMENT = 8 << 20

OSINFO = "http://libosinfo.org/xmlns/libvirt/domain/1.0"
_OS_ID = re.compile(r"https?://[^/]+/([a-z-]+)/([a-z0-9.-]+)")

# formatdomain.html, "memory": powers of 1000 and 1024; the unit is KiB where none is given.
_UNITS = {
    **dict.fromkeys(("b", "bytes"), 1),
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    **dict.fromkeys(("k", "KiB"), 1 << 10),
    **dict.fromkeys(("M", "MiB"), 1 << 20),
    **dict.fromkeys(("G", "GiB"), 1 << 30),
    **dict.fromkeys(("T", "TiB"), 1 << 40),
}

_INTERFACES = {
    "virtio": DiskInterface.VIRTIO,
    "scsi": DiskInterface.VIRTIO_SCSI,
    "sata": DiskInterface.SATA,
    "ide": DiskInterface.IDE,
}
_NIC_MODELS = {
    "virtio": NicModel.VIRTIO,
    "virtio-transitional": NicModel.VIRTIO,
    "virtio-non-transitional": NicModel.VIRTIO,
    "e1000": NicModel.E1000,
    "e1000e": NicModel.E1000E,
    "rtl8139": NicModel.RTL8139,
}


class VolumeSource(NamedTuple):
    """A file or block device by its ``path``, or a URI; or, without one, a volume of a storage pool by both names."""

    path: str
    pool: str = ""
    volume: str = ""


class DomainDisk(NamedTuple):
    """A hard disk; ``target`` ("vda") is unique in its domain. ``boot_order`` 0: none given.

    ``refused`` says why it cannot be shown ("" if it can); then ``source`` and ``format`` mean nothing.
    """

    target: str
    source: VolumeSource
    format: DiskFormat
    interface: DiskInterface
    boot_order: int
    refused: str = ""


class DomainNic(NamedTuple):
    """A network adapter; ``network`` is the name of a network, bridge or host device, or empty."""

    mac: str
    network: str
    model: NicModel


class Domain(NamedTuple):
    """What a domain's definition says; ``memory`` in bytes. ``left_out`` says in words what is not in here.

    ``tags`` are words by which an administrator groups domains; ``variables`` is the path of the firmware's, which need
    not be there yet.
    """

    uuid: str
    name: str
    description: str
    is_template: bool
    memory: int
    cpu: CpuTopology
    firmware: Firmware
    os: str
    disks: tuple[DomainDisk, ...]
    nics: tuple[DomainNic, ...]
    left_out: tuple[str, ...]
    tags: frozenset[str]
    variables: str = ""


def read_domain(text: str) -> Domain:
    """Raises InvalidDefinition for a text that is no domain, or that lacks what every domain has."""
    root = parse_document(text, "domain")
    left_out: list[str] = []
    disks = tuple(_disks(root, left_out))
    nics = tuple(_nics(root, left_out))
    variables = _variables(root, left_out)
    if root.find("devices/tpm") is not None:
        left_out.append("the TPM and its state")
    return Domain(
        uuid=_text(root, "uuid"),
        name=_text(root, "name"),
        description="\n".join(part for part in (_text(root, "title"), _text(root, "description")) if part),
        is_template=root.find(f"metadata//{{{NAMESPACE}}}template") is not None,
        memory=_memory(root.find("memory")),
        cpu=_cpu(root),
        firmware=_firmware(root),
        os=_os_id(root),
        disks=disks,
        nics=nics,
        left_out=tuple(left_out),
        tags=frozenset((element.text or "").strip() for element in root.iterfind(f"metadata//{{{NAMESPACE}}}tag")),
        variables=variables,
    )


def parse_document(text: str, tag: str) -> etree._Element:
    """The root, which is a ``tag``, of one of libvirt's documents. Raises InvalidDefinition."""
    if len(text) > MAX_DOCUMENT:
        raise InvalidDefinition(f"the {tag}'s XML has {len(text)} characters; at most {MAX_DOCUMENT} are read")
    parser = etree.XMLParser(resolve_entities=False, load_dtd=False, no_network=True, huge_tree=False)
    try:
        root = etree.fromstring(text.encode(), parser)
    except (etree.XMLSyntaxError, UnicodeEncodeError) as error:
        raise InvalidDefinition(f"the {tag}'s XML cannot be read: {str(error)[:200]}") from None
    if root.tag != tag:
        raise InvalidDefinition(f"the XML describes a {root.tag!r}, not a {tag}")
    return root


def _text(parent: etree._Element, path: str) -> str:
    return (parent.findtext(path) or "").strip()


def _number(text: str, what: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise InvalidDefinition(f"{what} is {text[:40]!r}, not a number")
    return int(text)


def _memory(element: etree._Element | None) -> int:
    if element is None:
        raise InvalidDefinition("the domain has no memory element")
    unit = element.get("unit", "KiB")
    if unit not in _UNITS:
        raise InvalidDefinition(f"memory is counted in {unit[:40]!r}, which is not known")
    return align_up(_number((element.text or "").strip(), "memory") * _UNITS[unit], MIB)


def _cpu(root: etree._Element) -> CpuTopology:
    """The topology, if it makes as many processors as there are; else what QEMU makes of them: sockets."""
    total = _number(_text(root, "vcpu") or "1", "vcpu")
    topology = root.find("cpu/topology")
    if topology is not None:
        given = {key: _number(topology.get(key, "1"), key) for key in ("sockets", "dies", "cores", "threads")}
        cpu = CpuTopology(sockets=given["sockets"], cores=given["dies"] * given["cores"], threads=given["threads"])
        if cpu.total == total:
            return cpu
    return CpuTopology(sockets=total)


def _firmware(root: etree._Element) -> Firmware:
    loader = root.find("os/loader")
    is_uefi = root.find("os[@firmware='efi']") is not None
    if loader is not None:
        is_uefi = is_uefi or loader.get("type") == "pflash"
    if not is_uefi:
        return Firmware.BIOS
    secure = root.find("os/firmware/feature[@name='secure-boot'][@enabled='yes']") is not None
    secure = secure or (loader is not None and loader.get("secure") == "yes")
    return Firmware.UEFI_SECURE if secure else Firmware.UEFI


def _variables(root: etree._Element, left_out: list[str]) -> str:
    """The path of the file with the firmware's variables; "" if there is none that can be read as it is."""
    element = root.find("os/nvram")
    if element is None:
        return ""
    path = _attribute(element, "source", "file") or (element.text or "").strip()
    if element.get("type", "file") != "file" or element.get("format", "raw") != "raw":
        left_out.append("the firmware's variables (NVRAM): they are in no raw file")
        return ""
    return path if path.startswith("/") and path.isprintable() else ""


def _os_id(root: etree._Element) -> str:
    """The short id of libosinfo, from its long one: "http://debian.org/debian/12" is "debian12"."""
    for element in root.iterfind(f"metadata/{{{OSINFO}}}libosinfo/{{{OSINFO}}}os"):
        if match := _OS_ID.fullmatch(element.get("id", "")):
            return f"{match[1]}{match[2]}"
    return "other"


# -- disks


def _disks(root: etree._Element, left_out: list[str]) -> Iterator[DomainDisk]:
    first_is_disk = [boot.get("dev") for boot in root.iterfind("os/boot")][:1] != ["cdrom"]
    found = 0
    for element in root.iterfind("devices/disk"):
        target = _attribute(element, "target", "dev")
        device = element.get("device", "disk")
        if not re.fullmatch(r"[a-z0-9]{1,32}", target):
            raise InvalidDefinition(f"a disk has the target {target[:40]!r}")
        if device in {"cdrom", "floppy"}:
            medium = "with a medium" if element.find("source") is not None else "empty"
            left_out.append(f"{device} drive {target} ({medium})")
            continue
        reason = _reason_to_leave_out(element, device)
        if reason:
            left_out.append(f"disk {target}: {reason}")
            continue
        order = element.find("boot")
        boot_order = _number(order.get("order", "0"), f"boot order of {target}") if order is not None else 0
        if not found and not boot_order and first_is_disk:
            boot_order = 1_000_000  # what <os><boot dev="hd"/> starts, after everything with an order of its own
        found += 1
        yield _disk(element, target, boot_order)


def _reason_to_leave_out(element: etree._Element, device: str) -> str:
    """What is not of the machine alone, or not to be kept, is no part of its OVA; oVirt does the same."""
    if device == "lun":
        return "a LUN that the guest uses directly"
    if element.find("shareable") is not None:
        return "shared with other machines"
    if element.find("transient") is not None:
        return "transient: its changes end with the machine"
    return "" if device == "disk" else f"a {device[:40]!r} is no disk"


def _disk(element: etree._Element, target: str, boot_order: int) -> DomainDisk:
    kind = element.get("type", "")
    source = element.find("source")
    form = _attribute(element, "driver", "type") or "raw"  # libvirt's default
    interface = _INTERFACES.get(_attribute(element, "target", "bus"), DiskInterface.SATA)
    path, pool, volume, refused = "", "", "", ""
    if source is None:
        refused = "has no source"
    elif kind == "file":
        path = source.get("file", "")
    elif kind == "block":
        path = source.get("dev", "")
    elif kind == "volume":
        pool, volume = source.get("pool", ""), source.get("volume", "")
    elif kind == "network":
        try:
            path = read_network_disk(source).location
        except InvalidDefinition as error:
            refused = f"cannot be read: {error}"
    else:
        refused = f"is of the type {kind[:40]!r}, which is not supported"
    if source is not None and source.find("slices") is not None:
        refused = "is a slice of its file, which is not supported"
    if element.find("encryption") is not None or (source is not None and source.find("encryption") is not None):
        refused = refused or "is encrypted with a key that libvirt keeps, which is not supported"
    if form not in set(DiskFormat):
        refused = refused or f"has the format {form[:40]!r}, which is not supported"
    return DomainDisk(
        target=target,
        source=VolumeSource(path, pool, volume),
        format=DiskFormat.RAW if refused else DiskFormat(form),
        interface=interface,
        boot_order=boot_order,
        refused=refused,
    )


def _attribute(parent: etree._Element, child: str, name: str) -> str:
    element = parent.find(child)
    return "" if element is None else element.get(name, "")


# -- network adapters


def _nics(root: etree._Element, left_out: list[str]) -> Iterator[DomainNic]:
    for element in root.iterfind("devices/interface"):
        mac = _attribute(element, "mac", "address").lower()
        if element.get("type") == "hostdev":
            left_out.append(f"network adapter {mac}: a device of the host")
            continue
        source = element.find("source")
        names = () if source is None else (source.get(key, "") for key in ("network", "bridge", "dev", "portgroup"))
        model = _attribute(element, "model", "type")
        if model and model not in _NIC_MODELS:
            left_out.append(f"network adapter {mac}: its model {model[:40]!r} (it is written as e1000)")
        # QEMU's own default for PCs is an rtl8139, libvirt's text names whatever was chosen.
        default = NicModel.E1000 if model else NicModel.RTL8139
        yield DomainNic(mac, next(filter(None, names), ""), _NIC_MODELS.get(model, default))
