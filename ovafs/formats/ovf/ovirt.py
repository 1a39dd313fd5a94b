r"""The OVF descriptor as oVirt's OVA reader needs it, and as virt-v2v, VDSM and DMTF tools can read it too.

The document, in its order (one element a line, UTF-8, an LF at the end)::

    Envelope                                     the default xmlns comes first, a blank follows it
      References      File                       id = href = the volume's uuid = the name of the tar member;
                                                 tpm.dat and nvram.dat of machines with such state
      DiskSection     Info, Disk                 required by oVirt, even when it is empty
      NetworkSection  Info, Network              one for each distinct network; left out when there is none
      VirtualSystem   id = the machine's uuid
        Info, Name
        general data                             Description, dates, BiosType, ... TemplateId, ...
        OperatingSystemSection                   ovf:id is CIM's number, ovirt:id oVirt's, Description libosinfo's id
        VirtualHardwareSection  Info, Item       processors, memory, disk controllers, disks, adapters, video card,
                                                 virtio-scsi controller

What decides the form (``OvfReader`` and ``OvfOvaReader`` of ovirt-engine):

- The reader deletes CR, LF and all matches of ``xmlns=[^-\s]*`` from the text, then looks for elements in no
  namespace and for attributes by their literal prefix. So elements of the envelope are written without a prefix,
  attributes with ``ovf:``, and a blank ends the default ``xmlns``. User text is kept from matching (``xmltext``).
- ``capacity`` in bytes: oVirt's own export rounds up to whole GiB, its reader takes bytes exactly.
- No ``ovf:description``: only without it does the reader find the Item of a disk.
- ``InstanceID`` and ``Parent`` are integers, and each emulated disk bus has a controller Item (5 IDE, 6 SCSI, 20
  SATA): virt-v2v stops at anything else. A virtio-blk disk has no Parent; it sits on no controller.
- A virtio-scsi disk is refused unless there is a device "controller virtio-scsi" (``DiskVmElementValidator``), and
  nothing but a video Item gives the imported machine a screen (``VmDeviceUtils.addImportedOtherDevices``).
- oVirt has IDE on the I440FX chipset only, SATA on Q35 only, and UEFI on Q35 only (``osinfo-defaults.properties``,
  ``BiosType``). A BIOS machine gets Q35, the default of oVirt's clusters since 4.4, unless it has IDE disks and no
  SATA disks, or a guest for which oVirt refuses Q35. On Q35 an IDE disk is written as SATA, the nearest there is.
- oVirt allows one boot disk; it is the first of those that are marked.
- A NIC's MAC is in ``rasd:MACAddress`` alone. virt-v2v looks for it in ``rasd:Address``, but oVirt takes that for a
  PCI address.
- Left out, so that the importing engine decides: time zone, memory maximum and guarantee, display protocol.

Where the document is not valid by DMTF DSP8023 (``ovf-envelope.xsd`` 1.0), because oVirt reads nothing else:

==============================================================  =============================================
part                                                            rule that it breaks
==============================================================  =============================================
general data: unprefixed children of VirtualSystem other than   VirtualSystem allows Info, Name and sections
Info, Name and the sections
``rasd:num_of_sockets``, ``cpu_per_socket``,                    the CIM class has no such property, and other
``threads_per_cpu``, ``max_num_of_vcpus``, ``Name``,            namespaces only may extend an Item
``MACAddress``
==============================================================  =============================================
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import InvalidDefinition
from ovafs.formats.ovf.os_ids import GuestOs, guest_os
from ovafs.formats.ovf.ovirt_hardware import hardware_items
from ovafs.formats.ovf.xmltext import escape
from ovafs.model import DiskInterface, Firmware, Machine, MachineKind, StateKind
from ovafs.units import MIB

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"'
    ' xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"'
    ' xmlns:ovirt="http://www.ovirt.org/ovf">\n'
)
_QCOW2 = "http://www.gnome.org/~markmc/qcow-image-format.html"
_NO_TEMPLATE = "    <TemplateId>00000000-0000-0000-0000-000000000000</TemplateId>\n"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INT_MAX = 2**31 - 1  # the engine keeps numbers of processors and MiB in a Java int

_INTERFACES = {
    DiskInterface.VIRTIO: "VirtIO",
    DiskInterface.VIRTIO_SCSI: "VirtIO_SCSI",
    DiskInterface.SATA: "SATA",
    DiskInterface.IDE: "IDE",
}


STATE_FILES = {StateKind.TPM: "tpm.dat", StateKind.NVRAM: "nvram.dat"}
"""The names of the state files in a package: id and href of a File, and the tar member."""


class DiskFile(NamedTuple):
    """The file of one disk in the package: the guest's size of the disk, and the size of the tar member, in bytes."""

    virtual_size: int
    file_size: int


