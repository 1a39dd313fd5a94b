"""Which guest system a descriptor means: libosinfo's short id from the words and numbers of four dialects.

The order of trust: ``ovirt:id``, ``vmw:osType``, ``vbox:OSType``, then the CIM number ``ovf:id``. CIM numbers beyond
110 are read as oVirt writes them; VirtualBox counts differently there, but always writes its own word too.
What is not known is "other", and the text that was found stays for people.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ovafs.formats.ovf.os_ids import guest_os
from ovafs.formats.ovf.read_xml import (
    OVIRT,
    VIRTUALBOX,
    VMWARE,
    attribute,
    elements,
    first,
    foreign,
    local_name,
    namespace,
    text_of,
)

if TYPE_CHECKING:
    from lxml import etree

OTHER = "other"

_SHORT_ID = re.compile(r"[a-z][a-z0-9.-]{0,60}")

# os.*.id.value of ovirt-engine's osinfo-defaults.properties; 32-bit entries give the same short id as 64-bit ones.
_OVIRT = {
    1: "winxp", 3: "win2k3", 10: "win2k3", 4: "win2k8", 16: "win2k8", 17: "win2k8r2", 11: "win7", 12: "win7",
    20: "win8", 21: "win8", 23: "win2k12", 25: "win2k12r2", 26: "win10", 27: "win10", 29: "win2k16",
    31: "win2k19", 36: "win11", 37: "win2k22", 38: "win2k25",
    7: "rhel5.0", 8: "rhel4.0", 9: "rhel3", 13: "rhel5.0", 14: "rhel4.0", 15: "rhel3", 18: "rhel6.0",
    19: "rhel6.0", 24: "rhel7.0", 28: "rhel-atomic-7.0", 30: "rhel8.0", 34: "rhel9.0", 39: "rhel10.0",
    5: "linux2016", 33: "linux2022", 1502: "linux2022", 1193: "sles11",
    1252: "ubuntu12.04", 1253: "ubuntu12.10", 1254: "ubuntu13.04", 1255: "ubuntu13.10", 1256: "ubuntu14.04",
    1257: "ubuntu18.04", 1300: "debian7", 1301: "debian9", 1500: "freebsd", 1501: "freebsd",
}

_CIM = {
    67: "winxp", 69: "win2k3", 70: "win2k3", 73: "winvista", 74: "winvista", 76: "win2k8", 77: "win2k8",
    103: "win2k8r2", 105: "win7", 113: "win2k12", 114: "win8", 115: "win8", 116: "win2k12r2",
    117: "win2k16", 120: "win10", 121: "win10", 122: "win2k19",
    14: "msdos6.22", 36: "linux2016", 99: "linux2016", 100: "linux2016", 101: "linux2016", 79: "rhel", 80: "rhel",
    82: "sles", 83: "sled", 84: "sles", 85: "sles", 93: "ubuntu", 94: "ubuntu", 95: "debian", 96: "debian",
    106: "centos", 107: "centos", 108: "ol", 109: "ol", 42: "freebsd", 78: "freebsd",
}

# VMware's vim.vm.GuestOsDescriptor.GuestOsIdentifier without "64", "_64" and "Guest", in lower case.
_VMWARE = {
    "dos": "msdos6.22", "winxppro": "winxp", "winxphome": "winxp", "winvista": "winvista",
    "winnetstandard": "win2k3", "winnetenterprise": "win2k3", "winnetdatacenter": "win2k3", "winnetweb": "win2k3",
    "longhorn": "win2k8", "windows7": "win7", "windows7server": "win2k8r2", "windows8": "win8",
    "windows8server": "win2k12", "windows9": "win10", "windows9server": "win2k16", "windows11": "win11",
    "windows2019srv": "win2k19", "windows2019srvnext": "win2k22", "windows2022srvnext": "win2k25",
    "other24xlinux": "linux2016", "other26xlinux": "linux2016", "other3xlinux": "linux2016",
    "other4xlinux": "linux2018", "other5xlinux": "linux2020", "other6xlinux": "linux2022",
    "otherlinux": "linux2016", "vmwarephoton": "linux2022",
}

# VirtualBox's OSType without "_64", "_x64" and "_arm64", in lower case.
_VIRTUALBOX = {
    "windowsxp": "winxp", "windows2003": "win2k3", "windowsvista": "winvista", "windows2008": "win2k8",
    "windows7": "win7", "windows8": "win8", "windows81": "win8.1", "windows2012": "win2k12", "windows10": "win10",
    "windows2016": "win2k16", "windows2019": "win2k19", "windows2022": "win2k22", "windows2025": "win2k25",
    "windows11": "win11", "dos": "msdos6.22", "linux26": "linux2016", "linux": "linux2016",
    "archlinux": "archlinux", "gentoo": "gentoo",
}

_FAMILIES = {
    "redhat": "rhel", "rhel": "rhel", "centos": "centos", "oraclelinux": "ol", "oracle": "ol", "fedora": "fedora",
    "debian": "debian", "ubuntu": "ubuntu", "sles": "sles", "opensuse": "opensuse", "freebsd": "freebsd",
    "rockylinux": "rocky", "almalinux": "almalinux",
}
_FAMILY = re.compile(r"([a-z]+)(\d*)(?:_lts)?")


def read_os(section: etree._Element | None) -> tuple[str, str]:
    """The short id and the description in an OperatingSystemSection."""
    if section is None:
        return OTHER, ""
    description = text_of(first(section, "Description"))
    vbox = next((child for child in elements(section) if _is_vbox_type(child)), None)
    ovirt_id, cim_id = _number(foreign(section, OVIRT, "id")), _number(attribute(section, "id"))
    if _is_our_own(description, ovirt_id, cim_id):
        return description, description
    found = (
        _OVIRT.get(ovirt_id)
        or _from_vmware(foreign(section, VMWARE, "osType"))
        or _from_virtualbox(text_of(vbox))
        or _CIM.get(cim_id, OTHER)
    )
    return found, description


def _is_vbox_type(element: etree._Element) -> bool:
    return namespace(element) == VIRTUALBOX and local_name(element) == "OSType"


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text) else -1


def _is_our_own(description: str, ovirt_id: int, cim_id: int) -> bool:
    """Whether the description is a short id that the numbers were made from, as ``write_ovf`` does."""
    numbers = guest_os(description)
    return bool(_SHORT_ID.fullmatch(description)) and (numbers.ovirt, numbers.cim) == (ovirt_id, cim_id)


def _from_vmware(word: str) -> str:
    word = re.sub(r"(_?64)?guest(64)?$", "", word.strip().lower())
    return _VMWARE.get(word) or _from_family(word)


def _from_virtualbox(word: str) -> str:
    word = re.sub(r"_(x64|arm64|64)$", "", word.lower())
    return _VIRTUALBOX.get(word) or _from_family(word)


def _from_family(word: str) -> str:
    match = _FAMILY.fullmatch(word)
    family = _FAMILIES.get(match[1]) if match else None
    return "" if match is None or family is None else family + match[2]
