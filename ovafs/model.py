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
    """The format of a volume in storage, as recorded, by QEMU's name for it; never guessed again later."""

    RAW = "raw"
    QCOW2 = "qcow2"
    QCOW = "qcow"
    VMDK = "vmdk"
    VDI = "vdi"
    VHDX = "vhdx"
    VPC = "vpc"
    LUKS = "luks"


NATIVE_FORMATS = (DiskFormat.RAW, DiskFormat.QCOW2)
"""What ovafs reads and writes itself. All others it reads by way of QEMU, and no volume is written in them."""


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


class StateKind(enum.StrEnum):
    """State that a machine has beside its disks; oVirt packs it in this order."""

    TPM = "tpm"
    NVRAM = "nvram"


class CpuTopology(msgspec.Struct, frozen=True, kw_only=True):
    """Virtual processors; each number is at least 1."""

    sockets: int = 1
    cores: int = 1
    threads: int = 1

    @property
    def total(self) -> int:
        """Number of virtual processors that the guest sees."""
        return self.sockets * self.cores * self.threads


class Volume(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a disk's bytes lie: an image file or block device, with its recorded format.

    ``snapshot`` is the name of an internal snapshot of a qcow2 image; empty for its present content. ``secret`` is the
    path of the file with the passphrase of an image that is encrypted; empty for any other. (Defaults are left out, so
    that a definition without them has the digest that it always had.)
    """

    uuid: str
    path: str
    format: DiskFormat
    snapshot: str = ""
    secret: str = ""


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


class State(msgspec.Struct, frozen=True, kw_only=True):
    """State of the firmware or of the TPM, as text in oVirt's form: ``size`` in bytes, ``digest`` its SHA-256 in hex.

    The text itself stays in the inventory until a package is made.
    """

    size: int
    digest: str


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A virtual machine or template.

    ``memory`` is in bytes, a multiple of 1 MiB. ``created`` and ``modified`` are whole seconds since the epoch
    (UTC); ``modified`` changes with every change of the definition. ``os`` is a short id as libosinfo spells
    it ("debian12", "win2k22"), or "other". ``nvram`` are the firmware's variables, ``tpm`` is what a TPM keeps.
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
    nvram: State | None = None
    tpm: State | None = None

    @property
    def states(self) -> dict[StateKind, State]:
        """The states that the machine has, in the order in which they are packed."""
        both = {StateKind.TPM: self.tpm, StateKind.NVRAM: self.nvram}
        return {kind: state for kind, state in both.items() if state is not None}


def state_of(text: bytes) -> State:
    """What a machine's definition says of a state with this text."""
    return State(size=len(text), digest=hashlib.sha256(text).hexdigest())


def definition_digest(machine: Machine) -> bytes:
    """SHA-256 of everything in the definition: equal exactly if the definitions are equal."""
    return hashlib.sha256(msgspec.json.encode(machine)).digest()
