"""What a machine's definition may say. One set of rules for users' choices, for what is stored and for what is read.

The limits are wider than what any hypervisor takes; they exist so that a definition is always sane to handle.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ovafs.errors import InvalidDefinition
from ovafs.formats.network_disk import is_location, parse_location
from ovafs.model import DiskFormat
from ovafs.units import GIB, KIB, MIB, format_size

if TYPE_CHECKING:
    from ovafs.model import CpuTopology, Disk, Machine, Nic

MAX_NAME = 255
MAX_DESCRIPTION = 64 * KIB
MAX_PATH = 4096
"""Bytes, as Linux limits them (PATH_MAX)."""
MAX_MEMORY = 64 * KIB * GIB
MAX_CPUS = 4096
MAX_DEVICES = 1024
"""Disks, and NICs, of one machine."""
MAX_STATE = 4 * MIB
"""Bytes of a state's text."""
MAX_TIME = 8**11 - 1
"""In the year 2242: the latest time that the header of a tar member can hold."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")

# Surrogates stand for bytes that are not UTF-8 (PEP 383). They, U+FFFE and U+FFFF cannot stand in XML (XML 1.0,
# section 2.2).
_NOT_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_NOT_ONE_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")


def check_machine(machine: Machine) -> None:
    """Raise InvalidDefinition with the first broken rule; types and enumerations are right already."""
    check_name(machine.name)
    _check_uuid("UUID", machine.uuid)
    if len(machine.description) > MAX_DESCRIPTION:
        raise InvalidDefinition(f"the description is longer than {MAX_DESCRIPTION} characters")
    if bad := _NOT_TEXT.search(machine.description):
        raise InvalidDefinition(f"the description contains {_describe(bad)}")
    _check_line("operating system", machine.os)
    check_memory(machine.memory)
    check_cpu(machine.cpu)
    if not 0 <= machine.created <= machine.modified <= MAX_TIME:
        raise InvalidDefinition(f"the times {machine.created} (created) and {machine.modified} (modified) cannot be")
    _check_disks(machine.disks)
    _check_nics(machine.nics)
    for kind, state in machine.states.items():
        if not 1 <= state.size <= MAX_STATE or not _DIGEST.fullmatch(state.digest):
            raise InvalidDefinition(f"the state of its {kind} ({state.size} bytes, digest {state.digest!a}) cannot be")


def check_name(name: str) -> None:
    """Names have 1 to 255 characters on one line, not only spaces, that XML can carry."""
    if not name.strip():
        raise InvalidDefinition("the name is empty")
    _check_line("name", name)


def check_memory(memory: int) -> None:
    """Memory is a multiple of 1 MiB, from 1 MiB to 64 TiB."""
    if not MIB <= memory <= MAX_MEMORY or memory % MIB:
        raise InvalidDefinition(
            f"memory of {memory} bytes cannot be",
            f"give a multiple of 1 MiB, at most {format_size(MAX_MEMORY)}",
        )


def check_cpu(cpu: CpuTopology) -> None:
    """Sockets, cores and threads are at least 1, their product at most 4096."""
    if min(cpu.sockets, cpu.cores, cpu.threads) < 1 or cpu.total > MAX_CPUS:
        raise InvalidDefinition(
            f"{cpu.sockets} sockets, {cpu.cores} cores, {cpu.threads} threads cannot be",
            f"each must be at least 1, and their product at most {MAX_CPUS}",
        )


def parse_mac(text: str) -> str:
    """The MAC as it is stored, from six hexadecimal pairs joined by ":" or "-". Multicast addresses are refused."""
    mac = text.lower().replace("-", ":")
    _check_mac(mac)
    return mac


def _check_disks(disks: tuple[Disk, ...]) -> None:
    for disk in disks:
        _check_uuid("disk UUID", disk.uuid)
        _check_uuid("volume UUID", disk.volume.uuid)
        _check_line("disk alias", disk.alias, empty=True)
        if is_location(disk.volume.path):
            check_location(disk.volume.path, disk.volume.format)
        else:
            check_path(disk.volume.path)
        if disk.volume.secret:
            check_path(disk.volume.secret)
    if len(disks) > 1:
        _check_count("disks", len(disks))
        _check_distinct("disk UUID", [disk.uuid for disk in disks])
        _check_distinct("volume UUID", [disk.volume.uuid for disk in disks])
        _check_distinct("image", [disk.volume.path for disk in disks])


def _check_nics(nics: tuple[Nic, ...]) -> None:
    for nic in nics:
        _check_uuid("NIC UUID", nic.uuid)
        _check_line("NIC name", nic.name)
        _check_line("network", nic.network, empty=True)
        _check_mac(nic.mac)
    if len(nics) > 1:
        _check_count("NICs", len(nics))
        _check_distinct("NIC UUID", [nic.uuid for nic in nics])
        _check_distinct("MAC address", [nic.mac for nic in nics])


def check_location(location: str, form: DiskFormat) -> None:
    """Disks on the network are raw: another format may name files of this host, and what a server says can change."""
    parse_location(location)
    if form != DiskFormat.RAW:
        raise InvalidDefinition(f"{location}: the format {form} on the network is not supported; only raw is")


def check_path(path: str) -> None:
    """Paths are absolute, UTF-8, without control characters, so that they can be shown, logged and kept as JSON."""
    if bad := _NOT_ONE_LINE.search(path):
        raise InvalidDefinition(f"the path {path!a} contains {_describe(bad)}", "rename the file or its directory")
    if not path.startswith("/") or len(path.encode()) > MAX_PATH:
        raise InvalidDefinition(f"{path[:MAX_PATH]!r} is not an absolute path of at most {MAX_PATH} bytes")


def _check_mac(mac: str) -> None:
    if not _MAC.fullmatch(mac):
        raise InvalidDefinition(f"{mac!a} is not a MAC address", "write it as 52:54:00:12:34:56")
    if int(mac[:2], 16) & 1:
        raise InvalidDefinition(f"{mac} is a multicast address", "the first byte of a NIC's MAC address must be even")


def _check_uuid(what: str, uuid: str) -> None:
    if not _UUID.fullmatch(uuid):
        raise InvalidDefinition(f"{uuid!a} is not a {what} in lower-case canonical form")


def _check_line(what: str, text: str, *, empty: bool = False) -> None:
    if not text and not empty:
        raise InvalidDefinition(f"the {what} is empty")
    if len(text) > MAX_NAME:
        raise InvalidDefinition(f"the {what} has {len(text)} characters", f"the limit is {MAX_NAME}")
    if bad := _NOT_ONE_LINE.search(text):
        raise InvalidDefinition(f"the {what} {text!a} contains {_describe(bad)}")


def _check_count(what: str, count: int) -> None:
    if count > MAX_DEVICES:
        raise InvalidDefinition(f"{count} {what} are too many", f"the limit is {MAX_DEVICES}")


def _check_distinct(what: str, values: list[str]) -> None:
    if len(set(values)) < len(values):
        twice = next(value for value in values if values.count(value) > 1)
        raise InvalidDefinition(f"the {what} {twice} is used twice in this machine")


def _describe(bad: re.Match[str]) -> str:
    code = ord(bad.group())
    if 0xDC80 <= code <= 0xDCFF:
        return f"the byte 0x{code - 0xDC00:02x}, which is not UTF-8"
    return f"the character U+{code:04X}, which is not allowed here"
