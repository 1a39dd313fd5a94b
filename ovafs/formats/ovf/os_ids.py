"""Guest operating systems: libosinfo's short ids, oVirt's numbers and the CIM's numbers.

oVirt's numbers are those of ``os.*.id.value`` in ovirt-engine's ``osinfo-defaults.properties``. oVirt keeps few
entries on purpose and lets one stand for what follows it ("Debian 9+", "Ubuntu Bionic Beaver LTS+"), so each ladder
below gives the first version of a step. Clones of RHEL take RHEL's entry, as virt-v2v does for CentOS. For Windows
the 64-bit entry is taken: a short id does not say which it is, and the 32-bit one lowers oVirt's limit of memory.

CIM numbers are ``CIM_OperatingSystem.OSType``. Newer Windows than Server 2019 have none that readers agree on;
ovirt-engine writes 1 (Other) for them, and so does this table.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple


class GuestOs(NamedTuple):
    """One guest system in the numbers of others; ``q35`` is False where oVirt refuses the Q35 chipset."""

    ovirt: int
    cim: int
    q35: bool = True


OTHER = GuestOs(0, 1)
OTHER_LINUX = GuestOs(5, 36)
MODERN_LINUX = GuestOs(33, 101)  # oVirt: "Other Linux (kernel 4.x)"; CIM: "LINUX 64-Bit"

_Ladder = tuple[tuple[tuple[int, int], GuestOs], ...]


def _rhel_like(cim: int) -> _Ladder:
    return (
        ((10, 0), GuestOs(39, cim)),
        ((9, 0), GuestOs(34, cim)),
        ((8, 0), GuestOs(30, cim)),
        ((7, 0), GuestOs(24, cim)),
        ((6, 0), GuestOs(19, cim)),
        ((5, 0), GuestOs(13, cim, q35=False)),
        ((4, 0), GuestOs(14, cim, q35=False)),
        ((3, 0), GuestOs(15, cim, q35=False)),
    )


_RHEL_CLONE = _rhel_like(101)
_CENTOS = _rhel_like(107)
_ORACLE = _rhel_like(109)

# For each family the newest step first; an id without a version ("debiantesting") is the newest.
_LADDERS: dict[str, _Ladder] = {
    "rhel": _rhel_like(80),
    "rhel-atomic": (((7, 0), GuestOs(28, 80)),),
    "centos": _CENTOS,
    "centos-stream": _CENTOS,
    "ol": _ORACLE,
    "oel": _ORACLE,
    "almalinux": _RHEL_CLONE,
    "rocky": _RHEL_CLONE,
    "circle": _RHEL_CLONE,
    "miraclelinux": _RHEL_CLONE,
    "scientificlinux": _RHEL_CLONE,
    "debian": (((9, 0), GuestOs(1301, 96)), ((7, 0), GuestOs(1300, 96)), ((0, 0), GuestOs(5, 96))),
    "ubuntu": (
        ((18, 4), GuestOs(1257, 94)),
        ((14, 4), GuestOs(1256, 94)),
        ((13, 10), GuestOs(1255, 94)),
        ((13, 4), GuestOs(1254, 94)),
        ((12, 10), GuestOs(1253, 94)),
        ((12, 4), GuestOs(1252, 94)),
        ((0, 0), GuestOs(5, 94)),
    ),
    "sles": (((11, 0), GuestOs(1193, 85)), ((0, 0), GuestOs(5, 85))),
    "sle": (((15, 0), GuestOs(1193, 85)),),
    "sled": (((12, 0), GuestOs(33, 83)), ((0, 0), GuestOs(5, 83))),
    "opensuse": (((15, 0), GuestOs(33, 83)), ((0, 0), GuestOs(5, 83))),
    "freebsd": (((0, 0), GuestOs(1501, 78)),),
    "fedora": (((21, 0), MODERN_LINUX), ((0, 0), OTHER_LINUX)),
    "mageia": (((7, 0), MODERN_LINUX), ((0, 0), OTHER_LINUX)),
    "slackware": (((15, 0), MODERN_LINUX), ((0, 0), OTHER_LINUX)),
}

# Other kinds of Linux with recent kernels whose ids do not hold the word "linux".
_MODERN = frozenset(
    ("arch", "elementary", "fedora-coreos", "gentoo", "guix", "manjaro", "nixos", "popos", "pureos", "silverblue")
)

_WINDOWS = {
    "winxp": GuestOs(1, 67, q35=False),
    "win2k3": GuestOs(10, 70, q35=False),
    "win2k3r2": GuestOs(10, 70, q35=False),
    "winvista": GuestOs(16, 74),  # the same kernel as Server 2008; oVirt has no entry of its own
    "win2k8": GuestOs(16, 77),
    "win2k8r2": GuestOs(17, 103),
    "win7": GuestOs(12, 105),
    "win8": GuestOs(21, 115),
    "win8.1": GuestOs(21, 115),
    "win2k12": GuestOs(23, 113),
    "win2k12r2": GuestOs(25, 116),
    "win10": GuestOs(27, 121),
    "win2k16": GuestOs(29, 117),
    "win2k19": GuestOs(31, 122),
    "win11": GuestOs(36, 1),
    "win2k22": GuestOs(37, 1),
    "win2k25": GuestOs(38, 1),
}

_VERSION = re.compile(r"-?(\d{1,6})(?:\.(\d{1,6}))?")
_NO_VERSION = re.compile(r"-?(current|eln|factory|latest|next|rawhide|stable|testing|tumbleweed|unknown|unstable)$")
_NEWEST = (1_000_000, 0)


@functools.lru_cache(maxsize=1024)
def guest_os(short_id: str) -> GuestOs:
    """The numbers for a libosinfo short id ("debian12", "win2k22"); never fails.

    An id that is not in the tables is a Linux when it says so ("alpinelinux3.20"), and "other" else.
    """
    name = short_id.strip().lower()
    if name in _WINDOWS:
        return _WINDOWS[name]
    match = _VERSION.search(name)
    if match is None:
        family, version = _NO_VERSION.sub("", name), _NEWEST
    else:
        family, version = name[: match.start()], (int(match[1]), int(match[2] or 0))
    if family in _LADDERS:
        return next((entry for first, entry in _LADDERS[family] if version >= first), OTHER_LINUX)
    return MODERN_LINUX if family in _MODERN or "linux" in family else OTHER
