"""Packages made by hand, imported into pools, and what a pool holds then."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ovafs.inventory.pool import Pool, create_pool
from ovafs.transfer.ingest.choices import ImportChoices
from ovafs.transfer.ingest.package import import_package
from ovafs.transfer.ingest.target import TargetFormat
from tests.support.attack_tars import END, member
from tests.support.decoding import every, pieces
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ovafs.transfer.ingest.package import Imported

MIB = 1 << 20
STREAM = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
QCOW2 = "http://www.gnome.org/~markmc/qcow-image-format.html"
RAW = "http://en.wikipedia.org/wiki/Byte"
VHD = "http://go.microsoft.com/fwlink/?LinkId=137171"
OLDER_VHD = "http://technet.microsoft.com/en-us/library/bb676673.aspx"

_NAMESPACES = (
    'xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"'
    ' xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"'
)


class DiskText(NamedTuple):
    """A disk as a descriptor lists it; ``href`` None: no file. ``extra`` are more attributes of its Disk."""

    href: str | None
    capacity: int | None
    format: str = RAW
    file: str = ""
    extra: str = ""


def descriptor(*disks: DiskText, name: str = "web", uuid: str = "", macs: Sequence[str] = (), more: str = "") -> bytes:
    """An OVF 1 descriptor of one machine on the disks; ``more`` goes into the References."""
    files = "".join(f'<File ovf:id="f{n}" ovf:href="{d.href}" {d.file}/>' for n, d in enumerate(disks) if d.href)
    items = "".join(_disk_item(number) for number in range(len(disks)))
    items += "".join(_nic_item(100 + number, mac) for number, mac in enumerate(macs))
    system = f'<VirtualSystem ovf:id="{uuid or name}"><Info/><Name>{name}</Name>'
    system += f"<VirtualHardwareSection><Info/>{_MEMORY}{_CONTROLLER}{items}</VirtualHardwareSection></VirtualSystem>"
    return envelope(f"<References>{files}{more}</References>", _disk_section(disks), system)


def envelope(*sections: str) -> bytes:
    """A descriptor of these sections."""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<Envelope {_NAMESPACES}>{"".join(sections)}</Envelope>'.encode()


def _disk_section(disks: Sequence[DiskText]) -> str:
    def one(number: int, disk: DiskText) -> str:
        file = f'ovf:fileRef="f{number}"' if disk.href else ""
        capacity = "" if disk.capacity is None else f'ovf:capacity="{disk.capacity}"'
        return f'<Disk ovf:diskId="d{number}" {capacity} {file} ovf:format="{disk.format}" {disk.extra}/>'

    return f"<DiskSection><Info/>{''.join(one(*pair) for pair in enumerate(disks))}</DiskSection>"


_MEMORY = (
    "<Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:InstanceID>1</rasd:InstanceID>"
    "<rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>512</rasd:VirtualQuantity></Item>"
)
_CONTROLLER = (
    "<Item><rasd:Address>0</rasd:Address><rasd:InstanceID>2</rasd:InstanceID>"
    "<rasd:ResourceSubType>AHCI</rasd:ResourceSubType><rasd:ResourceType>20</rasd:ResourceType></Item>"
)


def _disk_item(number: int) -> str:
    return (
        f"<Item><rasd:AddressOnParent>{number}</rasd:AddressOnParent><rasd:ElementName>disk{number}</rasd:ElementName>"
        f"<rasd:HostResource>ovf:/disk/d{number}</rasd:HostResource><rasd:InstanceID>{number + 10}</rasd:InstanceID>"
        "<rasd:Parent>2</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>"
    )


def _nic_item(number: int, mac: str) -> str:
    return (
        f"<Item><rasd:Address>{mac}</rasd:Address><rasd:Connection>lan</rasd:Connection>"
        f"<rasd:InstanceID>{number}</rasd:InstanceID><rasd:ResourceSubType>E1000</rasd:ResourceSubType>"
        "<rasd:ResourceType>10</rasd:ResourceType></Item>"
    )


def archive(members: Mapping[str, bytes] | Iterable[tuple[str, bytes]], *, end: bool = True) -> bytes:
    """An archive of these members, in their order."""
    pairs = members.items() if hasattr(members, "items") else members
    return b"".join(member(name.encode(), data) for name, data in pairs) + (END if end else b"")


def manifest(members: Mapping[str, bytes], algorithm: str = "sha256") -> bytes:
    """A manifest of all members but itself."""
    lines = [
        f"{algorithm.upper()}({name})= {hashlib.new(algorithm, data).hexdigest()}" for name, data in members.items()
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def content(size: int = 2 * MIB, seed: int = 1) -> bytes:
    """A disk: random, zero and compressible parts."""
    rng = random.Random(seed)
    quarter = size // 4
    parts = [rng.randbytes(quarter), bytes(quarter), b"\xa5" * quarter, rng.randbytes(size - 3 * quarter)]
    return b"".join(parts)


def converted(folder: Path, data: bytes, form: str, *options: str) -> bytes:
    """``data`` in a disk file of another format, by qemu-img."""
    source, target = folder / "source.raw", folder / f"target.{form}"
    source.write_bytes(data)
    run("qemu-img", "convert", "-f", "raw", "-O", form, *options, source, target)
    return target.read_bytes()


def small_package(seed: int = 1, **fields: Any) -> dict[str, bytes]:
    """A package of two raw disks of 64 KiB, in parts."""
    disks = {"a.raw": content(1 << 16, seed), "b.raw": content(1 << 16, seed + 1)}
    text = descriptor(*(DiskText(name, len(data)) for name, data in disks.items()), **fields)
    return {"web.ovf": text, **disks}


class ImportPool:
    """A pool that imports packages in this process, and says what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists() or not any(path.iterdir()):
            create_pool(str(path))
        self.pool = Pool(str(path))

    def take(self, data: bytes, *, cuts: Iterable[int] | None = None, dry: bool = False, **choices: Any) -> Imported:
        """Import a package, cut into pieces whose buffers are spoiled behind the importer's back."""
        if "format" in choices:
            choices["format"] = TargetFormat(choices["format"])
        cut = pieces(data, every(100_003, len(data)) if cuts is None else cuts)
        return import_package(self.pool, map(memoryview, cut), "package", ImportChoices(**choices), dry=dry)

    @property
    def files(self) -> list[str]:
        """Names in the directory of volumes."""
        return sorted(os.listdir(self.path / "volumes"))

    @property
    def notes(self) -> set[str]:
        """Volumes that are noted as unfinished."""
        return self.pool.unfinished_volumes()

    def assert_whole(self, machines: int = 0) -> None:
        """So many machines, a file for each of their volumes, and nothing else."""
        found = self.pool.machines()
        assert len(found) == machines
        assert self.files == sorted(Path(disk.volume.path).name for one in found for disk in one.disks)
        assert self.notes == set()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Another program is in the middle of a change of the catalog."""
        with contextlib.closing(sqlite3.connect(self.path / "catalog.sqlite", isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield

    def close(self) -> None:
        self.pool.close()


@contextlib.contextmanager
def import_pool(path: Path) -> Iterator[ImportPool]:
    """An open pool at ``path``, made if there is none."""
    with contextlib.closing(ImportPool(path)) as pool:
        yield pool


def guest_bytes(volume: str, form: str, folder: Path) -> bytes:
    """The guest's bytes of a volume, by qemu-img, which finds nothing wrong with it."""
    if form == "qcow2":
        run("qemu-img", "check", "-f", "qcow2", volume)
    target = folder / "guest.raw"
    run("qemu-img", "convert", "-f", form, "-O", "raw", volume, target)
    return target.read_bytes()
