"""Descriptors of every dialect: what becomes of them, and what they are refused for."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovafs.errors import InvalidPackage
from ovafs.formats.ovf.ovirt import DiskFile, write_ovf
from ovafs.formats.ovf.read import read_descriptor
from ovafs.formats.ovf.read_model import (
    ControllerKind,
    Descriptor,
    DiskSlot,
    NetworkAdapter,
    PackageDisk,
    PackageFile,
    RemovableDrive,
    System,
)
from ovafs.model import CpuTopology, DiskInterface, Firmware, Machine, MachineKind, NicModel
from tests.formats.ovf.test_ovirt import FULL
from tests.formats.ovf.test_read_samples import descriptor as sample
from tests.support.strategies import machines

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 1 << 20
STREAM = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
SPACES = (
    'xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" '
    'xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" '
    'xmlns:vmw="http://www.vmware.com/schema/ovf" xmlns:vbox="http://www.virtualbox.org/ovf/machine" '
    'xmlns:ovirt="http://www.ovirt.org/ovf"'
)


def item(resource_type: object, attributes: str = "", *, extra: str = "", **properties: object) -> str:
    fields = "".join(f"<rasd:{name}>{value}</rasd:{name}>" for name, value in properties.items())
    return f"<Item {attributes}><rasd:ResourceType>{resource_type}</rasd:ResourceType>{fields}{extra}</Item>"


def system(*items: str, rest: str = "", hardware: str = "") -> str:
    section = f"<VirtualHardwareSection><Info/>{''.join(items)}{hardware}</VirtualHardwareSection>"
    return f'<VirtualSystem ovf:id="vm"><Info/>{rest}{section}</VirtualSystem>'


def envelope(content: str, files: str = "", disks: str = "", rest: str = "") -> bytes:
    references = f"<References>{files}</References>" if files else ""
    section = f"<DiskSection><Info/>{disks}</DiskSection>" if disks else ""
    return f"<Envelope {SPACES}>{references}{section}{rest}{content}</Envelope>".encode()


def file(identifier: str = "file1", href: str = "d.vmdk", attributes: str = "") -> str:
    return f'<File ovf:id="{identifier}" ovf:href="{href}" {attributes}/>'


def disk(identifier: str = "disk1", reference: str = "file1", attributes: str = 'ovf:capacity="1048576"') -> str:
    return f'<Disk ovf:diskId="{identifier}" ovf:fileRef="{reference}" {attributes}/>'


def read_system(content: str, **parts: str) -> System:
    (found,) = read_descriptor(envelope(content, **parts)).systems
    return found


# -- whole documents ---------------------------------------------------------------------------------------------


def test_ovirt() -> None:
    """What ovirt-engine's own writer made."""
    found = read_descriptor(sample("ovirt/engine-4.5.8-writer.vm.ovf"))
    files = [
        PackageFile(
            id=f"e000000{number}-0000-4000-8000-00000000000{number}",
            href=f"e000000{number}-0000-4000-8000-00000000000{number}",
            size=size,
        )
        for number, size in enumerate((1234567, 1234568))
    ]
    tpm, nvram = (
        PackageFile(id="tpm.dat", href="tpm.dat", size=19),
        PackageFile(id="nvram.dat", href="nvram.dat", size=23),
    )
    disks = [
        PackageDisk(
            id=f"d000000{number}-0000-4000-8000-00000000000{number}",
            file=file,
            capacity=capacity << 30,
            populated_size=file.size,
            format="http://www.gnome.org/~markmc/qcow-image-format.html",
            alias=f"demo_Disk{number + 1}",
            interface=ControllerKind.VIRTIO_SCSI,
            boot=number == 0,
        )
        for number, (file, capacity) in enumerate(zip(files, (10, 11), strict=True))
    ]
    (machine,) = found.systems
    assert found.version == "1"
    assert found.files == (*files, tpm, nvram)
    assert found.disks == tuple(disks)
    assert found.networks == ("ovirtmgmt",)
    assert machine == System(
        id="11111111-2222-3333-4444-555555555555",
        name="demo",
        uuid="11111111-2222-3333-4444-555555555555",
        description="a demo",
        created=1_700_000_000,
        cpu=CpuTopology(sockets=1, cores=2, threads=1),
        memory=2048 * MIB,
        firmware=Firmware.UEFI,
        os="rhel7.0",
        os_text="Red Hat Enterprise Linux 7.x x64",
        disks=tuple(
            DiskSlot(disk=one, alias=one.alias, controller=ControllerKind.VIRTIO_SCSI, boot=one.boot) for one in disks
        ),
        nics=(
            NetworkAdapter(
                name="nic1", network="ovirtmgmt", model=NicModel.VIRTIO, model_text="3", mac="56:6f:00:00:00:01"
            ),
        ),
        drives=(RemovableDrive(name="CDROM"),),
        nvram=nvram,
        tpm=tpm,
        unknown=machine.unknown,
    )
    kept = " ".join(machine.unknown)
    for text in ("<VmInit", "customScript=", "<MinAllocatedMem", "memballoon", "<rasd:UsbPolicy>", "<BalloonEnabled"):
        assert text in kept
    assert "ovf:/file/tpm.dat" not in kept


