"""Domains that are written: libvirt's own schema judges them, and what is read from them is what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis
import msgspec
import pytest
from lxml import etree

from ovafs.formats.domain.firmware import FirmwareBuild
from ovafs.formats.domain.host import Guest, Host
from ovafs.formats.domain.read import read_domain
from ovafs.formats.domain.write import FirmwareFiles, machine_type, write_domain
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
    State,
    Volume,
)
from tests.support.strategies import machines

SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")  # of the Debian package libvirt0
HOST = Host(
    Guest("kvm", "x86_64", frozenset({"pc", "q35"})), "/usr/bin/qemu", cpu_mode="host-model", bridges=frozenset({"br0"})
)
UUID = "bb20f368-ed92-401f-91dd-f6082a15a406"


def machine(**fields: Any) -> Machine:
    return Machine(**{"uuid": UUID, "name": "web", "memory": 1 << 30, "created": 0, "modified": 0, **fields})


def disk(interface: DiskInterface, *, boot: bool = False, form: DiskFormat = DiskFormat.QCOW2) -> Disk:
    return Disk(
        uuid=UUID, alias="a", volume=Volume(uuid=UUID, path="/pool/a&b.x", format=form), interface=interface, boot=boot
    )


FIRMWARE = FirmwareFiles(FirmwareBuild("/usr/code.fd", "/usr/vars.fd", has_secure_boot=True), "/pool/<x>.fd")


@pytest.mark.parametrize("firmware", [Firmware.UEFI, Firmware.UEFI_SECURE])
def test_firmware_with_variables_that_are_given(firmware: Firmware) -> None:
    text = write_domain(machine(firmware=firmware), HOST, FIRMWARE)
    etree.RelaxNG(etree.parse(SCHEMA)).assertValid(etree.fromstring(text))
    read = read_domain(text)
    assert (read.firmware, read.variables) == (firmware, "/pool/<x>.fd")
    assert ">/usr/code.fd</loader>" in text
    assert 'template="/usr/vars.fd"' in text
    assert "firmware=" not in text, "libvirt chooses nothing"


def written(host: Host = HOST, **fields: Any) -> etree._Element:
    return etree.fromstring(write_domain(machine(**fields), host))


@pytest.fixture(scope="module")
def schema() -> etree.RelaxNG:
    return etree.RelaxNG(etree.parse(SCHEMA))


@hypothesis.settings(max_examples=50)
@hypothesis.given(one=machines())
def test_libvirt_takes_it_and_it_is_read_as_it_was(schema: etree.RelaxNG, one: Machine) -> None:
    # Whether there is such a network, and the address is one adapter's, is seen to before.
    nics = tuple(msgspec.structs.replace(nic, network="br0", mac=f"52{nic.mac[2:]}") for nic in one.nics)
    cpu = msgspec.structs.replace(one.cpu, threads=1)  # at most 4096, as rules has it
    one = msgspec.structs.replace(
        one, cpu=cpu, nics=nics, name=one.name.replace("\n", " ").replace("\r", " ").strip() or "x"
    )
    text = write_domain(one, HOST)
    schema.assertValid(etree.fromstring(text))
    found = read_domain(text)
    assert (found.uuid, found.name, found.memory, found.cpu) == (one.uuid, one.name, one.memory, one.cpu)
    assert found.firmware is one.firmware
    assert found.description == one.description.strip()
    assert found.is_template == (one.kind is MachineKind.TEMPLATE)
    assert [(it.source.path, it.format, it.interface) for it in found.disks] == [
        (it.volume.path, it.volume.format, it.interface) for it in one.disks
    ]
    assert [(it.mac, it.network, it.model) for it in found.nics] == [(it.mac, it.network, it.model) for it in one.nics]


@pytest.mark.parametrize("os_id", ["debian12", "win2k22", "rhel9.2", "centos-stream9", "ubuntu22.04", "fedora38"])
def test_operating_systems_are_called_as_libosinfo_calls_them(os_id: str) -> None:
    assert read_domain(write_domain(machine(os=os_id), HOST)).os == os_id


def test_an_operating_system_that_is_not_known_is_left_out() -> None:
    assert written(os="beos5").find("metadata") is None


@pytest.mark.parametrize(("os_id", "offset"), [("win11", "localtime"), ("debian12", "utc")])
def test_the_clock(os_id: str, offset: str) -> None:
    element = written(os=os_id).find("clock")
    assert element is not None
    assert element.get("offset") == offset


@pytest.mark.parametrize(
    ("firmware", "interface", "machines", "expected"),
    [
        (Firmware.BIOS, DiskInterface.IDE, {"pc", "q35"}, "pc"),
        (Firmware.BIOS, DiskInterface.IDE, {"q35"}, "q35"),
        (Firmware.UEFI, DiskInterface.IDE, {"pc", "q35"}, "q35"),
        (Firmware.BIOS, DiskInterface.SATA, {"pc", "q35"}, "q35"),
        (Firmware.BIOS, DiskInterface.VIRTIO, {"virt"}, ""),
    ],
)
def test_machine_types(firmware: Firmware, interface: DiskInterface, machines: set[str], expected: str) -> None:
    host = HOST._replace(guest=Guest("kvm", "x86_64", frozenset(machines)))
    assert machine_type(machine(firmware=firmware, disks=(disk(interface),)), host) == expected


def test_disks_are_called_as_linux_calls_them() -> None:
    disks = [disk(DiskInterface.SATA), disk(DiskInterface.VIRTIO_SCSI)] + [disk(DiskInterface.VIRTIO)] * 28
    targets = [one.get("dev") for one in written(disks=tuple(disks)).iterfind("devices/disk/target")]
    assert targets[:4] == ["sda", "sdb", "vda", "vdb"]
    assert targets[-3:] == ["vdz", "vdaa", "vdab"]


def test_the_disk_that_boots_and_the_controller_of_scsi() -> None:
    root = written(disks=(disk(DiskInterface.VIRTIO_SCSI), disk(DiskInterface.VIRTIO, boot=True, form=DiskFormat.RAW)))
    assert [one.find("boot") is not None for one in root.iterfind("devices/disk")] == [False, True]
    assert [one.get("type") for one in root.iterfind("devices/disk/driver")] == ["qcow2", "raw"]
    assert [one.get("model") for one in root.iterfind("devices/controller")] == ["virtio-scsi"]


def test_secure_boot_needs_what_protects_its_variables() -> None:
    root = written(firmware=Firmware.UEFI_SECURE)
    assert root.find("features/smm[@state='on']") is not None
    features = {one.get("name"): one.get("enabled") for one in root.iterfind("os/firmware/feature")}
    assert features == {"secure-boot": "yes", "enrolled-keys": "yes"}


def test_an_adapter_on_a_network_on_a_bridge_and_on_none() -> None:
    nics = [
        Nic(uuid=UUID, name="n", network=name, mac="52:54:00:00:00:01", model=NicModel.E1000E)
        for name in ("lan", "br0", "")
    ]
    root = written(HOST._replace(networks=frozenset({"lan", "default"})), nics=tuple(nics))
    found = [
        (one.get("type"), dict(source.attrib), one.find("link") is not None)
        for one in root.iterfind("devices/interface")
        if (source := one.find("source")) is not None
    ]
    assert found == [
        ("network", {"network": "lan"}, False),
        ("bridge", {"bridge": "br0"}, False),
        ("network", {"network": "default"}, True),
    ]


def test_a_tpm_and_the_topology() -> None:
    root = written(tpm=State(size=1, digest="0" * 64), cpu=CpuTopology(sockets=2, cores=3, threads=2))
    assert root.find("devices/tpm/backend[@type='emulator'][@version='2.0']") is not None
    assert root.findtext("vcpu") == "12"
