"""A machine of the neutral model as libvirt's domain XML, on the hardware that its host has.

| element | written |
|---|---|
| ``metadata`` | libosinfo's ``os`` if its id is known; ``template`` in the name space of ovafs |
| ``os`` | machine type; for UEFI ``firmware="efi"``: libvirt chooses the file, and makes fresh variables at the start |
| | for variables that are given instead ``loader`` and ``nvram`` |
| ``features`` | ACPI and APIC, which every guest of today needs; SMM for secure boot |
| ``clock`` | local time for Windows, UTC for all others, as they expect it |
| ``devices`` | disks, adapters, a TPM if the machine has one; serial console, screen, tablet, guest agent |

Source: https://libvirt.org/formatdomain.html; what is written passes domain.rng. ``read`` gives the machine back.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from lxml import etree

from ovafs.formats.domain.read import NAMESPACE, OSINFO
from ovafs.model import DiskInterface, Firmware, MachineKind

if TYPE_CHECKING:
    from ovafs.formats.domain.firmware import FirmwareBuild
    from ovafs.formats.domain.host import Host
    from ovafs.model import Disk, Machine, Nic

BUSES = {
    DiskInterface.VIRTIO: "virtio",
    DiskInterface.VIRTIO_SCSI: "scsi",
    DiskInterface.SATA: "sata",
    DiskInterface.IDE: "ide",
}
"""libvirt's names."""

DEFAULT_NETWORK = "default"
"""The network that libvirt brings along."""

_TARGETS = {"virtio": "vd", "scsi": "sd", "sata": "sd", "ide": "hd"}

# libosinfo's ids are addresses: "debian12" is http://debian.org/debian/12.
_VENDORS = {
    "almalinux": "almalinux.org/almalinux",
    "alpinelinux": "alpinelinux.org/alpinelinux",
    "centos-stream": "centos.org/centos-stream",
    "centos": "centos.org/centos",
    "debian": "debian.org/debian",
    "fedora": "fedoraproject.org/fedora",
    "freebsd": "freebsd.org/freebsd",
    "ol": "oracle.com/ol",
    "opensuse": "opensuse.org/opensuse",
    "rhel": "redhat.com/rhel",
    "rocky": "rockylinux.org/rocky",
    "ubuntu": "ubuntu.com/ubuntu",
    "win": "microsoft.com/win",
}
_OS_ID = re.compile(rf"({'|'.join(_VENDORS)})([0-9][0-9a-z.]*)")


def machine_type(machine: Machine, host: Host) -> str:
    """The machine type of the domain, empty for libvirt's own choice.

    The old PC has the IDE controller that guests with such disks know, and no firmware but a BIOS; the newer one
    suits all others.
    """
    has_ide = any(disk.interface is DiskInterface.IDE for disk in machine.disks)
    wanted = ("pc", "q35") if has_ide and machine.firmware is Firmware.BIOS else ("q35",)
    return next((name for name in wanted if name in host.guest.machines), "")


class FirmwareFiles(NamedTuple):
    """The firmware of a domain, and the path of the file with its own variables."""

    build: FirmwareBuild
    variables: str


def write_domain(machine: Machine, host: Host, firmware: FirmwareFiles | None = None) -> str:
    """The definition of a domain that is ``machine``, which fits ``host``."""
    root = etree.Element("domain", type=host.guest.domain_type)
    add_element(root, "name", machine.name)
    add_element(root, "uuid", machine.uuid)
    _metadata(root, machine)
    if machine.description:
        add_element(root, "description", machine.description)
    add_element(root, "memory", str(machine.memory), unit="b")
    add_element(root, "vcpu", str(machine.cpu.total))
    _os(root, machine, host, firmware)
    _features(root, machine, host)
    attributes = {"mode": host.cpu_mode} if host.cpu_mode else {}
    cpu = add_element(root, "cpu", **attributes)
    topology = {"sockets": machine.cpu.sockets, "cores": machine.cpu.cores, "threads": machine.cpu.threads}
    add_element(cpu, "topology", **{key: str(value) for key, value in topology.items()})
    add_element(root, "clock", offset="localtime" if machine.os.startswith("win") else "utc")
    _devices(root, machine, host)
    return etree.tostring(root, encoding="unicode", pretty_print=True)


def add_element(parent: etree._Element, tag: str, text: str | None = None, **attributes: str) -> etree._Element:
    """A new last child."""
    element = etree.SubElement(parent, tag, attributes)
    element.text = text
    return element


