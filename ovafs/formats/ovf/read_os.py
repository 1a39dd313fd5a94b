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

_SERVER_2003 = ("winnetstandard", "winnetenterprise", "winnetdatacenter", "winnetweb")
_OLD_LINUX = ("otherlinux", "other24xlinux", "other26xlinux", "other3xlinux")

# One row for each guest system: the short id; oVirt's numbers (os.*.id.value in ovirt-engine's
# osinfo-defaults.properties, 32-bit and 64-bit alike); CIM's OSType; VMware's GuestOsIdentifier without "64", "_64" and
# "Guest"; VirtualBox's OSType without "_64" and the like; words in lower case.
_Row = tuple[str, tuple[int, ...], tuple[int, ...], tuple[str, ...], tuple[str, ...]]
_SYSTEMS: tuple[_Row, ...] = (
    ("msdos6.22", (), (14,), ("dos",), ("dos",)),
    ("winxp", (1,), (67,), ("winxppro", "winxphome"), ("windowsxp",)),
    ("win2k3", (3, 10), (69, 70), _SERVER_2003, ("windows2003",)),
    ("winvista", (), (73, 74), ("winvista",), ("windowsvista",)),
    ("win2k8", (4, 16), (76, 77), ("longhorn",), ("windows2008",)),
    ("win2k8r2", (17,), (103,), ("windows7server",), ()),
    ("win7", (11, 12), (105,), ("windows7",), ("windows7",)),
    ("win8", (20, 21), (114, 115), ("windows8",), ("windows8",)),
    ("win8.1", (), (), (), ("windows81",)),
    ("win2k12", (23,), (113,), ("windows8server",), ("windows2012",)),
    ("win2k12r2", (25,), (116,), (), ()),
    ("win10", (26, 27), (120, 121), ("windows9",), ("windows10",)),
    ("win11", (36,), (), ("windows11",), ("windows11",)),
    ("win2k16", (29,), (117,), ("windows9server",), ("windows2016",)),
    ("win2k19", (31,), (122,), ("windows2019srv",), ("windows2019",)),
    ("win2k22", (37,), (), ("windows2019srvnext",), ("windows2022",)),
    ("win2k25", (38,), (), ("windows2022srvnext",), ("windows2025",)),
    ("rhel3", (9, 15), (), (), ()),
    ("rhel4.0", (8, 14), (), (), ()),
    ("rhel5.0", (7, 13), (), (), ()),
    ("rhel6.0", (18, 19), (), (), ()),
    ("rhel7.0", (24,), (), (), ()),
    ("rhel-atomic-7.0", (28,), (), (), ()),
    ("rhel8.0", (30,), (), (), ()),
    ("rhel9.0", (34,), (), (), ()),
    ("rhel10.0", (39,), (), (), ()),
    ("rhel", (), (79, 80), (), ()),
    ("centos", (), (106, 107), (), ()),
    ("ol", (), (108, 109), (), ()),
    ("debian7", (1300,), (), (), ()),
    ("debian9", (1301,), (), (), ()),
    ("debian", (), (95, 96), (), ()),
    ("ubuntu12.04", (1252,), (), (), ()),
    ("ubuntu12.10", (1253,), (), (), ()),
    ("ubuntu13.04", (1254,), (), (), ()),
    ("ubuntu13.10", (1255,), (), (), ()),
    ("ubuntu14.04", (1256,), (), (), ()),
    ("ubuntu18.04", (1257,), (), (), ()),
    ("ubuntu", (), (93, 94), (), ()),
    ("sles11", (1193,), (), (), ()),
    ("sles", (), (82, 84, 85), (), ()),
    ("sled", (), (83,), (), ()),
    ("freebsd", (1500, 1501), (42, 78), (), ()),
    ("archlinux", (), (), (), ("archlinux",)),
    ("gentoo", (), (), (), ("gentoo",)),
    ("linux2016", (5,), (36, 99, 100, 101), _OLD_LINUX, ("linux", "linux26")),
    ("linux2018", (), (), ("other4xlinux",), ()),
    ("linux2020", (), (), ("other5xlinux",), ()),
    ("linux2022", (33, 1502), (), ("other6xlinux", "vmwarephoton"), ()),
)
_OVIRT = {number: row[0] for row in _SYSTEMS for number in row[1]}
_CIM = {number: row[0] for row in _SYSTEMS for number in row[2]}
_VMWARE = {word: row[0] for row in _SYSTEMS for word in row[3]}
_VIRTUALBOX = {word: row[0] for row in _SYSTEMS for word in row[4]}

# What is followed by a version or nothing, in VMware's and VirtualBox's words.
_FAMILIES = {
    "almalinux": "almalinux",
    "centos": "centos",
    "debian": "debian",
    "fedora": "fedora",
    "freebsd": "freebsd",
    "opensuse": "opensuse",
    "oracle": "ol",
    "oraclelinux": "ol",
    "redhat": "rhel",
    "rhel": "rhel",
    "rockylinux": "rocky",
    "sles": "sles",
    "ubuntu": "ubuntu",
}
_VERSION = re.compile(r"[0-9]{1,2}(\.[0-9]{1,2})?")
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
        or _from_cim(cim_id, attribute(section, "version"))
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


def _from_cim(number: int, version: str) -> str:
    """CIM has one number for all versions of most systems; then the version counts that stands beside it."""
    found = _CIM.get(number, OTHER)
    has_no_version = found in _FAMILIES.values()
    return found + version if has_no_version and _VERSION.fullmatch(version) else found


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
