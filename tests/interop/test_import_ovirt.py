"""Packages as oVirt's own script makes them, in all of its versions, and as its users repack them."""

from __future__ import annotations

import base64
import bz2
import contextlib
import io
import random
import sqlite3
import sys
import tarfile
from typing import TYPE_CHECKING, Literal

import pytest

from ovafs.errors import InvalidPackage
from ovafs.model import DiskInterface, Firmware
from tests.support.oracles import assert_same_disk, check_qcow2, tar_members
from tests.support.ovirt_reader import read_ovf
from tests.support.ovirt_walker import walk
from tests.support.packages import content, converted, import_pool
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.packages import ImportPool

MIB = 1 << 20
VM = "11111111-2222-4333-8444-555555555555"
DISKS = ["e0000000-0000-4000-8000-000000000000", "e0000001-0000-4000-8000-000000000001"]
CONTENTS = [content(4 * MIB, 1), content(2 * MIB, 2)]


def ovf(sizes: list[int], *, name: str = "demo", volume_format: str = "COW", uri: str = "") -> str:
    """A descriptor as the engine writes it: on one line, everything unprefixed, attributes with "ovf:"."""
    uri = uri or "http://www.gnome.org/~markmc/qcow-image-format.html"
    files = "".join(
        f'<File ovf:href="{one}" ovf:id="{one}" ovf:size="{size}"></File>'
        for one, size in zip(DISKS, sizes, strict=True)
    )
    disks = "".join(
        f'<Disk ovf:diskId="d{one[1:]}" ovf:capacity="{len(data)}" ovf:capacityAllocationUnits="byte"'
        f' ovf:populatedSize="{size}" ovf:parentRef="" ovf:fileRef="{one}" ovf:format="{uri}"'
        f' ovf:volume-format="{volume_format}" ovf:volume-type="Sparse" ovf:disk-interface="VirtIO_SCSI"'
        f' ovf:boot="{str(one == DISKS[1]).lower()}" ovf:disk-alias="{name}_Disk{number}"></Disk>'
        for number, (one, size, data) in enumerate(zip(DISKS, sizes, CONTENTS, strict=True), 1)
    )
    items = "".join(
        f"<Item><rasd:Caption>{name}_Disk{number}</rasd:Caption><rasd:InstanceID>{one}</rasd:InstanceID>"
        f"<rasd:ResourceType>17</rasd:ResourceType><rasd:HostResource>ovf:/disk/d{one[1:]}</rasd:HostResource>"
        "<rasd:Parent>00000000-0000-0000-0000-000000000000</rasd:Parent><Type>disk</Type><Device>disk</Device></Item>"
        for number, one in enumerate(DISKS, 1)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ovf:Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"'
        ' xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"'
        ' xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"'
        ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns="http://schemas.dmtf.org/ovf/envelope/1"'
        f' xmlns:ovirt="http://www.ovirt.org/ovf"><References>{files}</References><DiskSection><Info>List of Virtual'
        f' Disks</Info>{disks}</DiskSection><VirtualSystem ovf:id="{VM}"><Name>{name}</Name><CreationDate>2023/11/14'
        " 22:13:20</CreationDate><BiosType>2</BiosType><VirtualHardwareSection><Info>2 CPU, 2048 Memory</Info><Item>"
        "<rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:AllocationUnits>MegaBytes"
        f"</rasd:AllocationUnits><rasd:VirtualQuantity>2048</rasd:VirtualQuantity></Item>{items}"
        "</VirtualHardwareSection></VirtualSystem></ovf:Envelope>"
    )


VARIABLES = b"variables" * 100
NVRAM = b"=0=" + base64.encodebytes(bz2.compress(VARIABLES))
TPM = base64.encodebytes(b"tpm" * 100)
OLD_NVRAM = b'{ value : "' + NVRAM + b'" }'