def test_virtualbox() -> None:
    """OVF 2.0 with items of three kinds, an ISO among the disks, EFI said by VirtualBox's own words only."""
    found = read_descriptor(sample("virtualbox/efi-scsi-ovf20-iso.ova"))
    (machine,) = found.systems
    base = "efi scsi späce 虚拟机"
    nvram = PackageFile(id="file1", href=f"{base}.nvram", size=540672)
    disks = [
        PackageDisk(
            id=f"vmdisk{number}",
            file=PackageFile(id=f"file{number + 1}", href=f"{base}-disk00{number}.vmdk"),
            capacity=size,
            format=STREAM,
        )
        for number, size in ((1, 4 * MIB), (2, 16 * MIB))
    ]
    assert found.version == "2"
    assert found.disks[2].is_iso
    assert machine == System(
        id=base,
        name=base,
        uuid="de565c00-4079-48bc-9ae5-8cff83828cd9",
        description='Desc with <xml> & "quotes"',
        cpu=CpuTopology(sockets=4),
        memory=2048 * MIB,
        firmware=Firmware.UEFI,
        os="win10",
        os_text="Windows10_64",
        disks=tuple(
            DiskSlot(
                disk=one,
                alias=f"disk{place + 1}",
                controller=ControllerKind.SCSI,
                model="lsilogic",
                bus=0,
                address=place,
            )
            for place, one in enumerate(disks)
        ),
        nics=(
            NetworkAdapter(
                name="Ethernet adapter on 'Bridged'", network="Bridged", model=NicModel.E1000, model_text="82540EM"
            ),
            NetworkAdapter(
                name="Ethernet adapter on 'Internal'", network="Internal", model=NicModel.VIRTIO, model_text="virtio"
            ),
        ),
        drives=(RemovableDrive(name="cdrom1", file=PackageFile(id="file4", href=f"{base}-disk003.iso")),),
        nvram=nvram,
        unknown=machine.unknown,
    )
    assert [re.match(r"<([\w:]+)", piece)[1] for piece in machine.unknown] == ["Item", "vbox:Machine"]  # type: ignore[index]


def test_vmware() -> None:
    """vCenter's words: EFI, a list of configurations, NVRAM as an extra setting."""
    (machine,) = read_descriptor(sample("ovf-vmware/multiple_disks.ovf")).systems
    assert machine.firmware is Firmware.UEFI
    assert machine.nvram == PackageFile(id="nvram", href="uber.nvram", size=8684)
    assert [(slot.disk.id, slot.disk.capacity) for slot in machine.disks][:2] == [
        ("system_large", 40 << 30),
        ("data_large", 50 << 30),
    ]
    (other,) = read_descriptor(sample("ovf-vmware/ImportOvf2014/complete_vs_11.ovf")).systems
    assert [slot.boot for slot in other.disks] == [True]
    assert (other.os, other.os_text) == ("rhel5", "Red Hat Enterprise Linux 5 (32-bit)")
    assert other.warnings == ("vServiceDependencySection is required, says the descriptor, but is not understood",)


def test_ovf_09() -> None:
    (machine,) = read_descriptor(sample("ovf-cot/v0.9.ovf")).systems
    (slot,) = machine.disks
    assert (machine.id, machine.memory, machine.os) == ("v0.9", 8 << 30, "linux2016")
    assert (slot.controller, slot.model, slot.bus, slot.address) == (ControllerKind.SCSI, "lsilogic", 0, 0)
    assert slot.disk.file == PackageFile(id="file1", href="input.vmdk", size=152576)
    assert machine.description.endswith("Are you still reading this?")


