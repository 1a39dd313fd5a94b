"""What a host offers to domains: libvirt 9.0 on Debian 12, shortened."""

from __future__ import annotations

import pytest

from ovafs.errors import InvalidDefinition, SourceError
from ovafs.formats.domain.host import Guest, read_guest, read_host

I686 = "<guest><os_type>hvm</os_type><arch name='i686'><machine>pc</machine><domain type='qemu'/></arch></guest>"
X86_64 = (
    "<guest><os_type>hvm</os_type><arch name='x86_64'><wordsize>64</wordsize>"
    "<machine maxCpus='255'>pc-i440fx-7.2</machine><machine canonical='pc-i440fx-7.2'>pc</machine>"
    "<machine canonical='pc-q35-7.2' maxCpus='288'>q35</machine><domain type='qemu'/>{}</arch></guest>"
)
HOST = "<host><cpu><arch>x86_64</arch></cpu></host>"
GUEST = Guest("kvm", "x86_64", frozenset({"q35"}))
DOMAIN = """
<domainCapabilities><path>/usr/bin/qemu-system-x86_64</path><domain>{domain}</domain><arch>x86_64</arch>
  <os supported='yes'><enum name='firmware'>{firmware}</enum>
    <loader supported='yes'><enum name='secure'><value>no</value>{secure}</enum></loader></os>
  <cpu><mode name='host-passthrough' supported='no'/><mode name='maximum' supported='yes'/>
    <mode name='host-model' supported='yes'/></cpu>
  <devices><disk supported='yes'><enum name='bus'><value>fdc</value><value>scsi</value><value>virtio</value>
    <value>usb</value><value>sata</value></enum></disk>
    <tpm supported='{tpm}'><enum name='backendModel'><value>emulator</value></enum></tpm></devices>
</domainCapabilities>"""


def capabilities(*guests: str) -> str:
    return f"<capabilities>{HOST}{''.join(guests)}</capabilities>"


@pytest.mark.parametrize(("more", "kind"), [("", "qemu"), ("<domain type='kvm'/>", "kvm")])
def test_guests_are_of_the_hosts_architecture_and_kvms_if_it_can(more: str, kind: str) -> None:
    found = read_guest(capabilities(I686, X86_64.format(more)))
    assert found == Guest(kind, "x86_64", frozenset({"pc-i440fx-7.2", "pc", "q35"}))


def test_a_host_without_guests_of_its_own_kind_has_others() -> None:
    assert read_guest(capabilities(I686)).arch == "i686"


def test_containers_are_no_machines() -> None:
    container = "<guest><os_type>exe</os_type><arch name='x86_64'><domain type='lxc'/></arch></guest>"
    with pytest.raises(SourceError, match="can run no virtual machines"):
        read_guest(capabilities(container))


def test_what_is_read() -> None:
    text = DOMAIN.format(domain="kvm", firmware="<value>efi</value>", secure="<value>yes</value>", tpm="yes")
    host = read_host(GUEST, text, {"default"}, {"br0"})
    assert host.emulator == "/usr/bin/qemu-system-x86_64"
    assert (host.has_uefi, host.has_secure_boot, host.has_tpm) == (True, True, True)
    assert host.disk_buses == {"fdc", "scsi", "virtio", "usb", "sata"}
    assert host.networks == {"default"}
    assert host.bridges == {"br0"}


def test_what_is_not_there() -> None:
    host = read_host(GUEST, DOMAIN.format(domain="kvm", firmware="", secure="", tpm="no"), (), ())
    assert (host.has_uefi, host.has_secure_boot, host.has_tpm) == (False, False, False)


@pytest.mark.parametrize(("kind", "mode"), [("kvm", "host-model"), ("qemu", "maximum"), ("test", "maximum")])
def test_the_processor(kind: str, mode: str) -> None:
    text = DOMAIN.format(domain=kind, firmware="", secure="", tpm="no")
    assert read_host(GUEST._replace(domain_type=kind), text, (), ()).cpu_mode == mode
    assert read_host(GUEST._replace(domain_type=kind), "<domainCapabilities/>", (), ()).cpu_mode == ""


def test_what_is_no_xml() -> None:
    with pytest.raises(InvalidDefinition, match="capabilities cannot be read"):
        read_guest("no xml")
