"""A machine on the hardware that a host has: what the host lacks is replaced by what boots most guests, and said.

| the machine has | the host has not | then |
|---|---|---|
| UEFI, secure boot | such a firmware | refused: the guest would not start |
| variables of its firmware (NVRAM) | a build of the firmware whose variables have that size | fresh ones |
| a TPM with its state | a use for the state | a fresh TPM, or none |
| a disk on a bus | that bus | SATA, else SCSI, else virtio |
| an adapter on a network | network or bridge of that name | the network "default", else refused |
| a "/" in its name | names with it | "-" |
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from ovafs.errors import InvalidDefinition, InvalidPackage
from ovafs.formats.domain.write import BUSES, DEFAULT_NETWORK, machine_type
from ovafs.formats.ovf.ovirt_state import read_variables
from ovafs.inventory.destination import Fitted
from ovafs.model import DiskInterface, Firmware

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovafs.formats.domain.firmware import FirmwareBuild
    from ovafs.formats.domain.host import Host
    from ovafs.model import Disk, Machine, Nic, State

# The old PC's controller has two channels with two drives each.
_MOST_IDE = 4


def fit(machine: Machine, host: Host, states: Mapping[str, bytes]) -> Fitted:
    """``states``: the texts of its states by their digests. Raises InvalidDefinition where no replacement would do."""
    _check_firmware(machine, host)
    warnings: list[str] = []
    changed = msgspec.structs.replace(
        machine,
        name=_name(machine, warnings),
        disks=_disks(machine, host, warnings),
        nics=tuple(fitted for nic in machine.nics for fitted in _nic(nic, host, warnings)),
        nvram=_nvram(machine, host, states, warnings),
        tpm=machine.tpm if host.has_tpm else None,
    )
    if machine.tpm is not None:
        kept = "it gets a fresh TPM" if host.has_tpm else "this host emulates no TPM (package swtpm)"
        warnings.append(f"the state of its TPM is not taken over: {kept}")
    return Fitted(changed, warnings)


def _check_firmware(machine: Machine, host: Host) -> None:
    hint = "install one (packages ovmf, edk2-ovmf), or choose another firmware for the import"
    if machine.firmware is not Firmware.BIOS and not host.has_uefi:
        raise InvalidDefinition("the machine needs UEFI, and this host has no such firmware", hint)
    if machine.firmware is Firmware.UEFI_SECURE and not host.has_secure_boot:
        raise InvalidDefinition("the machine needs secure boot, and this host has no firmware with it", hint)


def firmware_for(machine: Machine, host: Host, variables: bytes) -> FirmwareBuild | None:
    """The firmware of the host that takes the variables of another as its own: files of the same size."""
    wants_secure_boot = machine.firmware is Firmware.UEFI_SECURE
    suitable = (one for one in host.firmwares if one.has_secure_boot == wants_secure_boot)
    return next((one for one in suitable if one.size == len(variables)), None)


def _nvram(machine: Machine, host: Host, states: Mapping[str, bytes], warnings: list[str]) -> State | None:
    if machine.nvram is None:
        return None
    try:
        variables = read_variables(states[machine.nvram.digest])
        if firmware_for(machine, host, variables) is not None:
            return machine.nvram
        reason = f"no firmware here has variables of {len(variables)} bytes"
    except InvalidPackage as error:
        reason = f"their text {error.reason}"
    warnings.append(f"the variables of its firmware (NVRAM) are not taken over: {reason}; it starts with fresh ones")
    return None


def _name(machine: Machine, warnings: list[str]) -> str:
    name = machine.name.replace("/", "-")
    if name != machine.name:
        warnings.append(f"names have no '/' here; the machine is called {name!r}")
    return name


def _disks(machine: Machine, host: Host, warnings: list[str]) -> tuple[Disk, ...]:
    fitted = []
    has_ide = machine_type(machine, host) == "pc"
    used: Counter[DiskInterface] = Counter()
    for disk in machine.disks:
        interface = disk.interface
        # The host says which buses the newer board has; the old one has IDE beside them.
        is_ide = interface is DiskInterface.IDE
        has_room = has_ide and used[interface] < _MOST_IDE if is_ide else BUSES[interface] in host.disk_buses
        if not has_room:
            choice = (DiskInterface.SATA, DiskInterface.VIRTIO_SCSI, DiskInterface.VIRTIO)
            interface = next((one for one in choice if BUSES[one] in host.disk_buses), DiskInterface.VIRTIO)
            warnings.append(f"disk {disk.alias!r} is on {interface}: there is no room for it on {disk.interface} here")
        used[interface] += 1
        fitted.append(msgspec.structs.replace(disk, interface=interface))
    return tuple(fitted)


def _nic(nic: Nic, host: Host, warnings: list[str]) -> list[Nic]:
    if int(nic.mac[:2], 16) & 1:
        raise InvalidDefinition(f"{nic.mac} is the address of a group, not of an adapter", "import with new addresses")
    has_default = DEFAULT_NETWORK in host.networks
    if nic.network in host.networks | host.bridges or (not nic.network and has_default):
        return [nic]
    if not nic.network:
        warnings.append(f"adapter {nic.mac} is on no network and is left out: there is no network {DEFAULT_NETWORK!r}")
        return []
    if not has_default:
        names = ", ".join(sorted(host.networks | host.bridges)) or "none"
        raise InvalidDefinition(
            f"there is no network or bridge {nic.network!r} here, and no network {DEFAULT_NETWORK!r} in its place",
            f"make one, or map it to one that there is: {names}",
        )
    warnings.append(f"there is no network {nic.network!r} here; adapter {nic.mac} is on {DEFAULT_NETWORK!r}")
    return [msgspec.structs.replace(nic, network=DEFAULT_NETWORK)]