def test_compression_and_chunks() -> None:
    gz = read_descriptor(sample("ovirt/virt-v2v-test-i-ova-gz.ovf")).files[0]
    assert (gz.href, gz.gzip) == ("disk1.vmdk.gz", True)
    chunked = read_descriptor(sample("ovf-vmware/standard_ovas/nostalgia-chunkdisk/Nostalgia.ovf")).files[0]
    assert (chunked.href, chunked.size, chunked.chunk_size) == ("Nostalgia-disk1.vmdk", 6872576, 7516192768)


def test_template() -> None:
    (machine,) = read_descriptor(sample("ovirt/engine-4.5.8-writer.template.ovf")).systems
    assert machine.kind is MachineKind.TEMPLATE


# -- our own descriptors -----------------------------------------------------------------------------------------

OWN_INTERFACES = {
    DiskInterface.VIRTIO: ControllerKind.VIRTIO,
    DiskInterface.VIRTIO_SCSI: ControllerKind.VIRTIO_SCSI,
    DiskInterface.SATA: ControllerKind.SATA,
}


def assert_equal(machine: Machine, files: Sequence[DiskFile], found: Descriptor) -> None:
    """Blanks around a text are lost, and oVirt's document has one boot disk, and no IDE on the newer chipset."""
    (read,) = found.systems
    assert (read.uuid, read.kind, read.created) == (machine.uuid, machine.kind, machine.created)
    assert (read.name, read.description) == (machine.name.strip() or machine.uuid, machine.description.strip())
    assert (read.cpu, read.memory, read.firmware) == (machine.cpu, machine.memory, machine.firmware)
    if re.fullmatch(r"[a-z][a-z0-9.-]{0,60}", machine.os.strip()):
        assert read.os == machine.os.strip()
    assert read.os_text == machine.os.strip()
    boot = next((one.uuid for one in machine.disks if one.boot), None)
    for slot, disk, file in zip(read.disks, machine.disks, files, strict=True):
        expected = PackageFile(id=disk.volume.uuid, href=disk.volume.uuid, size=file.file_size)
        assert (slot.disk.id, slot.disk.file, slot.disk.capacity) == (disk.uuid, expected, file.virtual_size)
        assert slot.alias == disk.alias
        assert slot.boot == (disk.uuid == boot)
        if disk.interface is not DiskInterface.IDE:
            assert slot.controller is OWN_INTERFACES[disk.interface]
        else:
            assert slot.controller in {ControllerKind.IDE, ControllerKind.SATA}
    for nic, adapter in zip(machine.nics, read.nics, strict=True):
        assert (adapter.name, adapter.network) == (nic.name.strip(), nic.network.strip())
        assert (adapter.model, adapter.mac, adapter.connected) == (nic.model, nic.mac, True)
    assert read.warnings == found.warnings == ()


@given(machines(), st.data())
def test_what_is_written_is_read(machine: Machine, data: st.DataObject) -> None:
    sizes = st.builds(DiskFile, st.integers(0, 2**60), st.integers(0, 2**60))
    files = data.draw(st.lists(sizes, min_size=len(machine.disks), max_size=len(machine.disks)))
    assert_equal(machine, files, read_descriptor(write_ovf(machine, files)))


