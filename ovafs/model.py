"""The neutral model of a virtual machine: what every inventory yields and every OVF dialect is written from.

All values are immutable, so one definition can be shared by every reader, and its digest identifies it.
"""

from __future__ import annotations

import enum
import hashlib

import msgspec


class MachineKind(enum.StrEnum):
    """A virtual machine, or a template that machines are made from."""

    VM = "vm"
    TEMPLATE = "template"


class Firmware(enum.StrEnum):
    """What starts the guest."""

    BIOS = "bios"
    UEFI = "uefi"
    UEFI_SECURE = "uefi-secure"


class DiskFormat(enum.StrEnum):
    """The format of a volume in storage, as recorded; never guessed again later."""

    RAW = "raw"
    QCOW2 = "qcow2"


class DiskInterface(enum.StrEnum):
    """The bus that the guest sees a disk on."""

    VIRTIO = "virtio"
    VIRTIO_SCSI = "virtio-scsi"
    SATA = "sata"
    IDE = "ide"


class NicModel(enum.StrEnum):
    """The network adapter that the guest sees."""

    VIRTIO = "virtio"
    E1000 = "e1000"
    E1000E = "e1000e"
    RTL8139 = "rtl8139"


class CpuTopology(msgspec.Struct, frozen=True, kw_only=True):
    """Virtual processors; each number is at least 1."""

    sockets: int = 1
    cores: int = 1
    threads: int = 1

    @property
    def total(self) -> int:
        """Number of virtual processors that the guest sees."""
        return self.sockets * self.cores * self.threads


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """Where a disk's bytes lie: an image file or block device, with its recorded format."""

    uuid: str
    path: str
    format: DiskFormat


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk of a machine; ``alias`` is its name for people."""

    uuid: str
    alias: str
    volume: Volume
    interface: DiskInterface = DiskInterface.VIRTIO
    boot: bool = False


class Nic(msgspec.Struct, frozen=True, kw_only=True):
    """A network adapter; ``mac`` is lower-case, colon-separated; ``network`` may be empty (not connected)."""

    uuid: str
    name: str
    network: str
    mac: str
    model: NicModel = NicModel.VIRTIO


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A virtual machine or template.

    ``memory`` is in bytes, a multiple of 1 MiB. ``created`` and ``modified`` are whole seconds since the epoch
    (UTC); ``modified`` changes with every change of the definition. ``os`` is a short id as libosinfo spells
    it ("debian12", "win2k22"), or "other".
    """

    uuid: str
    name: str
    memory: int
    created: int
    modified: int
    kind: MachineKind = MachineKind.VM
    description: str = ""
    cpu: CpuTopology = CpuTopology()
    firmware: Firmware = Firmware.BIOS
    os: str = "other"
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()


def definition_digest(machine: Machine) -> bytes:
    """SHA-256 of everything in the definition: equal exactly if the definitions are equal."""
    return hashlib.sha256(msgspec.json.encode(machine)).digest()
