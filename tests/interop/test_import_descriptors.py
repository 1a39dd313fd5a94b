"""Descriptors that other products wrote, each with disks of the size that it says: the machines that come of them.

The samples are descriptors alone, so their disks are made here: empty, by qemu-img, and packed as the descriptor says
(in gzip, in chunks). What is expected is read by eye, or by a few lines of XPath.
"""

from __future__ import annotations

import gzip
import json
import re
from typing import TYPE_CHECKING

import pytest
from lxml import etree

from ovafs.errors import OvafsError
from ovafs.formats.ovf.read import read_descriptor
from tests.formats.ovf.test_read_samples import EXPECTED, descriptor
from tests.support.packages import archive, import_pool
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ovafs.formats.ovf.read_model import PackageFile
    from tests.support.packages import ImportPool

GIB = 1 << 30

# Read by eye: firmware, OS, bus and size of each disk (what it starts from marked), network, model and MAC of adapters.
DETAILS: dict[str, tuple[str, str, list[str], list[str]]] = {
    "ovf-cot/input.ovf": ("bios", "linux2016", ["scsi 1024 MiB"], ["VM Network VMXNET3"] * 3),
    "ovf-cot/iosv.ovf": (
        *("bios", "linux2016", ["virtio 1024 MiB", "virtio 128 MiB"]),
        ["GigabitEthernet0_0 E1000", "GigabitEthernet0_1 E1000"],
    ),
    "ovf-cot/vmware.ovf": ("bios", "rhel6", ["virtio 1024 MiB"], ["lanethernet0 E1000"] * 4),
    "ovf-cot/v0.9.ovf": ("bios", "linux2016", ["scsi 1024 MiB"], ["bridged PCNet32"]),
    "ovf-vmware/mixed-disks.ovf": ("bios", "linux2016", ["scsi 20480 MiB", "scsi 10240 MiB"], []),
    "ovf-vmware/dmtf_gos_versioned_test.ovf": ("bios", "debian12", ["scsi 8192 MiB"], []),
    "ovirt/engine-4.5.8-writer.vm.ovf": (
        *("uefi", "rhel7.0", ["virtio-scsi 10240 MiB, boot", "virtio-scsi 11264 MiB"]),
        ["ovirtmgmt virtio 56:6f:00:00:00:01"],
    ),
    "ovirt/ost-test-vm.v2v-rhv-upload.ovf": (
        *("bios", "rhel7.0", ["virtio 40960 MiB, boot"]),
        ["ovirtmgmt virtio 00:1a:4a:16:21:a2"],
    ),
    "ovirt/virt-v2v-test-i-ova-formats.ovf": ("uefi", "win2k8r2", ["scsi 51200 MiB"], ["PG-VLAN60 E1000"]),
    "ovirt/oracle-mk-envelope.vm.ovf": ("bios", "other", ["virtio 1024 MiB, boot"], ["ovirtvm virtio"]),
    "ovirt/handwritten-minimal.vm.ovf": (
        *("bios", "rhel9.0", ["virtio-scsi 1024 MiB, boot"]),
        ["ovirtmgmt virtio 56:6f:12:34:56:78"],
    ),
}

# Whose machines cannot be, though their descriptors can be read.
REFUSED = {
    **dict.fromkeys(
        [
            f"ovf-vmware/ImportOvf2014/{name}.ovf"
            for name in (
                *("aag-2-vm-vapp-no-group", "aag-2-vm-vapp", "aag-tbp-2-vm-vapp", "pbm-2-vm-vapp"),
                *("soft-aag-2-vm-vapp-no-group", "soft-aag-2-vm-vapp", "soft-aag-tbp-2-vm-vapp"),
            )
        ],
        "lists disks that no machine has",
    ),
    "ovf-vmware/ImportOvf2014/parentDisk.ovf": "holds changes to the disk 'basedisk1'",
    "ovf-vmware/standard_ovas/parentDisk/parentDisk.ovf": "holds changes to the disk 'basedisk1'",
}