def descriptor_name(machine: Machine) -> str:
    """The name of the descriptor's tar member: oVirt tells templates from machines by it."""
    return "template.ovf" if machine.kind is MachineKind.TEMPLATE else "vm.ovf"


def write_ovf(machine: Machine, disk_files: Sequence[DiskFile]) -> bytes:
    """The descriptor of ``machine``, whose disks are the files ``disk_files``, in the order of its disks.

    A pure function: the same arguments give the same bytes, everywhere and for ever.

    Raises InvalidDefinition when a text cannot be written in XML, an id is no lower-case UUID or stands twice, or a
    number is out of the reader's range.
    """
    _check(machine)
    guest = guest_os(machine.os)
    q35 = _is_q35(machine, guest)
    interfaces = [
        DiskInterface.SATA if q35 and disk.interface is DiskInterface.IDE else disk.interface for disk in machine.disks
    ]
    parts = (
        _HEAD,
        _references(machine, disk_files),
        _disk_section(machine, disk_files, interfaces),
        _network_section(machine),
        _virtual_system(machine, guest, interfaces, q35=q35),
        "</Envelope>\n",
    )
    return "".join(parts).encode()


def _check(machine: Machine) -> None:
    ids = [machine.uuid]
    for disk in machine.disks:
        ids += disk.uuid, disk.volume.uuid
    for uuid in ids:
        if _UUID.fullmatch(uuid) is None:
            raise InvalidDefinition(f"machine {machine.name!a}: {uuid!a} is not a UUID in lower case")
    for kind, uuids in ("disk", ids[1::2]), ("volume", ids[2::2]):
        if len(set(uuids)) != len(uuids):
            raise InvalidDefinition(f"machine {machine.name!a}: two of its disks have the same {kind} UUID")
    if machine.memory <= 0 or machine.memory % MIB or machine.memory // MIB > _INT_MAX:
        raise InvalidDefinition(f"machine {machine.name!a}: {machine.memory} bytes of memory; it must be whole MiB")
    cpu = machine.cpu
    if min(cpu.sockets, cpu.cores, cpu.threads) < 1 or cpu.total > _INT_MAX:
        raise InvalidDefinition(f"machine {machine.name!a}: impossible numbers of processors: {cpu}")


def _is_q35(machine: Machine, guest: GuestOs) -> bool:
    """Whether the machine gets oVirt's Q35 chipset; else it is I440FX."""
    if machine.firmware is not Firmware.BIOS or any(disk.interface is DiskInterface.SATA for disk in machine.disks):
        return True
    return guest.q35 and all(disk.interface is not DiskInterface.IDE for disk in machine.disks)


def _bios_type(firmware: Firmware, *, q35: bool) -> int:
    """Give the BiosType as oVirt's files have it: the engine's own number minus one."""
    if firmware is Firmware.UEFI_SECURE:
        return 3
    if firmware is Firmware.UEFI:
        return 2
    return 1 if q35 else 0


def _timestamp(seconds: int) -> str:
    try:
        time = _EPOCH + timedelta(seconds=seconds)
    except OverflowError as error:
        raise InvalidDefinition(f"{seconds} seconds since 1970 is no date that can be written") from error
    return f"{time.year:04}/{time.month:02}/{time.day:02} {time.hour:02}:{time.minute:02}:{time.second:02}"