# -- details -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reference",
    ["ovf:/disk/disk1", "/disk/disk1", "ovf://disk/disk1", "ovf:disk/disk1", "disk1", "file1", "ovf:/file/file1"],
)
def test_references_of_every_spelling(reference: str) -> None:
    found = read_system(system(item(17, HostResource=reference)), files=file(), disks=disk())
    assert [slot.disk.id for slot in found.disks] == ["disk1"]
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("resource_type", "model", "kind"),
    [
        (5, "", ControllerKind.IDE),
        (5, "PIIX4", ControllerKind.IDE),
        (6, "lsilogic", ControllerKind.SCSI),
        (6, "buslogic lsilogic", ControllerKind.SCSI),
        (6, "VirtualSCSI", ControllerKind.SCSI),
        (6, "virtio lsilogic", ControllerKind.VIRTIO),
        (20, "", ControllerKind.SATA),
        (20, "AHCI", ControllerKind.SATA),
        (20, "vmware.sata.ahci", ControllerKind.SATA),
        (20, "vmware.nvme.controller", ControllerKind.NVME),
        (20, "NVMe", ControllerKind.NVME),
        (20, "VirtioSCSI", ControllerKind.VIRTIO_SCSI),
        (20, "vmware.nvdimm.controller", ControllerKind.OTHER),
    ],
)
def test_controllers(resource_type: int, model: str, kind: ControllerKind) -> None:
    """Whichever stands first, the disk or its controller."""
    items = (
        item(17, HostResource="ovf:/disk/disk1", Parent="3", AddressOnParent="1"),
        item(resource_type, InstanceID="3", ResourceSubType=model, Address="2"),
    )
    for order in (items, items[::-1]):
        (slot,) = read_system(system(*order), files=file(), disks=disk()).disks
        assert (slot.controller, slot.model, slot.bus, slot.address) == (kind, model, 2, 1)


@pytest.mark.parametrize(
    ("properties", "model", "connected"),
    [
        ({"ResourceSubType": "E1000"}, NicModel.E1000, True),
        ({"ResourceSubType": "e1000E"}, NicModel.E1000E, True),
        ({"ResourceSubType": "VmxNet3"}, None, True),
        ({"ResourceSubType": "VMXNET3 virtio"}, NicModel.VIRTIO, True),
        ({"ResourceSubType": "1"}, NicModel.RTL8139, True),
        ({"ResourceSubType": "3", "Linked": "false"}, NicModel.VIRTIO, False),
        ({"AutomaticAllocation": "false"}, None, False),
        ({"AutomaticAllocation": "True", "Linked": ""}, None, True),
    ],
)
def test_network_adapters(properties: dict[str, str], model: NicModel | None, connected: bool) -> None:
    (nic,) = read_system(system(item(10, Connection="net", ElementName="a", **properties))).nics
    assert nic == NetworkAdapter(
        name="a", network="net", model=model, model_text=properties.get("ResourceSubType", ""), connected=connected
    )


@pytest.mark.parametrize(
    ("properties", "mac"),
    [
        ({"MACAddress": "56:6F:12:34:56:78"}, "56:6f:12:34:56:78"),
        ({"Address": "00-16-8B-DB-00-5E"}, "00:16:8b:db:00:5e"),
        ({"Address": "080027DB38ED"}, "08:00:27:db:38:ed"),
        ({"Address": "{type=pci, slot=0x00}"}, ""),
        ({"MACAddress": "56:6f:12:34:56"}, ""),
    ],
)
def test_macs(properties: dict[str, str], mac: str) -> None:
    assert read_system(system(item(10, **properties))).nics[0].mac == mac


@pytest.mark.parametrize(
    ("properties", "extra", "cpu"),
    [
        ({"VirtualQuantity": 4}, "", CpuTopology(sockets=4)),
        ({"VirtualQuantity": 4}, "<vmw:CoresPerSocket>2</vmw:CoresPerSocket>", CpuTopology(sockets=2, cores=2)),
        ({"VirtualQuantity": 3}, "<vmw:CoresPerSocket>2</vmw:CoresPerSocket>", CpuTopology(sockets=3)),
        (
            {"num_of_sockets": 2, "cpu_per_socket": 3, "threads_per_cpu": 2},
            "",
            CpuTopology(sockets=2, cores=3, threads=2),
        ),
        ({"num_of_sockets": 2, "VirtualQuantity": 16}, "", CpuTopology(sockets=2)),
        ({}, "", CpuTopology()),
    ],
)
def test_processors(properties: dict[str, int], extra: str, cpu: CpuTopology) -> None:
    found = read_system(system(item(3, "", extra=extra, **properties)))
    assert (found.cpu, found.unknown) == (cpu, ())


CONFIGURATIONS = (
    "<DeploymentOptionSection><Info/>"
    '<Configuration ovf:id="small"/><Configuration ovf:id="big" {}/></DeploymentOptionSection>'
)