def pack(
    text: str,
    images: dict[str, bytes],
    *,
    pads: bool = False,
    states: dict[str, bytes] | None = None,
    characters: bool = False,
    tar_format: Literal[0, 1, 2] = tarfile.GNU_FORMAT,
) -> bytes:
    """What pack_ova.py writes, by Python's tarfile: headers by TarInfo, contents padded to 512, two zero blocks.

    ``characters``: up to 4.5.4 the size of the descriptor is counted in characters. PAX_FORMAT with a fraction in
    the time is what engines before 4.5.1 wrote with Python 3.8 and later.
    """
    out = io.BytesIO()

    def put(name: str, data: bytes, size: int | None = None) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data) if size is None else size
        info.mtime = 1_700_000_000.25 if tar_format == tarfile.PAX_FORMAT else 1_700_000_000
        out.write(info.tobuf(format=tar_format))
        out.write(data + bytes(-len(data) % 512))

    put("vm.ovf", text.encode(), len(text) if characters else None)
    for name, data in (states or {}).items():
        put(name, data)
    for name, data in images.items():
        if pads and (out.tell() + 512) % 4096:
            put("pad", bytes(4096 - (out.tell() + 512) % 4096 - 512) if (out.tell() + 512) % 4096 <= 3584 else b"")
        put(name, data)
    out.write(bytes(1024))
    return out.getvalue()


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[ImportPool]:
    with import_pool(tmp_path / "pool") as opened:
        yield opened


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The disks as qcow2 in entries that are larger than they are: what "measure" says, filled with zeros."""
    folder = tmp_path_factory.mktemp("ovirt")
    files = [converted(folder, data, "qcow2") for data in CONTENTS]
    return {
        name: data + bytes(65536 * (number + 1)) for number, (name, data) in enumerate(zip(DISKS, files, strict=True))
    }


def take(pool: ImportPool, package: bytes, folder: Path) -> list[str]:
    """Import, judge the disks, and return the warnings."""
    (folder / "package.ova").write_bytes(package)
    imported = pool.take(package)
    machine = imported.machines[0]
    for disk, data in zip(machine.disks, CONTENTS, strict=True):
        truth = folder / "truth.raw"
        truth.write_bytes(data)
        check_qcow2(disk.volume.path)
        assert_same_disk(disk.volume.path, truth, "qcow2", "raw")
        assert disk.interface == DiskInterface.VIRTIO_SCSI
    assert [disk.boot for disk in machine.disks] == [False, True]
    assert (machine.uuid, machine.memory, machine.created) == (VM, 2 << 30, 1_700_000_000)
    pool.assert_whole(1)
    return imported.warnings


def sizes(images: dict[str, bytes]) -> list[int]:
    return [len(images[name]) for name in DISKS]


def test_today(pool: ImportPool, images: dict[str, bytes], tmp_path: Path) -> None:
    """With pad members, TPM and NVRAM, and the disks in another order than the descriptor's."""
    swapped = {name: images[name] for name in reversed(DISKS)}
    package = pack(ovf(sizes(images)), swapped, pads=True, states={"tpm.dat": TPM, "nvram.dat": NVRAM})
    warnings = take(pool, package, tmp_path)
    assert [member.name for member in tar_members(tmp_path / "package.ova") if member.name == "pad"]
    assert warnings == [
        "tpm.dat: not in the descriptor, ignored",
        "nvram.dat: not in the descriptor, ignored",
    ]


def with_states(text: str, states: dict[str, bytes]) -> str:
    files = "".join(
        f'<File ovf:href="{name}" ovf:id="{name}" ovf:size="{len(data)}"></File>' for name, data in states.items()
    )
    return text.replace("</References>", f"{files}</References>")


@pytest.mark.parametrize("nvram", [NVRAM, OLD_NVRAM, NVRAM.replace(b"\n", b"")])
def test_states_in_the_forms_of_all_versions(
    pool: ImportPool, images: dict[str, bytes], tmp_path: Path, nvram: bytes
) -> None:
    """They come out in the form that every engine reads, and again so when that is imported."""
    states = {"tpm.dat": TPM, "nvram.dat": nvram}
    assert take(pool, pack(with_states(ovf(sizes(images)), states), images, states=states), tmp_path) == []
    machine = pool.pool.find("demo")
    assert machine.firmware == Firmware.UEFI
    first = exported(pool, tmp_path / "first.ova")
    assert first == {"tpm.dat": TPM.replace(b"\n", b""), "nvram.dat": NVRAM.replace(b"\n", b"")}
    assert bz2.decompress(base64.b64decode(first["nvram.dat"].removeprefix(b"=0="))) == VARIABLES
    with import_pool(tmp_path / "again") as other:
        again = other.take((tmp_path / "first.ova").read_bytes()).machines[0]
        assert (again.tpm, again.nvram) == (machine.tpm, machine.nvram)
        assert exported(other, tmp_path / "second.ova") == first
        other.pool.remove("demo")
        with contextlib.closing(sqlite3.connect(other.path / "catalog.sqlite")) as catalog:
            assert catalog.execute("SELECT machine FROM states UNION SELECT digest FROM descriptors").fetchall() == []


def test_a_bios_has_no_variables(pool: ImportPool, images: dict[str, bytes]) -> None:
    states = {"tpm.dat": TPM, "nvram.dat": NVRAM}
    package = pack(with_states(ovf(sizes(images)), states), images, states=states)
    imported = pool.take(package, firmware=Firmware.BIOS)
    (machine,) = imported.machines
    assert (machine.nvram, machine.tpm is None) == (None, False)
    assert "the state of the UEFI firmware is left out; a BIOS has none" in imported.warnings


def exported(pool: ImportPool, target: Path) -> dict[str, bytes]:
    """The state files of an export, judged by what oVirt's engine and its host make of it."""
    run(sys.executable, "-m", "ovafs", "export", "-q", pool.path, "demo", target)
    with tarfile.open(target) as tar:
        contents = {name: (tar.extractfile(name) or io.BytesIO()).read() for name in tar.getnames()[:3]}
    entity = read_ovf(contents.pop("vm.ovf"))
    walk(target, {disk.remote_path: "/target" for disk in entity.disks})
    assert [(one.type, one.device) for one in entity.devices if one.type == "tpm"] == [("tpm", "tpm")]
    return contents


