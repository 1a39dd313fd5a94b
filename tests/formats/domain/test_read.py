"""libvirt's domain XML in the words of the model."""

from __future__ import annotations

import pytest

from ovafs.errors import InvalidDefinition
from ovafs.formats.domain.read import NAMESPACE, Domain, VolumeSource, read_domain
from ovafs.model import CpuTopology, DiskFormat, DiskInterface, Firmware, NicModel

UUID = "bb20f368-ed92-401f-91dd-f6082a15a406"


def domain(devices: str = "", *, more: str = "<memory>131072</memory>", os: str = "") -> Domain:
    text = f"<domain type='kvm'><name>web</name><uuid>{UUID}</uuid>{more}<os>{os}</os><devices>{devices}</devices>"
    return read_domain(f"{text}</domain>")


def disk(inside: str, attributes: str = "type='file' device='disk'", target: str = "dev='vda' bus='virtio'") -> str:
    return f"<disk {attributes}>{inside}<target {target}/></disk>"


FILE = "<driver name='qemu' type='qcow2'/><source file='/images/web.qcow2'/>"


def test_what_every_domain_has() -> None:
    found = domain(more="<title>Web</title><description>of the shop</description><memory>131072</memory>")
    assert (found.uuid, found.name, found.description) == (UUID, "web", "Web\nof the shop")
    assert (found.memory, found.cpu, found.firmware, found.os) == (128 << 20, CpuTopology(), Firmware.BIOS, "other")
    assert not found.is_template
    assert (found.disks, found.nics, found.left_out) == ((), (), ())


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("<memory unit='GiB'>2</memory>", 2 << 30),
        ("<memory unit='M'>3</memory>", 3 << 20),
        ("<memory unit='b'>1</memory>", 1 << 20),  # whole MiB
        ("<memory unit='GB'>1</memory>", 954 << 20),
    ],
)
def test_memory(text: str, size: int) -> None:
    assert domain(more=text).memory == size


@pytest.mark.parametrize("text", ["", "<memory>much</memory>", "<memory unit='ounces'>3</memory>"])
def test_memory_that_cannot_be(text: str) -> None:
    with pytest.raises(InvalidDefinition, match="memory"):
        domain(more=text)


@pytest.mark.parametrize(
    ("text", "cpu"),
    [
        ("<vcpu>4</vcpu>", CpuTopology(sockets=4)),
        (
            "<vcpu>8</vcpu><cpu><topology sockets='1' dies='2' cores='2' threads='2'/></cpu>",
            CpuTopology(sockets=1, cores=4, threads=2),
        ),
        ("<vcpu>3</vcpu><cpu><topology sockets='1' cores='2' threads='2'/></cpu>", CpuTopology(sockets=3)),
    ],
)
def test_processors(text: str, cpu: CpuTopology) -> None:
    assert domain(more=f"<memory>1024</memory>{text}").cpu == cpu


@pytest.mark.parametrize(
    ("text", "firmware"),
    [
        ("<loader readonly='yes' type='pflash'>/OVMF.fd</loader>", Firmware.UEFI),
        ("<loader secure='yes' type='pflash'>/OVMF.fd</loader>", Firmware.UEFI_SECURE),
        ("<loader type='rom'>/seabios.bin</loader>", Firmware.BIOS),
    ],
)
def test_firmware(text: str, firmware: Firmware) -> None:
    assert domain(os=text).firmware == firmware


def test_firmware_that_libvirt_chooses() -> None:
    text = f"<domain><name>x</name><uuid>{UUID}</uuid><memory>1024</memory><os firmware='efi'>"
    feature = "<firmware><feature enabled='yes' name='secure-boot'/></firmware>"
    assert read_domain(f"{text}</os></domain>").firmware == Firmware.UEFI
    assert read_domain(f"{text}{feature}</os></domain>").firmware == Firmware.UEFI_SECURE


@pytest.mark.parametrize(
    ("long", "short"),
    [
        ("http://debian.org/debian/12", "debian12"),
        ("http://microsoft.com/win/2k22", "win2k22"),
        ("http://centos.org/centos-stream/9", "centos-stream9"),
        ("nonsense", "other"),
    ],
)
def test_operating_system(long: str, short: str) -> None:
    space = "http://libosinfo.org/xmlns/libvirt/domain/1.0"
    metadata = f"<metadata><l:libosinfo xmlns:l='{space}'><l:os id='{long}'/></l:libosinfo></metadata>"
    assert domain(more=f"<memory>1024</memory>{metadata}").os == short


def test_tags_beside_the_mark_of_a_template() -> None:
    inside = "<o:template/><o:tag> nightly </o:tag><o:tag>x</o:tag>"
    metadata = f"<metadata><o:machine xmlns:o='{NAMESPACE}'>{inside}</o:machine></metadata>"
    found = domain(more=f"<memory>1024</memory>{metadata}")
    assert found.is_template
    assert found.tags == {"nightly", "x"}


