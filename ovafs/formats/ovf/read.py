"""Reading the descriptor of a package: OVF 0.9, 1 and 2, by oVirt, VMware, VirtualBox or anybody.

The result is one neutral ``Descriptor``, or InvalidPackage with the reason; never anything else. Nothing is guessed
that could be wrong later: the format of a disk is a hint, and what is not understood is kept as XML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ovafs.errors import InvalidPackage
from ovafs.formats.ovf.read_dialects import (
    GENERAL_DATA,
    mark_vmware_boot_disk,
    ovirt_created,
    ovirt_firmware,
    ovirt_kind,
    ovirt_state,
    read_uuid,
    refine_virtualbox_nics,
    virtualbox_firmware,
    virtualbox_machine,
    vmware_firmware,
    vmware_settings,
)
from ovafs.formats.ovf.read_envelope import Resources, read_networks, read_resources
from ovafs.formats.ovf.read_hardware import Hardware, claim
from ovafs.formats.ovf.read_items import all_references
from ovafs.formats.ovf.read_model import Descriptor, DiskSlot, System
from ovafs.formats.ovf.read_os import read_os
from ovafs.formats.ovf.read_xml import (
    MAX_LEFTOVERS,
    VERSIONS,
    Leftovers,
    attribute,
    elements,
    first,
    local_name,
    name,
    namespace,
    parse_document,
    text_of,
)
from ovafs.model import Firmware

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lxml import etree

    from ovafs.formats.ovf.read_model import PackageDisk

MAX_SYSTEMS = 256
"""Virtual systems in one descriptor."""

_SHARED = frozenset(("References", "DiskSection", "NetworkSection", "VirtualSystem", "VirtualSystemCollection"))
_COLLECTION = frozenset(("Info", "Name", "VirtualSystem", "VirtualSystemCollection"))
_NESTED = frozenset(("VirtualSystem", "VirtualSystemCollection"))
_SYSTEM = GENERAL_DATA | {"Info", "Name", "AnnotationSection", "OperatingSystemSection", "VirtualHardwareSection"}


def read_descriptor(data: bytes, member: str = "") -> Descriptor:
    """The descriptor in ``data``; ``member`` is its name in the package, for messages.

    Raises InvalidPackage when it is not an OVF, contradicts itself, or is beyond the limits of this package.
    """
    try:
        return _read(parse_document(data))
    except InvalidPackage as error:
        raise InvalidPackage(error.reason, member=member, hint=error.hint) from None


def _read(envelope: etree._Element) -> Descriptor:
    version = _version(envelope)
    budget = [MAX_LEFTOVERS]
    shared = Leftovers(budget)
    found = _find_systems(envelope, shared)
    resources = read_resources(envelope, found)
    attached: set[object] = set()
    systems = [_read_system(element, Hardware(resources, Leftovers(budget), attached)) for element in found]
    warnings = _attach_the_rest(systems, _unattached(found, resources))
    return Descriptor(
        version=version,
        files=tuple(resources.files.values()),
        disks=resources.disks,
        networks=read_networks(envelope),
        systems=tuple(systems),
        unknown=tuple(shared.pieces),
        warnings=tuple(warnings),
    )


def _version(envelope: etree._Element) -> str:
    space = namespace(envelope)
    if local_name(envelope) != "Envelope" or space not in VERSIONS:
        what = f"{local_name(envelope)[:60]!r} in the namespace {space[:100]!r}"
        raise InvalidPackage(f"the descriptor is no OVF 0.9, 1 or 2: its root is {what}")
    return VERSIONS[space]


def _find_systems(envelope: etree._Element, shared: Leftovers) -> list[etree._Element]:
    """All systems in the order of the document, out of collections of any depth."""
    found: list[etree._Element] = []
    waiting = [envelope]
    while waiting:
        parent = waiting.pop()
        if name(parent) == "VirtualSystem":
            found.append(parent)
            continue
        known = _SHARED if parent is envelope else _COLLECTION
        children = list(elements(parent))
        waiting += reversed([child for child in children if name(child) in _NESTED])
        for child in children:
            if name(child) not in known:
                shared.keep(child)
    if not found:
        raise InvalidPackage("the descriptor describes no virtual system")
    if len(found) > MAX_SYSTEMS:
        raise InvalidPackage(f"the descriptor describes more than {MAX_SYSTEMS} virtual systems")
    return found


def _read_system(element: etree._Element, hardware: Hardware) -> System:
    resources, leftovers = hardware.resources, hardware.leftovers
    section = first(element, "VirtualHardwareSection")
    if section is not None:
        hardware.read(section)
    settings = {} if section is None else vmware_settings(section)
    virtualbox = virtualbox_machine(element)
    refine_virtualbox_nics(virtualbox, hardware)
    mark_vmware_boot_disk(element, hardware)
    nvram = hardware.nvram or resources.file(settings.get("nvram", "")) or ovirt_state(resources, "nvram.dat")
    os, os_text = read_os(first(element, "OperatingSystemSection"))
    warnings = hardware.warnings + _keep_the_rest(element, section, leftovers)
    identifier = attribute(element, "id")
    return System(
        id=identifier,
        name=text_of(first(element, "Name")) or identifier,
        uuid=read_uuid(identifier) or read_uuid("" if virtualbox is None else virtualbox.get("uuid", "")),
        kind=ovirt_kind(element),
        description=_description(element),
        created=ovirt_created(element),
        cpu=hardware.cpu,
        memory=hardware.memory,
        firmware=vmware_firmware(settings)
        or ovirt_firmware(element)
        or virtualbox_firmware(virtualbox)
        or (Firmware.UEFI if hardware.nvram else Firmware.BIOS),
        os=os,
        os_text=os_text,
        disks=tuple(hardware.disks),
        nics=tuple(hardware.nics),
        drives=tuple(hardware.drives),
        nvram=nvram,
        tpm=hardware.tpm or ovirt_state(resources, "tpm.dat"),
        unknown=tuple(leftovers.pieces),
        warnings=tuple(warnings),
    )


def _description(element: etree._Element) -> str:
    """OVirt's Description, else the annotation."""
    return text_of(first(element, "Description")) or text_of(first(first(element, "AnnotationSection"), "Annotation"))