def _metadata(root: etree._Element, machine: Machine) -> None:
    os_id = _OS_ID.fullmatch(machine.os)
    if os_id is None and machine.kind is MachineKind.VM:
        return
    metadata = add_element(root, "metadata")
    if os_id is not None:
        info = etree.SubElement(metadata, f"{{{OSINFO}}}libosinfo", nsmap={"libosinfo": OSINFO})
        etree.SubElement(info, f"{{{OSINFO}}}os", id=f"http://{_VENDORS[os_id[1]]}/{os_id[2]}")
    if machine.kind is MachineKind.TEMPLATE:
        etree.SubElement(metadata, f"{{{NAMESPACE}}}template", nsmap={"ovafs": NAMESPACE})


def _os(root: etree._Element, machine: Machine, host: Host, firmware: FirmwareFiles | None) -> None:
    is_chosen = machine.firmware is not Firmware.BIOS and firmware is None
    element = add_element(root, "os", **({"firmware": "efi"} if is_chosen else {}))
    kind = machine_type(machine, host)
    add_element(element, "type", "hvm", arch=host.guest.arch, **({"machine": kind} if kind else {}))
    secure = "yes" if machine.firmware is Firmware.UEFI_SECURE else "no"
    if is_chosen:
        features = add_element(element, "firmware")
        add_element(features, "feature", enabled=secure, name="secure-boot")
        add_element(features, "feature", enabled=secure, name="enrolled-keys")
    elif firmware is not None:
        add_element(element, "loader", firmware.build.code, readonly="yes", secure=secure, type="pflash")
        add_element(element, "nvram", firmware.variables, template=firmware.build.template)


def _features(root: etree._Element, machine: Machine, host: Host) -> None:
    features = add_element(root, "features")
    add_element(features, "acpi")
    if host.guest.arch in {"x86_64", "i686"}:
        add_element(features, "apic")
    if machine.firmware is Firmware.UEFI_SECURE:
        add_element(features, "smm", state="on")


def _devices(root: etree._Element, machine: Machine, host: Host) -> None:
    devices = add_element(root, "devices")
    if host.emulator:
        add_element(devices, "emulator", host.emulator)
    used: Counter[str] = Counter()
    for disk in machine.disks:
        add_disk(devices, disk, used)
    if used["scsi"]:
        add_element(devices, "controller", type="scsi", index="0", model="virtio-scsi")
    for nic in machine.nics:
        _nic(devices, nic, host)
    add_element(add_element(devices, "serial", type="pty"), "target", port="0")
    add_element(add_element(devices, "console", type="pty"), "target", type="serial", port="0")
    agent = add_element(devices, "channel", type="unix")
    add_element(agent, "target", type="virtio", name="org.qemu.guest_agent.0")
    add_element(devices, "input", type="tablet", bus="usb")
    add_element(devices, "graphics", type="vnc", port="-1", autoport="yes", listen="127.0.0.1")
    add_element(add_element(devices, "video"), "model", type="vga")
    if machine.tpm is not None:
        tpm = add_element(devices, "tpm", model="tpm-crb")
        add_element(tpm, "backend", type="emulator", version="2.0")


def add_disk(devices: etree._Element, disk: Disk, used: Counter[str]) -> None:
    """The element of a disk; ``used`` counts those before it, by names of targets and of buses."""
    bus = BUSES[disk.interface]
    element = add_element(devices, "disk", type="file", device="disk")
    add_element(element, "driver", name="qemu", type=disk.volume.format, discard="unmap")
    add_element(element, "source", file=disk.volume.path)
    prefix = _TARGETS[bus]
    add_element(element, "target", dev=f"{prefix}{_letters(used[prefix])}", bus=bus)
    used[prefix] += 1
    if bus != prefix:
        used[bus] += 1
    if disk.boot:
        add_element(element, "boot", order="1")


def _letters(number: int) -> str:
    """As Linux names disks: "a" to "z", then "aa"."""
    text = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        text = string.ascii_lowercase[digit] + text
    return text


def _nic(devices: etree._Element, nic: Nic, host: Host) -> None:
    """An adapter that is on no network is on the default one, with its cable pulled out: libvirt has no other way."""
    network = nic.network or DEFAULT_NETWORK
    kind = "bridge" if network in host.bridges and network not in host.networks else "network"
    element = add_element(devices, "interface", type=kind)
    add_element(element, "mac", address=nic.mac)
    add_element(element, "source", **{kind: network})
    add_element(element, "model", type=nic.model)
    if not nic.network:
        add_element(element, "link", state="down")