@pytest.mark.parametrize(("mark", "quantity", "disks"), [("", 1, 1), ('ovf:default="true"', 8, 2)])
def test_configurations(mark: str, quantity: int, disks: int) -> None:
    """The default one counts, else the first; general Items give way to special ones of the same InstanceID."""
    content = system(
        item(3, InstanceID=1, VirtualQuantity=1),
        item(3, 'ovf:configuration="big huge"', InstanceID=1, VirtualQuantity=8),
        item(3, 'ovf:bound="max"', InstanceID=1, VirtualQuantity=64),
        item(17, InstanceID=2, HostResource="ovf:/disk/disk1"),
        item(17, 'ovf:configuration="big"', InstanceID=3, HostResource="ovf:/disk/disk2"),
    )
    found = read_system(
        content,
        files=file() + file("file2", "e.vmdk"),
        disks=disk() + disk("disk2", "file2"),
        rest=CONFIGURATIONS.format(mark),
    )
    assert found.cpu == CpuTopology(sockets=quantity)
    assert len(found.disks) == disks
    assert found.warnings == ()


@pytest.mark.parametrize(("configuration", "capacity"), [("", 5 << 30), (CONFIGURATIONS.format(""), 7 << 30)])
def test_capacities_by_property(configuration: str, capacity: int) -> None:
    properties = (
        '<ProductSection><Property ovf:key="size" ovf:value="5">'
        '<Value ovf:configuration="small" ovf:value="7"/></Property></ProductSection>'
    )
    attributes = 'ovf:capacity="${size}" ovf:capacityAllocationUnits="byte * 2^30"'
    found = read_descriptor(
        envelope(system(rest=properties), files=file(), disks=disk(attributes=attributes), rest=configuration)
    )
    assert found.disks[0].capacity == capacity


def test_collections_of_any_depth() -> None:
    """In the order of the document; what belongs to a collection is kept for all."""
    deep = "<VirtualSystemCollection>" * 90 + "<Name>c</Name>" + system() + "</VirtualSystemCollection>" * 90
    other = '<VirtualSystem ovf:id="second"/><StartupSection><Info/></StartupSection>'
    data = envelope(f"<VirtualSystemCollection>{deep}{other}</VirtualSystemCollection>")
    found = read_descriptor(data)
    assert [one.name for one in found.systems] == ["vm", "second"]
    assert len(found.unknown) == 1
    assert found.unknown[0].startswith("<StartupSection ")


def test_disks_that_no_item_mentions() -> None:
    """A lone machine gets them, of several nobody knows which; layers below others are not attached."""
    parts = {
        "files": file() + file("file2", "e.vmdk") + file("file3", "f.iso"),
        "disks": disk(attributes="")
        + disk("disk2", "file2", 'ovf:parentRef="disk1"')
        + disk("iso", "file3", 'ovf:format="http://www.ecma-international.org/publications/standards/Ecma-119.htm"')
        + disk("blank", ""),
    }
    lone = read_system(system(), **parts)
    assert [slot.disk.id for slot in lone.disks] == ["disk2"]
    assert lone.warnings == ("the hardware does not mention the disks 'disk2'; they are attached behind the others",)
    both = read_descriptor(
        envelope(f"<VirtualSystemCollection>{system()}{system()}</VirtualSystemCollection>", **parts)
    )
    assert [one.disks for one in both.systems] == [(), ()]
    assert both.warnings == ("no machine has the disks 'disk2'; they are left out",)


SECURE = '<vmw:Config vmw:key="bootOptions.efiSecureBootEnabled" vmw:value="true"/>'


def test_drives() -> None:
    found = read_system(
        system(
            item(15, ElementName="cd", HostResource="ovf:/file/file1"),
            item(16, Caption="dvd"),
            item(14, InstanceID="7"),
            item(15, ElementName="lost", HostResource="ovf:/file/gone"),
        ),
        files=file(href="./a/b.iso"),
    )
    assert found.drives == (
        RemovableDrive(name="cd", file=PackageFile(id="file1", href="a/b.iso")),
        RemovableDrive(name="dvd"),
        RemovableDrive(is_floppy=True, name="item 7"),
        RemovableDrive(name="lost"),
    )
    assert found.warnings == ("'lost' holds 'ovf:/file/gone', which is not in the package",)


