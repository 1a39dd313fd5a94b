"""What VMware, VirtualBox and oVirt say in words of their own, beside the standard's Items.

| dialect | where | what is read |
|---|---|---|
| VMware | ``vmw:Config`` in VirtualHardwareSection | firmware, secure boot |
| VMware | ``vmw:ExtraConfig`` nvram | the file with the firmware's variables |
| VMware | ``vmw:BootOrderSection`` | the disk that the machine starts from |
| VirtualBox | ``vbox:Machine`` | uuid, firmware; of network adapters the model, the MAC and the cable |
| oVirt | children of VirtualSystem | Description, CreationDate, BiosType, TemplateType |
| oVirt | a file named nvram.dat or tpm.dat | state of firmware and TPM |

oVirt's BiosType: 0 I440FX and 1 Q35 with SeaBIOS, 2 UEFI, 3 UEFI with secure boot (``BiosType`` minus one).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from ovafs.formats.ovf.read_items import read_mac
from ovafs.formats.ovf.read_xml import (
    VIRTUALBOX,
    VMWARE,
    elements,
    first,
    foreign,
    local_name,
    namespace,
    text_of,
)
from ovafs.model import Firmware, MachineKind, NicModel

if TYPE_CHECKING:
    from lxml import etree

    from ovafs.formats.ovf.read_envelope import Resources
    from ovafs.formats.ovf.read_hardware import Hardware
    from ovafs.formats.ovf.read_model import PackageFile

GENERAL_DATA = frozenset(("Description", "CreationDate", "BiosType", "TemplateType"))
"""oVirt's children of a VirtualSystem that are read here."""

_SECURE_BOOT = "bootOptions.efiSecureBootEnabled"
_FIRMWARE = {"2": Firmware.UEFI, "3": Firmware.UEFI_SECURE}
_ADAPTERS = {
    "82540em": NicModel.E1000,
    "82543gc": NicModel.E1000,
    "82545em": NicModel.E1000,
    "virtio": NicModel.VIRTIO,
}
_DATE = re.compile(r"(\d{4})[/.](\d\d)[/.](\d\d) (\d\d):(\d\d):(\d\d)", re.ASCII)
_UUID = re.compile(r"\{?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\}?")


def read_uuid(text: str) -> str:
    """A UUID in lower case without braces; "" for anything else."""
    match = _UUID.fullmatch(text.strip().lower())
    return match[1] if match else ""


# -- VMware ------------------------------------------------------------------------------------------------------


def vmware_settings(section: etree._Element) -> dict[str, str]:
    """The ``vmw:Config`` and ``vmw:ExtraConfig`` of a VirtualHardwareSection: values by key."""
    return {
        foreign(child, VMWARE, "key"): foreign(child, VMWARE, "value")
        for child in elements(section)
        if namespace(child) == VMWARE and local_name(child) in {"Config", "ExtraConfig"}
    }


def is_firmware_setting(element: etree._Element) -> bool:
    """Whether this is a setting that :func:`vmware_firmware` reads."""
    return namespace(element) == VMWARE and foreign(element, VMWARE, "key") in {"firmware", _SECURE_BOOT}


def vmware_firmware(settings: dict[str, str]) -> Firmware | None:
    """What the settings say of the firmware; None when they say nothing."""
    if settings.get("firmware") != "efi":
        return Firmware.BIOS if "firmware" in settings else None
    secure = settings.get(_SECURE_BOOT, "").lower() == "true"
    return Firmware.UEFI_SECURE if secure else Firmware.UEFI


def mark_vmware_boot_disk(system: etree._Element, hardware: Hardware) -> None:
    """Mark the first disk that the boot order names."""
    for section in elements(system):
        if namespace(section) == VMWARE and local_name(section) == "BootOrderSection":
            place = hardware.disk_items.get(foreign(section, VMWARE, "instanceId"))
            if place is not None:
                hardware.disks[place] = msgspec.structs.replace(hardware.disks[place], boot=True)
                return


# -- VirtualBox --------------------------------------------------------------------------------------------------


def virtualbox_machine(system: etree._Element) -> etree._Element | None:
    """The ``vbox:Machine``, VirtualBox's own settings; its children are in the document's default namespace."""
    found = (child for child in elements(system) if namespace(child) == VIRTUALBOX and local_name(child) == "Machine")
    return next(found, None)


def virtualbox_firmware(machine: etree._Element | None) -> Firmware | None:
    """What VirtualBox says of the firmware; None when it says nothing."""
    firmware = first(first(machine, "Hardware"), "Firmware")
    if firmware is None:
        return None
    return Firmware.UEFI if firmware.get("type", "").upper().startswith("EFI") else Firmware.BIOS


def refine_virtualbox_nics(machine: etree._Element | None, hardware: Hardware) -> None:
    """Model, MAC and cable of each adapter; the Items stand in the order of the adapters that are enabled."""
    network = first(first(machine, "Hardware"), "Network")
    adapters = [] if network is None else [one for one in elements(network, "Adapter") if one.get("enabled") == "true"]
    if len(adapters) != len(hardware.nics):
        return
    for place, (adapter, nic) in enumerate(zip(adapters, hardware.nics, strict=True)):
        kind = adapter.get("type", "")
        hardware.nics[place] = msgspec.structs.replace(
            nic,
            model=_ADAPTERS.get(kind.lower()) if kind else nic.model,
            model_text=kind or nic.model_text,
            mac=nic.mac or read_mac(adapter.get("MACAddress", "")),
            connected=nic.connected and adapter.get("cable") != "false",
        )


# -- oVirt -------------------------------------------------------------------------------------------------------


def ovirt_firmware(system: etree._Element) -> Firmware | None:
    """What BiosType says; None when it is absent."""
    found = first(system, "BiosType")
    return None if found is None else _FIRMWARE.get(text_of(found), Firmware.BIOS)


def ovirt_kind(system: etree._Element) -> MachineKind:
    """Whether it is a template."""
    return MachineKind.TEMPLATE if text_of(first(system, "TemplateType")) == "TEMPLATE" else MachineKind.VM


def ovirt_created(system: etree._Element) -> int | None:
    """The CreationDate, UTC, in seconds since the epoch; other forms are ignored, as oVirt does."""
    match = _DATE.fullmatch(text_of(first(system, "CreationDate")))
    if match is None:
        return None
    try:
        return int(datetime(*map(int, match.groups()), tzinfo=UTC).timestamp())  # type: ignore[misc,arg-type]
    except ValueError:
        return None


def ovirt_state(resources: Resources, href: str) -> PackageFile | None:
    """The file of this name, which no Item mentions in oVirt's packages."""
    return next((file for file in resources.files.values() if file.href == href), None)
