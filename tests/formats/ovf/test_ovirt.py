"""The descriptor: its exact bytes, and what the readers of oVirt, VDSM and virt-v2v make of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovafs.errors import InvalidDefinition
from ovafs.formats.ovf.os_ids import guest_os
from ovafs.formats.ovf.ovirt import DiskFile, descriptor_name, write_ovf
from ovafs.model import (
    CpuTopology,
    Disk,
    DiskFormat,
    DiskInterface,
    Firmware,
    Machine,
    MachineKind,
    Nic,
    NicModel,
    Volume,
)
from ovafs.units import GIB, MIB
from tests.support.ovirt_reader import OvirtDevice, OvirtEntity, directory_listing, is_ovirts_own, read_ovf
from tests.support.strategies import machines
from tests.support.v2v_reader import read_as_vdsm, read_as_virt_v2v

GOLDEN = Path(__file__).parent / "golden"

INTERFACES = {
    DiskInterface.VIRTIO: ("VirtIO", None),
    DiskInterface.VIRTIO_SCSI: ("VirtIO_SCSI", "scsi"),
    DiskInterface.SATA: ("SATA", "sata"),
    DiskInterface.IDE: ("IDE", "ide"),
}
NIC_TYPES = {NicModel.VIRTIO: 3, NicModel.E1000: 2, NicModel.E1000E: 6, NicModel.RTL8139: 1}


def uuid(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"


def disk(number: int, interface: DiskInterface = DiskInterface.VIRTIO, *, boot: bool = False) -> Disk:
    volume = Volume(uuid=uuid(0x200 + number), path="/images/x.qcow2", format=DiskFormat.QCOW2)
    return Disk(uuid=uuid(0x100 + number), alias=f"disk{number}", volume=volume, interface=interface, boot=boot)


def machine(**changes: Any) -> Machine:
    base = Machine(
        uuid=uuid(1),
        name="web",
        memory=4 * GIB,
        created=1_700_000_000,
        modified=1_700_000_061,
        os="debian12",
        disks=(disk(1, boot=True),),
        nics=(Nic(uuid=uuid(0x300), name="nic1", network="ovirtmgmt", mac="52:54:00:12:34:56"),),
    )
    return msgspec.structs.replace(base, **changes)


FULL = machine(
    name='Büro & <Lager> "1" 中文 😀 a::b',
    description="two\nlines, xmlns=gone and\ta tab",
    cpu=CpuTopology(sockets=2, cores=4, threads=2),
    firmware=Firmware.UEFI_SECURE,
    os="win2k22",
    disks=(
        disk(1, boot=True),
        disk(2, DiskInterface.VIRTIO_SCSI),
        disk(3, DiskInterface.SATA),
        disk(4, DiskInterface.VIRTIO_SCSI),
    ),
    nics=(
        Nic(uuid=uuid(0x300), name="nic1", network="ovirtmgmt", mac="52:54:00:12:34:56"),
        Nic(uuid=uuid(0x301), name="nic2", network="", mac="52:54:00:12:34:57", model=NicModel.E1000E),
    ),
)
FULL_FILES = [DiskFile(10 * GIB + 512, 5_701_632), DiskFile(1, 1024), DiskFile(1 << 60, 393_216), DiskFile(0, 512)]
TEMPLATE = machine(kind=MachineKind.TEMPLATE, name="base", description="", nics=())
ONE_FILE = [DiskFile(10 * GIB, 393_216)]


@pytest.mark.parametrize(
    ("name", "example", "files"), [("full.vm.ovf", FULL, FULL_FILES), ("small.template.ovf", TEMPLATE, ONE_FILE)]
)
def test_golden_bytes(name: str, example: Machine, files: list[DiskFile]) -> None:
    """When these bytes change, so do those of every .ova: that needs a new LAYOUT_VERSION in transfer.packager."""
    assert write_ovf(example, files) == (GOLDEN / name).read_bytes()


def test_the_names_of_descriptors() -> None:
    assert descriptor_name(machine()) == "vm.ovf"
    assert descriptor_name(TEMPLATE) == "template.ovf"


@st.composite
def machines_with_files(draw: st.DrawFn) -> tuple[Machine, list[DiskFile]]:
    drawn = draw(machines())
    sizes = st.builds(DiskFile, st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
    return drawn, [draw(sizes) for _ in drawn.disks]


@given(machines_with_files())
def test_bytes_that_ovirts_edits_and_listings_leave_alone(drawn: tuple[Machine, list[DiskFile]]) -> None:
    example, files = drawn
    ovf = write_ovf(example, files)
    assert ovf == write_ovf(msgspec.structs.replace(example), list(files))
    assert b"::" not in ovf
    assert b"\r" not in ovf
    assert re.findall(rb"xmlns=[^-\s]*", ovf) == [b'xmlns="http://schemas.dmtf.org/ovf/envelope/1"']
    assert re.search(rb'<Envelope xmlns="[^"]*" ', ovf)
    assert b"InstanceId" not in re.sub(rb">[^<]*<|\"[^\"]*\"", b"", ovf)
    assert is_ovirts_own(ovf)
    assert directory_listing({"a.ova": ovf, "b.ova": ovf}) == {"a.ova": ovf.decode(), "b.ova": ovf.decode()}


@given(machines_with_files())
def test_ovirt_reads_the_machine(drawn: tuple[Machine, list[DiskFile]]) -> None:
    example, files = drawn
    is_template = example.kind is MachineKind.TEMPLATE
    entity = read_ovf(write_ovf(example, files), "template" if is_template else "vm")
    assert (entity.id, entity.name, entity.description) == (example.uuid, example.name, example.description)
    assert entity.os_id == guest_os(example.os).ovirt
    assert entity.memory_mib * MIB == example.memory
    assert (entity.sockets, entity.cores, entity.threads) == (
        example.cpu.sockets,
        example.cpu.cores,
        example.cpu.threads,
    )
    assert [(n.name, n.network or "", n.mac, n.type, n.pci_address) for n in entity.nics] == [
        (n.name, n.network, n.mac, NIC_TYPES[n.model], None) for n in example.nics
    ]
    assert OvirtDevice("video", "vga") in entity.devices
    check_disks(example, files, entity)
    if is_template:
        assert entity.template["TemplateType"] == "TEMPLATE"
        assert entity.template["BaseTemplateId"] == example.uuid


def check_disks(example: Machine, files: list[DiskFile], entity: OvirtEntity) -> None:
    is_q35 = entity.bios_type > 0
    boots = [disk.uuid for disk in example.disks if disk.boot][:1]
    assert [found.disk_id for found in entity.disks if found.boot] == boots
    for found, disk_, file in zip(entity.disks, example.disks, files, strict=True):
        assert found.has_item
        assert (found.disk_id, found.image_id) == (disk_.uuid, disk_.volume.uuid)
        assert found.remote_path == disk_.volume.uuid
        assert (found.size, found.actual_size) == file
        assert found.alias == (disk_.alias or disk_.uuid)
        assert (found.volume_format, found.volume_type) == ("COW", "Sparse")
        mapped = is_q35 and disk_.interface is DiskInterface.IDE
        assert found.interface == ("SATA" if mapped else INTERFACES[disk_.interface][0])
    # What the engine supports: osinfo-defaults.properties, devices.diskInterfaces and q35Support.
    interfaces = {found.interface for found in entity.disks}
    assert "IDE" not in interfaces if is_q35 else "SATA" not in interfaces
    has_controller = OvirtDevice("controller", "virtio-scsi") in entity.devices
    assert has_controller == ("VirtIO_SCSI" in interfaces)


@given(machines_with_files())
def test_vdsm_reads_the_machine(drawn: tuple[Machine, list[DiskFile]]) -> None:
    example, files = drawn
    info = read_as_vdsm(write_ovf(example, files))
    assert (info.name, info.memory_mib * MIB, info.cpus) == (example.name, example.memory, example.cpu.total)
    assert [(disk.capacity, disk.alias, disk.allocation) for disk in info.disks] == [
        (file.virtual_size, disk.volume.uuid, file.file_size) for disk, file in zip(example.disks, files, strict=True)
    ]
    assert [(nic.name, nic.bridge or "") for nic in info.nics] == [(nic.name, nic.network) for nic in example.nics]
    assert info.is_ovirts_own


@given(machines_with_files())
def test_virt_v2v_reads_the_machine(drawn: tuple[Machine, list[DiskFile]]) -> None:
    example, files = drawn
    ovf = write_ovf(example, files)
    source = read_as_virt_v2v(ovf)
    written = [found.interface for found in read_ovf(ovf).disks]
    controllers = dict(INTERFACES.values())
    assert (source.name, source.memory, source.cpus) == (example.name, example.memory, example.cpu.total)
    assert [(disk.href, disk.controller) for disk in source.disks] == [
        (disk.volume.uuid, controllers[interface]) for disk, interface in zip(example.disks, written, strict=True)
    ]


@pytest.mark.parametrize(
    ("firmware", "interfaces", "os", "bios_type"),
    [
        (Firmware.BIOS, ["virtio"], "debian12", 1),
        (Firmware.BIOS, [], "other", 1),
        (Firmware.BIOS, ["ide"], "debian12", 0),
        (Firmware.BIOS, ["sata"], "debian12", 1),
        (Firmware.BIOS, ["ide", "sata"], "debian12", 1),
        (Firmware.BIOS, ["virtio"], "winxp", 0),
        (Firmware.BIOS, ["sata"], "winxp", 1),
        (Firmware.UEFI, ["ide"], "debian12", 2),
        (Firmware.UEFI_SECURE, ["virtio"], "win11", 3),
    ],
)
def test_chipset_and_firmware(firmware: Firmware, interfaces: list[str], os: str, bios_type: int) -> None:
    disks = tuple(disk(number, DiskInterface(interface)) for number, interface in enumerate(interfaces))
    example = machine(firmware=firmware, os=os, disks=disks)
    assert read_ovf(write_ovf(example, ONE_FILE * len(disks))).bios_type == bios_type


def test_dates_are_the_machines_own_in_utc() -> None:
    entity = read_ovf(write_ovf(machine(created=0, modified=1_700_000_061), ONE_FILE))
    assert (entity.created, entity.exported) == ("1970/01/01 00:00:00", "2023/11/14 22:14:21")


def test_a_machine_without_disks_and_adapters() -> None:
    ovf = write_ovf(machine(disks=(), nics=()), [])
    assert b"<NetworkSection>" not in ovf
    entity = read_ovf(ovf)
    assert (entity.disks, entity.nics) == ([], [])
    assert read_as_virt_v2v(ovf).disks == []
    assert read_as_vdsm(ovf).disks == []


def test_64_disks() -> None:
    disks = tuple(disk(number, DiskInterface.VIRTIO_SCSI) for number in range(64))
    ovf = write_ovf(machine(disks=disks), ONE_FILE * 64)
    assert all(found.has_item for found in read_ovf(ovf).disks)
    assert len(read_as_virt_v2v(ovf).disks) == 64
    slots = re.findall(rb"<rasd:AddressOnParent>(\d+)<", ovf)
    assert slots == [b"%d" % number for number in range(64)]


def test_instance_ids_are_distinct() -> None:
    numbers = re.findall(rb"<rasd:InstanceID>(\d+)<", write_ovf(FULL, FULL_FILES))
    assert numbers == [b"%d" % number for number in range(1, len(numbers) + 1)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "a\x07b"}, "U\\+0007"),
        ({"description": "\udcff"}, "U\\+DCFF"),
        ({"nics": (Nic(uuid=uuid(2), name="\0", network="", mac=""),)}, "U\\+0000"),
        ({"uuid": "web"}, "'web' is not a UUID"),
        ({"uuid": uuid(10).upper()}, "not a UUID in lower case"),
        ({"disks": (disk(1), disk(1))}, "same disk UUID"),
        ({"disks": (disk(1), msgspec.structs.replace(disk(1), uuid=uuid(7)))}, "same volume UUID"),
        ({"memory": 0}, "0 bytes of memory"),
        ({"memory": MIB + 1}, "whole MiB"),
        ({"memory": MIB << 31}, "whole MiB"),
        ({"cpu": CpuTopology(sockets=0)}, "processors"),
        ({"created": 10**18}, "no date"),
        ({"modified": -(10**12)}, "no date"),
    ],
)
def test_definitions_that_cannot_be_written(changes: dict[str, Any], reason: str) -> None:
    example = machine(**changes)
    with pytest.raises(InvalidDefinition, match=reason):
        write_ovf(example, ONE_FILE * len(example.disks))


def test_as_many_files_as_disks() -> None:
    with pytest.raises(ValueError, match="zip"):
        write_ovf(machine(), [])
