"""What a host offers to domains: libvirt's capabilities and domain capabilities, as far as new domains need them.

| document, element | read |
|---|---|
| ``capabilities/host/cpu/arch`` | the architecture of guests that this host can run well |
| ``capabilities/guest/arch`` | kinds of domains ("kvm", "qemu"), machine types |
| ``domainCapabilities/path`` | the emulator |
| ``domainCapabilities/os/enum[@name='firmware']`` | "efi" if there is a UEFI firmware that libvirt chooses itself |
| ``domainCapabilities/os/loader/enum[@name='secure']`` | "yes" if one of them knows secure boot |
| ``domainCapabilities/cpu/mode`` | modes of the processor |
| ``domainCapabilities/devices/disk/enum[@name='bus']`` | buses of disks |
| ``domainCapabilities/devices/tpm`` | whether a TPM can be emulated |

Sources: https://libvirt.org/formatcaps.html, https://libvirt.org/formatdomaincaps.html. Both texts come from libvirt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lxml import etree

from ovafs.errors import InvalidDefinition, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ovafs.formats.domain.firmware import FirmwareBuild

# The first that a host has is taken.
_DOMAIN_TYPES = ("kvm", "qemu")


class Guest(NamedTuple):
    """A kind of guest that a host runs: what domain capabilities are asked for."""

    domain_type: str
    arch: str
    machines: frozenset[str]


class Host(NamedTuple):
    """What new domains can have. ``networks`` and ``bridges`` are names; empty ``cpu_mode``: the hypervisor's own.

    ``firmwares`` are those that can take variables which a machine brings along.
    """

    guest: Guest
    emulator: str = ""
    has_uefi: bool = False
    has_secure_boot: bool = False
    cpu_mode: str = ""
    disk_buses: frozenset[str] = frozenset({"virtio", "scsi", "sata"})
    has_tpm: bool = False
    networks: frozenset[str] = frozenset()
    bridges: frozenset[str] = frozenset()
    firmwares: tuple[FirmwareBuild, ...] = ()


def read_guest(capabilities: str) -> Guest:
    """The kind of guest that new domains are. Raises SourceError if the host runs none with its own firmware."""
    root = _parse(capabilities)
    own = root.findtext("host/cpu/arch")
    arches = [arch for arch in root.iterfind("guest/arch") if _os_type(arch) == "hvm"]
    arches.sort(key=lambda arch: arch.get("name") != own)
    for arch in arches:
        types = [kind.get("type", "") for kind in arch.iterfind("domain")]
        types.sort(key=lambda kind: _DOMAIN_TYPES.index(kind) if kind in _DOMAIN_TYPES else len(_DOMAIN_TYPES))
        if types:
            machines = {element.text or "" for element in arch.iter("machine")}
            return Guest(types[0], arch.get("name", ""), frozenset(machines))
    raise SourceError("libvirt says that this host can run no virtual machines", "is a hypervisor installed?")


def read_host(guest: Guest, domain_capabilities: str, networks: Iterable[str], bridges: Iterable[str]) -> Host:
    """What the host offers to such guests."""
    root = _parse(domain_capabilities)
    modes = [mode.get("name", "") for mode in root.iterfind("cpu/mode[@supported='yes']")]
    # A processor that other hosts have, too, where the real one is used; all that can be emulated where it is not:
    # guests of today do not start on the oldest one, which is the default.
    wanted = ("host-model", "host-passthrough", "maximum") if guest.domain_type == "kvm" else ("maximum",)
    return Host(
        guest=guest,
        emulator=root.findtext("path") or "",
        has_uefi="efi" in _values(root, "os/enum[@name='firmware']"),
        has_secure_boot="yes" in _values(root, "os/loader/enum[@name='secure']"),
        cpu_mode=next((mode for mode in wanted if mode in modes), ""),
        disk_buses=frozenset(_values(root, "devices/disk/enum[@name='bus']")),
        has_tpm="emulator" in _values(root, "devices/tpm[@supported='yes']/enum[@name='backendModel']"),
        networks=frozenset(networks),
        bridges=frozenset(bridges),
    )


def _os_type(arch: etree._Element) -> str:
    guest = arch.getparent()
    return "" if guest is None else guest.findtext("os_type") or ""


def _values(root: etree._Element, path: str) -> list[str]:
    return [element.text or "" for element in root.iterfind(f"{path}/value")]


def _parse(text: str) -> etree._Element:
    parser = etree.XMLParser(resolve_entities=False, load_dtd=False, no_network=True)
    try:
        return etree.fromstring(text.encode(), parser)
    except etree.XMLSyntaxError as error:
        raise InvalidDefinition(f"the host's capabilities cannot be read: {str(error)[:200]}") from None