def test_a_template_is_marked() -> None:
    metadata = f"<metadata><o:template xmlns:o='{NAMESPACE}'/></metadata>"
    assert domain(more=f"<memory>1024</memory>{metadata}").is_template


def test_disks_by_file_device_and_volume() -> None:
    found = domain(
        disk(FILE)
        + disk("<driver type='raw'/><source dev='/dev/vg/a'/>", "type='block' device='disk'", "dev='sda' bus='scsi'")
        + disk("<driver type='raw'/><source pool='p' volume='v'/>", "type='volume'", "dev='sdb' bus='sata'")
        + disk("<source file='/b'/>", target="dev='hda' bus='ide'")
    )
    assert [one.source for one in found.disks] == [
        VolumeSource("/images/web.qcow2"),
        VolumeSource("/dev/vg/a"),
        VolumeSource("", "p", "v"),
        VolumeSource("/b"),
    ]
    assert [one.format for one in found.disks] == [DiskFormat.QCOW2, DiskFormat.RAW, DiskFormat.RAW, DiskFormat.RAW]
    assert [one.interface for one in found.disks] == [
        DiskInterface.VIRTIO,
        DiskInterface.VIRTIO_SCSI,
        DiskInterface.SATA,
        DiskInterface.IDE,
    ]
    assert {one.refused for one in found.disks} == {""}


def test_the_boot_order_of_disks() -> None:
    plain = domain(disk(FILE) + disk(FILE, target="dev='vdb' bus='virtio'"), os="<boot dev='hd'/>")
    assert [bool(one.boot_order) for one in plain.disks] == [True, False]
    second = domain(disk(FILE) + disk(FILE + "<boot order='1'/>", target="dev='vdb' bus='virtio'"))
    assert min(second.disks, key=lambda one: one.boot_order or 1 << 30).target == "vdb"


def test_a_disk_that_qemu_reads() -> None:
    (found,) = domain(disk("<driver type='vmdk'/><source file='/x.vmdk'/>")).disks
    assert (found.refused, found.format, found.source.path) == ("", DiskFormat.VMDK, "/x.vmdk")


NETWORK = "type='network' device='disk'"


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("protocol='nbd'><host name='h'/>", "nbd://h/"),
        ("protocol='nbd' name='a b'><host name='::1' port='10810'/>", "nbd://[::1]:10810/a%20b"),
        ("protocol='nbd' name='x'><host transport='unix' socket='/a b'/>", "nbd+unix:///x?socket=/a%20b"),
        ("protocol='https' name='/d/x.img'><host name='h' port='443'/><timeout seconds='6'/>", "https://h/d/x.img"),
        (
            "protocol='iscsi' name='iqn.2013-07.com:x/1' index='1'><host name='h' port='3260'/>",
            "iscsi://h/iqn.2013-07.com:x/1",
        ),
        ("protocol='ssh' name='/d/x.img'><host name='h'/>", "ssh://h/d/x.img"),
        ("protocol='ssh' name='/x'><host name='h' port='222'/><auth username='u'/>", "ssh://u@h:222/x"),
        ("protocol='ssh' name='/x'><host name='h'/><identity username='u'/>", "ssh://u@h/x"),
    ],
)
def test_disks_on_the_network(source: str, path: str) -> None:
    (found,) = domain(disk(f"<driver type='raw'/><source {source}</source>", NETWORK)).disks
    assert (found.refused, found.format, found.source.path) == ("", DiskFormat.RAW, path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (disk("<source protocol='rbd' name='x'/>", NETWORK), "protocol 'rbd' is not supported"),
        (disk("<source protocol='nbd' name='x' tls='yes'><host name='h'/></source>", NETWORK), "with tls"),
        (disk("<source protocol='https' name='x'><host name='h'/><ssl verify='no'/></source>", NETWORK), "with ssl"),
        (disk("<source protocol='iscsi' name='t/1'><host name='h'/><auth/></source>", NETWORK), "with auth"),
        (disk("<source protocol='ssh' name='x'><host name='h'/></source>", NETWORK), "'x' is no absolute path"),
        (
            disk(
                "<source protocol='ssh' name='/x'><host name='h'/><auth username='u'><secret/></auth></source>", NETWORK
            ),
            "with secret",
        ),
        (
            disk("<source protocol='ssh' name='/x'><host name='h'/><identity keyfile='/k'/></source>", NETWORK),
            "with keyfile",
        ),
        (
            disk("<source protocol='ssh' name='/x'><host name='h'/><knownHosts path='/k'/></source>", NETWORK),
            "with knownHosts",
        ),
        (disk("<source protocol='nbd'><host name='h' port='x'/></source>", NETWORK), "port is 'x', not a number"),
        (disk("<source protocol='nbd'><host name='a'/><host name='b'/></source>", NETWORK), "several hosts"),
        (disk("<source protocol='nbd'/>", NETWORK), "has the host ''"),
        (disk("<source type='vhostuser'/>", "type='vhostuser' device='disk'"), "type 'vhostuser'"),
        (disk("<driver type='raw'/><source file='/x'><encryption format='luks'/></source>"), "is encrypted"),
        (disk("<driver type='qed'/><source file='/x.qed'/>"), "'qed'"),
        (disk(""), "has no source"),
        (disk("<source file='/x'><slices><slice/></slices></source>"), "slice"),
    ],
)
def test_disks_that_cannot_be_shown(text: str, reason: str) -> None:
    (found,) = domain(text).disks
    assert reason in found.refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (disk(FILE, "type='block' device='lun'"), "disk vda: a LUN that the guest uses directly"),
        (disk(FILE + "<shareable/>"), "disk vda: shared with other machines"),
        (disk(FILE + "<transient/>"), "disk vda: transient: its changes end with the machine"),
        (disk("", "type='file' device='cdrom'", "dev='sda' bus='sata'"), "cdrom drive sda (empty)"),
        (disk("<source file='/x.iso'/>", "type='file' device='cdrom'", "dev='sda'"), "cdrom drive sda (with a medium)"),
        ("<tpm model='tpm-crb'/>", "the TPM and its state"),
        ("<interface type='hostdev'><mac address='52:54:00:00:00:01'/></interface>", "a device of the host"),
    ],
)
def test_what_is_left_out_is_said(text: str, said: str) -> None:
    found = domain(text)
    assert not found.disks
    assert [said in one for one in found.left_out] == [True]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("<nvram>/var/x_VARS.fd</nvram>", "/var/x_VARS.fd"),
        ("<nvram template='/usr/t.fd'>/var/x y.fd</nvram>", "/var/x y.fd"),
        ("<nvram type='file' format='raw'><source file='/var/x.fd'/></nvram>", "/var/x.fd"),
        ("<nvram template='/usr/t.fd'/>", ""),
        ("<nvram>x.fd</nvram>", ""),
        ("<nvram>/var/\x85x.fd</nvram>", ""),
    ],
)
def test_the_file_of_the_firmwares_variables(text: str, path: str) -> None:
    found = domain(os=text)
    assert (found.variables, found.left_out) == (path, ())