def _keep_the_rest(element: etree._Element, section: etree._Element | None, leftovers: Leftovers) -> list[str]:
    """Keep what is not read of a system, and say so where the descriptor calls it required."""
    warnings = []
    for child in elements(element):
        second_hardware = name(child) == "VirtualHardwareSection" and child is not section
        if name(child) in _SYSTEM and not second_hardware:
            continue
        leftovers.keep(child)
        if second_hardware:
            warnings.append("a second VirtualHardwareSection is kept, but not used")
        elif attribute(child, "required") == "true":
            warnings.append(f"{local_name(child)[:100]} is required, says the descriptor, but is not understood")
    return warnings


def _unattached(found: Iterable[etree._Element], resources: Resources) -> list[PackageDisk]:
    """Disks with content that no Item mentions and no other disk is built on."""
    sections = (section for element in found for section in elements(element, "VirtualHardwareSection"))
    referred = (resources.disk(reference) for section in sections for reference in all_references(section))
    mentioned = {claim(disk) for disk in referred if disk is not None}
    parents = {disk.parent for disk in resources.disks if disk.parent}
    return [
        disk
        for disk in resources.disks
        if disk.file and not disk.is_iso and claim(disk) not in mentioned and disk.id not in parents
    ]


def _attach_the_rest(systems: list[System], rest: list[PackageDisk]) -> list[str]:
    """Give a lone system the disks that no Item mentions, as oVirt and VDSM do; with several nobody knows whose."""
    names = ", ".join(repr((disk.id or disk.alias)[:60]) for disk in rest[:10])
    if not rest:
        return []
    if len(systems) > 1:
        return [f"no machine has the disks {names}; they are left out"]
    slots = tuple(DiskSlot(disk=disk, alias=disk.alias, controller=disk.interface, boot=disk.boot) for disk in rest)
    lone = systems[0]
    warning = f"the hardware does not mention the disks {names}; they are attached behind the others"
    systems[0] = msgspec.structs.replace(lone, disks=lone.disks + slots, warnings=(*lone.warnings, warning))
    return []