TAKEN = [name for name, expected in EXPECTED.items() if isinstance(expected, list) and name.endswith(".ovf")]


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[ImportPool]:
    with import_pool(tmp_path / "pool") as opened:
        yield opened


def capacities(text: bytes) -> set[int]:
    """In bytes, in whole sectors, of all disks, as the descriptor writes them."""
    root = etree.fromstring(text)
    found = set()
    for disk in root.iter("{*}Disk"):
        attributes = {etree.QName(key).localname: str(value) for key, value in disk.attrib.items()}
        power = re.search(r"2\^(\d+)", attributes.get("capacityAllocationUnits", "byte"))
        capacity = attributes.get("capacity") or attributes.get("size", "")
        if capacity.startswith("${"):
            capacity = _default(root, capacity[2:-1])
        size = int(capacity or 0) << (int(power[1]) if power else 0)
        found.add(size + -size % 512)
    return found


def _default(root: etree._Element, key: str) -> str:
    """The value of a property in the default configuration."""
    for element in root.iter("{*}Property"):
        attributes = {etree.QName(name).localname: str(value) for name, value in element.attrib.items()}
        if attributes.get("key") == key:
            return attributes["value"]
    raise KeyError(key)


def members(file: PackageFile, data: bytes) -> Iterator[tuple[str, bytes]]:
    packed = gzip.compress(data, 1) if file.gzip else data
    if file.chunk_size is None:
        yield file.href, packed
        return
    for number, start in enumerate(range(0, len(packed), file.chunk_size)):
        yield f"{file.href}.{number:09d}", packed[start : start + file.chunk_size]


def package(text: bytes, folder: Path) -> bytes:
    """The descriptor with everything that it refers to; sizes of files that it says are taken out: ours have others."""
    found = read_descriptor(text)
    disks = {disk.file: disk for disk in found.disks if disk.file is not None}
    pairs = [("sample.ovf", re.sub(rb"\b(ovf:)?(size|populatedSize)=\"\d+\"", b"", text))]
    for number, file in enumerate(found.files):
        data = b"text"
        if file in disks:
            image = folder / f"{number}.qcow2"
            run("qemu-img", "create", "-q", "-f", "qcow2", image, str(disks[file].capacity or GIB))
            data = image.read_bytes()
        pairs += members(file, data)
    return archive(pairs)


@pytest.mark.parametrize("name", DETAILS)
def test_details(name: str) -> None:
    (system,) = read_descriptor(descriptor(name)).systems
    disks = [
        f"{slot.controller} {(slot.disk.capacity or 0) >> 20} MiB" + (", boot" if slot.boot else "")
        for slot in system.disks
    ]
    nics = [f"{nic.network} {nic.model or nic.model_text} {nic.mac}".rstrip() for nic in system.nics]
    firmware, os, *rest = DETAILS[name]
    assert (system.firmware, system.os, disks, [nic.lower() for nic in nics]) == (
        *(firmware, os, rest[0]),
        [nic.lower() for nic in rest[1]],
    )


@pytest.mark.parametrize("name", REFUSED)
def test_machines_that_cannot_be(pool: ImportPool, tmp_path: Path, name: str) -> None:
    with pytest.raises(OvafsError, match=REFUSED[name]):
        pool.take(package(descriptor(name), tmp_path))
    pool.assert_whole()


@pytest.mark.parametrize("name", [name for name in TAKEN if name not in REFUSED])
def test_machines(pool: ImportPool, tmp_path: Path, name: str) -> None:
    text = descriptor(name)
    imported = pool.take(package(text, tmp_path))
    expected = EXPECTED[name]
    assert isinstance(expected, list)
    found = [
        (machine.cpu.total, machine.memory >> 20, len(machine.disks), len(machine.nics))
        for machine in imported.machines
    ]
    assert found == [(cpus or 1, memory or 1024, disks, nics) for _, cpus, memory, disks, nics in expected]
    sizes = capacities(text)
    for machine in imported.machines:
        for disk in machine.disks:
            info = json.loads(run("qemu-img", "info", "--output=json", disk.volume.path).stdout)
            assert info["virtual-size"] in sizes
