"""The judges of our descriptors, judged: on documents that others wrote, whose fate with each reader is known."""

from __future__ import annotations

import re

import pytest

from tests.support.ovirt_reader import OvirtReaderError, is_ovirts_own, read_ovf
from tests.support.shared import shared_path
from tests.support.v2v_reader import V2vError, read_as_vdsm, read_as_virt_v2v

MINIMAL = "handwritten-minimal.vm.ovf"
OVIRTS = ("engine-4.5.8-writer.vm.ovf", "engine-4.5.8-writer.template.ovf", MINIMAL, "oracle-mk-envelope.vm.ovf")
VMWARES = (
    *("virt-v2v-test-i-ova.ovf", "virt-v2v-test-i-ova-as-root.ovf", "virt-v2v-test-i-ova-checksums.ovf"),
    *("virt-v2v-test-i-ova-formats.ovf", "virt-v2v-test-i-ova-gz.ovf", "virt-v2v-test-i-ova-snapshots.ovf"),
    *("virt-v2v-test-i-ova-subfolders.ovf", "virt-v2v-test-i-ova-tar.ovf", "virt-v2v-test-i-ova-two-disks.ovf"),
)


def sample(name: str) -> bytes:
    return shared_path(f"samples/ovirt/{name}").read_bytes()


@pytest.mark.parametrize("name", [*OVIRTS, "ost-test-vm.v2v-rhv-upload.ovf"])
def test_the_engine_reads_its_own_kind(name: str) -> None:
    ovf = sample(name)
    assert is_ovirts_own(ovf)
    entity = read_ovf(ovf, "template" if "template" in name else "vm")
    assert entity.id is not None
    assert entity.memory_mib >= 1024
    assert all(disk.image_id == disk.remote_path.rpartition("/")[2] for disk in entity.disks)


def test_what_the_engine_makes_of_its_own_export() -> None:
    entity = read_ovf(sample("engine-4.5.8-writer.vm.ovf"))
    assert [disk.size >> 30 for disk in entity.disks] == [10, 11]  # the second was 10 GiB + 512 bytes
    assert not any(disk.has_item for disk in entity.disks)  # for their ovf:description is empty
    assert (entity.sockets, entity.cores, entity.memory_mib, entity.bios_type) == (1, 2, 2048, 2)
    assert [(nic.name, nic.network, nic.type) for nic in entity.nics] == [("nic1", "ovirtmgmt", 3)]


@pytest.mark.parametrize("name", VMWARES)
def test_all_three_read_vmwares(name: str) -> None:
    ovf = sample(name)
    assert not is_ovirts_own(ovf)
    entity, info, source = read_ovf(ovf), read_as_vdsm(ovf), read_as_virt_v2v(ovf)
    assert entity.name == info.name == source.name
    assert len(entity.disks) == len(info.disks) == len(source.disks) > 0


@pytest.mark.parametrize(
    "name", ["engine-vmOvfData.xml", "engine-vmOvfData2.xml", "virt-v2v-test-o-ovirt.ovf.expected"]
)
def test_the_engines_internal_flavour_is_no_ova(name: str) -> None:
    with pytest.raises(OvirtReaderError, match="DiskSection"):
        read_ovf(sample(name))


def test_vdsm_reads_what_the_engine_does_not() -> None:
    ovf = sample("vdsm-v2v_test-read_ovf.ovf")
    assert len(read_as_vdsm(ovf).disks) == 2
    with pytest.raises(OvirtReaderError, match="diskId"):
        read_ovf(ovf)


@pytest.mark.parametrize("name", ["engine-4.5.8-writer.vm.ovf", "oracle-mk-envelope.vm.ovf"])
def test_virt_v2v_stops_at_a_parent_that_is_no_number(name: str) -> None:
    with pytest.raises(V2vError, match="Parent"):
        read_as_virt_v2v(sample(name))
    assert read_as_vdsm(sample(name)).is_ovirts_own


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        # Where the namespaces stand and how they are written.
        (r"<Envelope (xmlns=\"[^\"]*\") ([^>]*)>", r"<Envelope \2 \1>"),
        (r"(<Envelope xmlns=\"[^\"]*\") ", r"\1\n"),
        (r"<File ", "<ovf:File "),
        (r"<(/?)DiskSection>", r"<\1ovf:DiskSection>"),
        (r"<(/?)VirtualSystem\b", r"<\1ovf:VirtualSystem"),
        (r"ovf:diskId=", "diskId="),
        (r"<Disk ovf:", '<Disk xmlns:o="http://schemas.dmtf.org/ovf/envelope/1" o:'),
        (r"<Envelope", "<!DOCTYPE Envelope []><Envelope"),
        # What is required.
        (r" ovf:diskId=\"[^\"]*\"", ""),
        (r" ovf:fileRef=\"[^\"]*\"", ""),
        (r" ovf:capacity=\"[^\"]*\"", ""),
        (r"<File ovf:id=\"[^\"]*\"", '<File ovf:id="other"'),
        (r" ovf:href=\"[^\"]*\"", ""),
        (r"(?s)<DiskSection>.*</DiskSection>", ""),
        (r"(?s)<OperatingSystemSection.*</OperatingSystemSection>", ""),
        (r"(?s)<VirtualHardwareSection>.*</VirtualHardwareSection>", ""),
        (r"<rasd:ResourceType>10</rasd:ResourceType>", ""),
        (r"<rasd:Connection>.*</rasd:Connection>", ""),
        (r"<rasd:HostResource>.*</rasd:HostResource>", ""),
        (r"<rasd:VirtualQuantity>1</rasd:VirtualQuantity>", ""),
        (r"<rasd:VirtualQuantity>1024</rasd:VirtualQuantity>", ""),
        (r"<rasd:ResourceType>10<", "<rasd:ResourceType>0<"),
        # What must be well spelled.
        (r"\"COW\"", '"cow"'),
        (r"\"Sparse\"", '"sparse"'),
        (r"\"VirtIO_SCSI\"", '"virtio-scsi"'),
        (r"\"byte\"", '"MegaBytes"'),
        (r"<rasd:VirtualQuantity>1024<", "<rasd:VirtualQuantity>1024.0<"),
        (r"<rasd:VirtualQuantity>1024<", "<rasd:VirtualQuantity> 1024<"),
        (r"<BiosType>1<", "<BiosType>UEFI<"),
        (r"ovirt:id=\"34\"", 'ovirt:id="rhel9"'),
    ],
)
def test_what_makes_the_engine_throw(pattern: str, replacement: str) -> None:
    text = sample(MINIMAL).decode()
    spoiled, count = re.subn(pattern, replacement, text)
    assert count
    read_ovf(text.encode())
    with pytest.raises(OvirtReaderError):
        read_ovf(spoiled.encode())


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (r" xmlns=\"[^\"]*\"", ""),
        (r"(<Envelope xmlns=\"[^\"]*\") ", r"\1\n    "),
        (r"rasd", "r"),
        (r"envelope/1\"", 'envelope/2"'),
        (r"(?s)<Disk .*?/>", ""),
        (r" ovf:capacityAllocationUnits=\"byte\"", ""),
        (r"\"byte\"", '"byte * 2^0"'),
    ],
)
def test_what_the_engine_puts_up_with(pattern: str, replacement: str) -> None:
    changed, count = re.subn(pattern, replacement, sample(MINIMAL).decode())
    assert count
    assert read_ovf(changed.encode()).name == "tiny"
