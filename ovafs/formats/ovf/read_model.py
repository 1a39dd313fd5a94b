"""What a descriptor says, whoever wrote it: the neutral result of reading.

Names, sizes and references are checked; whether the package has the files is not known here. ``None`` and "" mean
that the descriptor says nothing. What the model has no place for is in ``unknown``, as XML that stands by itself.
"""

from __future__ import annotations

import enum
import html
import re

import msgspec

from ovafs.model import CpuTopology, Firmware, MachineKind, NicModel

_TAG = re.compile(r"<(?:[^\s<>/:]+:)?([^\s<>/]+)")
_TITLE = re.compile(r"<(?:[^\s<>/:]+:)?(?:ElementName|Caption)(?:\s[^<>]*)?>([^<]+)<")
_KEY = re.compile(r"<[^<>]*?[\s:](?:key|type|id)=\"([^\"<>]+)\"")


class PackageFile(msgspec.Struct, frozen=True, kw_only=True):
    """A ``File``: ``href`` is a relative name in the package, without ``./`` before it, not percent-decoded.

    ``size`` is that of the file in the package, in bytes. With ``chunk_size`` the file comes in pieces of so many
    bytes, named ``href.000000000`` and so on; ``gzip`` applies to the whole.
    """

    id: str
    href: str
    size: int | None = None
    gzip: bool = False
    chunk_size: int | None = None


class ControllerKind(enum.StrEnum):
    """What a disk is attached to, as the guest sees it."""

    IDE = "ide"
    SATA = "sata"
    SCSI = "scsi"
    VIRTIO = "virtio"
    VIRTIO_SCSI = "virtio-scsi"
    NVME = "nvme"
    OTHER = "other"


class PackageDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A ``Disk``: sizes in bytes; ``file`` is None for an empty disk; ``format`` is a hint only.

    ``parent`` is the id of the disk whose content lies below this one's. ``alias``, ``interface`` and ``boot`` are
    what oVirt says of a disk here rather than in its Item.
    """

    id: str
    file: PackageFile | None = None
    capacity: int | None = None
    populated_size: int | None = None
    format: str = ""
    parent: str = ""
    alias: str = ""
    interface: ControllerKind | None = None
    boot: bool = False

    @property
    def is_iso(self) -> bool:
        """Whether the content is a CD or DVD, which VirtualBox lists among the disks."""
        return "ecma-119" in self.format.lower()


class DiskSlot(msgspec.Struct, frozen=True, kw_only=True):
    """A disk in a system, and where it sits.

    ``model`` is the controller's ResourceSubType as written ("lsilogic"), ``bus`` its number among its kind,
    ``address`` the place on it. ``boot`` marks what the machine starts from, if the descriptor says it.
    """

    disk: PackageDisk
    alias: str = ""
    controller: ControllerKind | None = None
    model: str = ""
    bus: int | None = None
    address: int | None = None
    boot: bool = False


class NetworkAdapter(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter; ``model`` is None where ovafs has no equal of ``model_text``; ``mac`` is lower-case with colons."""

    name: str = ""
    network: str = ""
    model: NicModel | None = None
    model_text: str = ""
    mac: str = ""
    connected: bool = True


class RemovableDrive(msgspec.Struct, frozen=True, kw_only=True):
    """A CD-ROM or floppy drive; ``file`` is what lies in it, if that is part of the package."""

    is_floppy: bool = False
    name: str = ""
    file: PackageFile | None = None


class System(msgspec.Struct, frozen=True, kw_only=True):
    """A ``VirtualSystem``: one machine or template.

    ``memory`` is in bytes, whole MiB. ``os`` is a short id like libosinfo's or "other"; ``os_text`` is the
    description that was found. ``uuid`` is in lower case. ``created`` is in seconds since the epoch.
    """

    id: str = ""
    name: str = ""
    uuid: str = ""
    kind: MachineKind = MachineKind.VM
    description: str = ""
    created: int | None = None
    cpu: CpuTopology | None = None
    memory: int | None = None
    firmware: Firmware = Firmware.BIOS
    os: str = "other"
    os_text: str = ""
    disks: tuple[DiskSlot, ...] = ()
    nics: tuple[NetworkAdapter, ...] = ()
    drives: tuple[RemovableDrive, ...] = ()
    nvram: PackageFile | None = None
    tpm: PackageFile | None = None
    unknown: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def label_of(piece: str) -> str:
    """What a piece of ``unknown`` is, in a few words: "Item 'Video card'", "Config 'firmware'", "EulaSection"."""
    head = _TAG.match(piece)
    if head is None:
        return "element"
    titles = (_TITLE.search(piece), _KEY.match(piece))
    title = next((match[1] for match in titles if match is not None), "")
    return f"{head[1][:60]} {html.unescape(title)[:60]!r}" if title else head[1][:60]


class Descriptor(msgspec.Struct, frozen=True, kw_only=True):
    """A whole descriptor; ``version`` is "0.9", "1" or "2". ``unknown`` is what concerns all systems."""

    version: str
    files: tuple[PackageFile, ...]
    disks: tuple[PackageDisk, ...]
    networks: tuple[str, ...]
    systems: tuple[System, ...]
    unknown: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