@pytest.mark.parametrize(
    ("hardware", "rest", "firmware"),
    [
        ("", "", Firmware.BIOS),
        ('<vmw:Config vmw:key="firmware" vmw:value="bios"/>', "", Firmware.BIOS),
        ('<vmw:Config vmw:key="firmware" vmw:value="efi"/>', "", Firmware.UEFI),
        (
            f'<vmw:Config vmw:key="firmware" vmw:value="efi"/>{SECURE}',
            "",
            Firmware.UEFI_SECURE,
        ),
        (SECURE, "", Firmware.BIOS),
        ("", "<BiosType>0</BiosType>", Firmware.BIOS),
        ("", "<BiosType>1</BiosType>", Firmware.BIOS),
        ("", "<BiosType>2</BiosType>", Firmware.UEFI),
        ("", "<BiosType>3</BiosType>", Firmware.UEFI_SECURE),
        ("", '<vbox:Machine><Hardware><Firmware type="EFI"/></Hardware></vbox:Machine>', Firmware.UEFI),
        ("", "<vbox:Machine><Hardware><Firmware/></Hardware></vbox:Machine>", Firmware.BIOS),
        (item(32768, HostResource="ovf:/file/file1"), "", Firmware.UEFI),
    ],
)
def test_firmware(hardware: str, rest: str, firmware: Firmware) -> None:
    found = read_system(system(hardware=hardware, rest=rest), files=file())
    assert found.firmware is firmware
    assert "vmw:Config" not in "".join(found.unknown)


@pytest.mark.parametrize(
    ("attributes", "content", "short_id"),
    [
        ('ovf:id="80" ovirt:id="34"', "", "rhel9.0"),
        ('ovf:id="1" ovirt:id="37"', "<Description>windows_2022</Description>", "win2k22"),
        ('ovf:id="96" ovirt:id="1301"', "<Description>debian12</Description>", "debian12"),
        ('ovf:id="96" ovirt:id="1301"', "<Description>Debian 9+</Description>", "debian9"),
        ('ovf:id="101" vmw:osType="debian12_64Guest"', "", "debian12"),
        ('ovf:id="1" vmw:osType="windows2019srvNext_64Guest"', "", "win2k22"),
        ('ovf:id="103" vmw:osType="windows7Server64Guest"', "", "win2k8r2"),
        ('ovf:id="109" vmw:osType="oracleLinux8_64Guest"', "", "ol8"),
        ('ovf:id="36" vmw:osType="somethingNewGuest"', "", "linux2016"),
        ('ovf:id="95" ovf:version="12"', "", "debian12"),
        ('ovf:id="94" ovf:version="24.04"', "", "ubuntu24.04"),
        ('ovf:id="95" ovf:version="bookworm"', "", "debian"),
        ('ovf:id="101" ovf:version="6"', "", "linux2016"),
        ('ovf:id="115"', "<vbox:OSType>Windows2012_64</vbox:OSType>", "win2k12"),
        ('ovf:id="94"', "<vbox:OSType>Ubuntu22_LTS_64</vbox:OSType>", "ubuntu22"),
        ('ovf:id="107"', "", "centos"),
        ('ovf:id="-100"', "", "other"),
        ('ovf:id="win2003server"', "<Description>x</Description>", "other"),
    ],
)
def test_guest_systems(attributes: str, content: str, short_id: str) -> None:
    rest = f"<OperatingSystemSection {attributes}><Info/>{content}</OperatingSystemSection>"
    assert read_system(system(rest=rest)).os == short_id


def test_what_has_no_place_is_kept() -> None:
    found = read_descriptor(
        envelope(
            system(
                item(35, ElementName="sound"),
                item("", ElementName="nothing"),
                item(10, extra='<vmw:Config vmw:key="wakeOnLanEnabled" vmw:value="true"/>'),
                item(17, ElementName="empty"),
                item(3, VirtualQuantity=1),
                item(3, VirtualQuantity=2),
                rest="<EulaSection><Info/><License>do</License></EulaSection>",
                hardware='<vmw:Config vmw:key="a" vmw:value="b"/>',
            ),
            rest='<vmw:Other ovf:required="false"/>',
        )
    )
    (machine,) = found.systems
    assert [re.sub(r' xmlns(:\w+)?="[^"]*"', "", piece) for piece in (*found.unknown, *machine.unknown)] == [
        '<vmw:Other ovf:required="false"/>',
        *(
            re.sub("<Item >", "<Item>", one)
            for one in (
                item(35, ElementName="sound"),
                item("", ElementName="nothing").replace(
                    "<rasd:ResourceType></rasd:ResourceType>", "<rasd:ResourceType/>"
                ),
                item(10, extra='<vmw:Config vmw:key="wakeOnLanEnabled" vmw:value="true"/>'),
                item(17, ElementName="empty"),
                item(3, VirtualQuantity=2),
            )
        ),
        '<vmw:Config vmw:key="a" vmw:value="b"/>',
        "<EulaSection><Info/><License>do</License></EulaSection>",
    ]
    assert machine.warnings == (
        "the disk 'empty' has no content and no size; it is left out",
        "a second number of processors (item ) is left out",
    )