def test_states_before_the_descriptor_and_states_that_are_none(
    pool: ImportPool, images: dict[str, bytes], tmp_path: Path
) -> None:
    states = {"tpm.dat": b"not base64!", "nvram.dat": NVRAM}
    text = with_states(ovf(sizes(images)), states)
    folder = tmp_path / "unpacked"
    folder.mkdir()
    for name, data in {**states, "vm.ovf": text.encode(), **images}.items():
        (folder / name).write_bytes(data)
    run("tar", "-C", folder, "-cf", tmp_path / "behind.ova", "nvram.dat", "vm.ovf", "tpm.dat", *DISKS)
    warnings = take(pool, (tmp_path / "behind.ova").read_bytes(), tmp_path)
    (warning,) = warnings
    assert warning.startswith("tpm.dat: is not base64: ")
    assert warning.endswith("; this state of the machine is left out")
    machine = pool.pool.find("demo")
    assert machine.tpm is None
    assert machine.nvram is not None


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_headers_of_other_versions(
    pool: ImportPool, images: dict[str, bytes], tmp_path: Path, tar_format: Literal[0, 1, 2]
) -> None:
    package = pack(ovf(sizes(images)), images, tar_format=tar_format)
    assert (b"mtime=1700000000.25" in package) == (tar_format == tarfile.PAX_FORMAT)
    assert take(pool, package, tmp_path) == []


@pytest.mark.parametrize("name", ["dämon", "数据" * 100, "🐧" * 60])
def test_a_size_in_characters(pool: ImportPool, images: dict[str, bytes], tmp_path: Path, name: str) -> None:
    text = ovf(sizes(images), name=name)
    assert take(pool, pack(text, images, characters=True), tmp_path) == []
    assert pool.pool.find(name).uuid == VM


@pytest.mark.parametrize("volume_format", ["RAW", "COW"])
def test_raw_claimed_over_qcow2(pool: ImportPool, images: dict[str, bytes], tmp_path: Path, volume_format: str) -> None:
    text = ovf(sizes(images), volume_format=volume_format, uri="http://www.vmware.com/specifications/vmdk.html#sparse")
    assert take(pool, pack(text, images), tmp_path) == []


def test_a_raw_entry(pool: ImportPool, tmp_path: Path) -> None:
    raw = dict(zip(DISKS, CONTENTS, strict=True))
    text = ovf(sizes(raw), volume_format="RAW", uri="http://en.wikipedia.org/wiki/Byte")
    assert take(pool, pack(text, raw), tmp_path) == []


def test_repacked_with_tar(pool: ImportPool, images: dict[str, bytes], tmp_path: Path) -> None:
    """By people who looked into it: "./" before the names, a directory, the descriptor behind the disks."""
    folder = tmp_path / "unpacked"
    folder.mkdir()
    (folder / "vm.ovf").write_text(ovf(sizes(images)))
    for name, data in images.items():
        (folder / name).write_bytes(data)
    run("tar", "-C", folder, "-cf", tmp_path / "repacked.ova", ".")
    run("tar", "-C", folder, "-cf", tmp_path / "behind.ova", *DISKS, "vm.ovf")
    run("tar", "-C", folder, "--format=posix", "--sparse", "-cf", tmp_path / "sparse.ova", "vm.ovf", *DISKS)
    for name in ("repacked", "behind"):
        with import_pool(tmp_path / name) as other:
            take(other, (tmp_path / f"{name}.ova").read_bytes(), tmp_path)
    pool.assert_whole()


def test_an_export_that_broke_off(pool: ImportPool, images: dict[str, bytes]) -> None:
    """pack_ova.py writes the headers first and the disks later: what it had not reached is zeros."""
    holes = {DISKS[0]: images[DISKS[0]], DISKS[1]: bytes(len(images[DISKS[1]]))}
    with pytest.raises(InvalidPackage, match=f"'{DISKS[1]}': is called qcow2 but is not"):
        pool.take(pack(ovf(sizes(images)), holes))
    pool.assert_whole()


def test_a_disk_of_random_bytes_that_looks_like_qcow2(pool: ImportPool, tmp_path: Path) -> None:
    """Raw stays raw: what a guest wrote into its disk is never taken for an image by a later reader."""
    first = run("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "inner.qcow2", "1M")
    assert first.returncode == 0
    inner = b"\0" * 512 + (tmp_path / "inner.qcow2").read_bytes()
    raw = {DISKS[0]: inner.ljust(4 * MIB, b"\0"), DISKS[1]: random.Random(1).randbytes(2 * MIB)}
    text = ovf(sizes(raw), volume_format="RAW", uri="http://en.wikipedia.org/wiki/Byte")
    machine = pool.take(pack(text, raw), format="raw").machines[0]
    assert [disk.volume.format for disk in machine.disks] == ["raw", "raw"]
    with open(machine.disks[0].volume.path, "rb") as file:
        assert file.read() == raw[DISKS[0]]