@pytest.mark.parametrize(
    "text",
    [
        "<nvram format='qcow2'>/var/x.qcow2</nvram>",
        "<nvram type='network'><source protocol='nbd' name='x'/></nvram>",
        "<nvram type='block'><source dev='/dev/x'/></nvram>",
    ],
)
def test_variables_that_are_in_no_raw_file_are_left_out(text: str) -> None:
    found = domain(os=text)
    assert found.variables == ""
    assert found.left_out == ("the firmware's variables (NVRAM): they are in no raw file",)


@pytest.mark.parametrize(
    ("source", "model", "network", "expected"),
    [
        ("<source network='lan'/>", "virtio", "lan", NicModel.VIRTIO),
        ("<source bridge='br0'/>", "e1000e", "br0", NicModel.E1000E),
        ("<source dev='eth0' mode='bridge'/>", "rtl8139", "eth0", NicModel.RTL8139),
        ("", "e1000", "", NicModel.E1000),
    ],
)
def test_network_adapters(source: str, model: str, network: str, expected: NicModel) -> None:
    mac = "<mac address='52:54:00:AA:bb:01'/>"
    (nic,) = domain(f"<interface type='network'>{mac}{source}<model type='{model}'/></interface>").nics
    assert nic == ("52:54:00:aa:bb:01", network, expected)


def test_an_unknown_adapter_is_said() -> None:
    found = domain("<interface type='user'><mac address='52:54:00:00:00:01'/><model type='ne2k_pci'/></interface>")
    assert found.nics[0].model == NicModel.E1000
    assert "'ne2k_pci'" in found.left_out[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<domain>", "cannot be read"),
        ("<network/>", "a 'network', not a domain"),
        ("<domain>" + "x" * (8 << 20) + "</domain>", "at most"),
        (f"<domain><name>x</name><uuid>{UUID}</uuid><memory>1</memory><vcpu>-3</vcpu></domain>", "vcpu"),
    ],
)
def test_what_is_no_domain(text: str, reason: str) -> None:
    with pytest.raises(InvalidDefinition, match=reason):
        read_domain(text)


def test_entities_are_not_followed() -> None:
    text = "<!DOCTYPE d [<!ENTITY f SYSTEM 'file:///etc/passwd'>]>"
    text += f"<domain><name>x&f;</name><uuid>{UUID}</uuid><memory>1</memory></domain>"
    assert "root" not in read_domain(text).name


def test_a_target_that_could_be_anything_is_refused() -> None:
    with pytest.raises(InvalidDefinition, match="target"):
        domain(disk(FILE, target="dev='../x'"))