# -- refusals ----------------------------------------------------------------------------------------------------

PARTS: dict[str, tuple[str, str]] = {
    "URL": (
        file(href="http://example.org/d.vmdk"),
        "its href 'http://example.org/d.vmdk' is a URL; in an OVA every file",
    ),
    "file URL": (file(href="file:///etc/passwd"), "is a URL"),
    "absolute": (file(href="/etc/passwd"), "is absolute"),
    "up": (file(href="../d.vmdk"), "holds an empty part, '.' or '..'"),
    "up in the middle": (file(href="a/../../d.vmdk"), "holds an empty part"),
    "backslash": (file(href="..\\d.vmdk"), "a control character or a backslash"),
    "line break": (file(href="a&#10;b"), "a control character"),
    "too long": (file(href="x" * 1025), "is too long"),
    "no name": (file(href=""), "is empty"),
    "no id": (file(identifier=""), "a file without an id: 'd.vmdk'"),
    "same id": (file() + file(href="e.vmdk"), "two files have the id 'file1'"),
    "same name": (file() + file("file2", "./d.vmdk"), "or the name 'd.vmdk'"),
    "compression": (file(attributes='ovf:compression="bzip2"'), "unknown compression 'bzip2'; gzip is read"),
    "size": (file(attributes='ovf:size="-1"'), "size of file 'file1': '-1' is no whole number"),
    "chunk of nothing": (file(attributes='ovf:chunkSize="0"'), "chunkSize of file 'file1'"),
}


@pytest.mark.parametrize("case", PARTS)
def test_refuses_files(case: str) -> None:
    files, message = PARTS[case]
    with pytest.raises(InvalidPackage) as caught:
        read_descriptor(envelope(system(), files=files), "vm.ovf")
    assert str(caught.value).startswith("'vm.ovf': ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("disks", "message"),
    [
        (disk(reference="gone"), "disk 'disk1' is in the file 'gone', which is not in the References"),
        (disk() + disk(reference=""), "two disks have the id 'disk1'"),
        (disk(attributes='ovf:capacity="1.5"'), "capacity of disk 'disk1': '1.5' is no whole number"),
        (disk(attributes='ovf:capacity="9" ovf:capacityAllocationUnits="byte * 2^62"'), "is beyond any limit"),
        (disk(attributes='ovf:capacity="9" ovf:capacityAllocationUnits="clusters"'), "unknown unit 'clusters'"),
        (disk(attributes='ovf:capacity="${size}"'), "is the property 'size', which has no value"),
        (disk(attributes='ovf:populatedSize="x"'), "populatedSize of disk 'disk1'"),
    ],
)
def test_refuses_disks(disks: str, message: str) -> None:
    with pytest.raises(InvalidPackage, match=re.escape(message)):
        read_descriptor(envelope(system(), files=file(), disks=disks))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            item(17, ElementName="c", HostResource="ovf:/disk/gone"),
            "the disk 'c' is 'ovf:/disk/gone', which no Disk describes",
        ),
        (item(17, HostResource="/disk/disk1") * 2, "the disk '/disk/disk1' or its file is attached twice"),
        (
            item(17, HostResource="disk1") + item(17, HostResource="disk2"),
            "the disk 'disk2' or its file is attached twice",
        ),
        (item(3, VirtualQuantity=0), "processors (VirtualQuantity): '0' is no whole number from 1 to 1048576"),
        (item(3, num_of_sockets=60000, cpu_per_socket=60000), "processors: 3600000000 are more than any machine has"),
        (item(4, VirtualQuantity="many"), "memory: 'many' is no whole number"),
        (item(4, VirtualQuantity=1, AllocationUnits="bits"), "memory: unknown unit 'bits'"),
    ],
)
def test_refuses_hardware(items: str, message: str) -> None:
    disks = disk() + disk("disk2")
    with pytest.raises(InvalidPackage, match=re.escape(message)):
        read_descriptor(envelope(system(items), files=file(), disks=disks))