def _references(machine: Machine, disk_files: Sequence[DiskFile]) -> str:
    files = "".join(
        f'    <File ovf:id="{disk.volume.uuid}" ovf:href="{disk.volume.uuid}" ovf:size="{file.file_size}"/>\n'
        for disk, file in zip(machine.disks, disk_files, strict=True)
    )
    for kind, state in machine.states.items():
        name = STATE_FILES[kind]
        files += f'    <File ovf:id="{name}" ovf:href="{name}" ovf:size="{state.size}"/>\n'
    return f"  <References>\n{files}  </References>\n"


def _disk_section(machine: Machine, disk_files: Sequence[DiskFile], interfaces: Sequence[DiskInterface]) -> str:
    boot = next((disk for disk in machine.disks if disk.boot), None)
    disks = "".join(
        f'    <Disk ovf:diskId="{disk.uuid}" ovf:fileRef="{disk.volume.uuid}"'
        f' ovf:capacity="{file.virtual_size}" ovf:capacityAllocationUnits="byte" ovf:populatedSize="{file.file_size}"'
        f' ovf:format="{_QCOW2}" ovf:volume-format="COW" ovf:volume-type="Sparse"'
        f' ovf:disk-interface="{_INTERFACES[interface]}" ovf:boot="{"true" if disk is boot else "false"}"'
        f' ovf:disk-alias="{escape(disk.alias)}"/>\n'
        for disk, file, interface in zip(machine.disks, disk_files, interfaces, strict=True)
    )
    return f"  <DiskSection>\n    <Info>Virtual disks</Info>\n{disks}  </DiskSection>\n"


def _network_section(machine: Machine) -> str:
    names = dict.fromkeys(nic.network for nic in machine.nics if nic.network)
    if not names:
        return ""
    networks = "".join(f'    <Network ovf:name="{escape(name)}"/>\n' for name in names)
    return f"  <NetworkSection>\n    <Info>Networks</Info>\n{networks}  </NetworkSection>\n"


def _virtual_system(machine: Machine, guest: GuestOs, interfaces: Sequence[DiskInterface], *, q35: bool) -> str:
    is_template = machine.kind is MachineKind.TEMPLATE
    description = f"    <Description>{escape(machine.description)}</Description>\n" if machine.description else ""
    return (
        f'  <VirtualSystem ovf:id="{machine.uuid}">\n'
        f"    <Info>A {'template of virtual machines' if is_template else 'virtual machine'}</Info>\n"
        f"    <Name>{escape(machine.name)}</Name>\n"
        f"{description}"
        f"    <CreationDate>{_timestamp(machine.created)}</CreationDate>\n"
        f"    <ExportDate>{_timestamp(machine.modified)}</ExportDate>\n"
        "    <ClusterCompatibilityVersion>4.7</ClusterCompatibilityVersion>\n"
        "    <VmType>1</VmType>\n"
        f"    <BiosType>{_bios_type(machine.firmware, q35=q35)}</BiosType>\n"
        "    <DefaultDisplayType>2</DefaultDisplayType>\n"
        "    <Origin>3</Origin>\n"
        f"{_template_data(machine.uuid) if is_template else _NO_TEMPLATE}"
        f'    <OperatingSystemSection ovf:id="{guest.cim}" ovirt:id="{guest.ovirt}" ovf:required="false">\n'
        "      <Info>Guest operating system</Info>\n"
        f"      <Description>{escape(machine.os)}</Description>\n"
        "    </OperatingSystemSection>\n"
        "    <VirtualHardwareSection>\n"
        f"      <Info>{machine.cpu.total} CPU, {machine.memory // MIB} MiB of memory</Info>\n"
        f"{''.join(hardware_items(machine, interfaces))}"
        "    </VirtualHardwareSection>\n"
        "  </VirtualSystem>\n"
    )


def _template_data(uuid: str) -> str:
    """A template that is its own base, in its first version."""
    return (
        f"    <TemplateId>{uuid}</TemplateId>\n"
        "    <IsDisabled>false</IsDisabled>\n"
        "    <TemplateType>TEMPLATE</TemplateType>\n"
        f"    <BaseTemplateId>{uuid}</BaseTemplateId>\n"
        "    <TemplateVersionNumber>1</TemplateVersionNumber>\n"
        "    <TemplateVersionName>base version</TemplateVersionName>\n"
        "    <TemplateSealed>false</TemplateSealed>\n"
    )