def test_a_disk_of_two_machines_is_refused() -> None:
    one = system(item(17, HostResource="ovf:/disk/disk1"))
    with pytest.raises(InvalidPackage, match="attached twice; disks are not shared"):
        read_descriptor(envelope(one + one, files=file(), disks=disk()))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (envelope(""), "the descriptor describes no virtual system"),
        (envelope(system() * 257), "more than 256 virtual systems"),
        (envelope(system(), files="".join(file(f"f{n}", f"f{n}") for n in range(8193))), "more than 8192 files"),
        (envelope(system(), disks="".join(disk(f"d{n}", "") for n in range(8193))), "more than 8192 disks"),
    ],
)
def test_limits(data: bytes, message: str) -> None:
    with pytest.raises(InvalidPackage, match=message):
        read_descriptor(data)


# -- damage ------------------------------------------------------------------------------------------------------

SEEDS = (
    write_ovf(FULL, [DiskFile(1 << 30, 1 << 20)] * len(FULL.disks)),
    envelope(
        system(
            item(3, InstanceID=1, VirtualQuantity=4, extra="<vmw:CoresPerSocket>2</vmw:CoresPerSocket>"),
            item(4, InstanceID=2, VirtualQuantity=512, AllocationUnits="byte * 2^20"),
            item(6, InstanceID=3, ResourceSubType="lsilogic", Address=0),
            item(17, InstanceID=4, HostResource="ovf:/disk/disk1", Parent=3, AddressOnParent=0),
            item(10, Connection="net", ResourceSubType="E1000", AutomaticAllocation="true"),
            item(15, HostResource="ovf:/file/file2"),
            rest='<OperatingSystemSection ovf:id="94" vmw:osType="ubuntu64Guest"/><Name>n</Name>'
            '<vbox:Machine uuid="{}"><Hardware><Network><Adapter enabled="true" type="virtio"/></Network></Hardware>'
            "</vbox:Machine>",
            hardware='<vmw:Config vmw:key="firmware" vmw:value="efi"/>',
        ),
        files=file(attributes='ovf:size="1" ovf:chunkSize="2" ovf:compression="gzip"') + file("file2", "b.iso"),
        disks=disk(attributes='ovf:capacity="${a}" ovf:capacityAllocationUnits="byte * 2^30"'),
        rest='<ProductSection><Property ovf:key="a" ovf:value="5"/></ProductSection>' + CONFIGURATIONS.format(""),
    ),
)
SPLINTERS = (
    b"",
    b"<",
    b">",
    b'"',
    b"&",
    b"\0",
    b"-1",
    b"9" * 40,
    b"ovf:",
    b"</Item>",
    b"<Item>",
    b"&#0;",
    b"\xff",
    b"..",
)


@settings(max_examples=300)
@given(st.sampled_from(SEEDS), st.data())
def test_damaged_descriptors_are_read_or_refused(seed: bytes, data: st.DataObject) -> None:
    """A Descriptor or InvalidPackage, whatever is cut out, doubled, moved or put in."""
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(seed)))
        end = data.draw(st.integers(start, min(len(seed), start + 40)))
        position = data.draw(st.integers(0, len(seed)))
        put = data.draw(st.one_of(st.sampled_from(SPLINTERS), st.just(seed[position : position + 30])))
        seed = seed[:start] + put + seed[end:]
    with contextlib.suppress(InvalidPackage):
        assert read_descriptor(seed).systems


@settings(max_examples=300)
@given(st.sampled_from(SEEDS), st.data())
def test_changed_values_are_read_or_refused(seed: bytes, data: st.DataObject) -> None:
    """Well-formed documents with other values in them, so that more than the XML parser is tried."""
    values = [match.span(1) for match in re.finditer(rb'[">]([^<>"]*)["<]', seed)]
    start, end = data.draw(st.sampled_from(values))
    text = data.draw(
        st.one_of(st.text("0123456789-+. *^%{}$:/bBkM", max_size=30), st.sampled_from(["17", "10", "disk1"]))
    )
    with contextlib.suppress(InvalidPackage):
        assert read_descriptor(seed[:start] + text.encode() + seed[end:]).systems
