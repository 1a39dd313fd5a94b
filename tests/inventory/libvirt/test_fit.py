"""Machines on the hardware that a host has."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ovafs.errors import InvalidDefinition
from ovafs.formats.domain.firmware import FirmwareBuild
from ovafs.formats.domain.host import Guest, Host
from ovafs.formats.domain.write import machine_type
from ovafs.formats.ovf.ovirt_state import write_variables
from ovafs.inventory.libvirt.fit import firmware_for, fit
from ovafs.model import Disk, DiskFormat, DiskInterface, Firmware, Machine, Nic, State, Volume, state_of

GUEST = Guest("kvm", "x86_64", frozenset({"pc", "q35"}))
HOST = Host(GUEST, has_uefi=True, has_secure_boot=True, has_tpm=True, networks=frozenset({"default"}))
UUID = "bb20f368-ed92-401f-91dd-f6082a15a406"
STATE = State(size=1, digest="0" * 64)


def machine(*interfaces: DiskInterface, **fields: Any) -> Machine:
    volume = Volume(uuid=UUID, path="/pool/x", format=DiskFormat.RAW)
    disks = tuple(
        Disk(uuid=UUID, alias=f"d{number}", volume=volume, interface=interface)
        for number, interface in enumerate(interfaces)
    )
    return Machine(
        **{"uuid": UUID, "name": "web", "memory": 1 << 30, "created": 0, "modified": 0, "disks": disks, **fields}
    )


def nic(network: str) -> Nic:
    return Nic(uuid=UUID, name="nic1", network=network, mac="52:54:00:00:00:01")


def test_the_old_board_has_ide_whatever_is_said_of_the_newer_one() -> None:
    assert "ide" not in HOST.disk_buses, "libvirt lists the buses of q35"
    one = machine(DiskInterface.IDE, DiskInterface.VIRTIO)
    assert fit(one, HOST, {}) == (one, [])
    assert machine_type(one, HOST) == "pc"


def test_what_the_host_has_stays() -> None:
    one = machine(*DiskInterface, firmware=Firmware.BIOS, nics=(nic("default"), nic("")))
    assert fit(one, HOST, {}) == (one, [])


@pytest.mark.parametrize(
    ("host", "firmware", "message"),
    [
        (HOST._replace(has_uefi=False), Firmware.UEFI, "needs UEFI, and this host has no such firmware"),
        (HOST._replace(has_uefi=False), Firmware.UEFI_SECURE, "needs UEFI"),
        (HOST._replace(has_secure_boot=False), Firmware.UEFI_SECURE, "needs secure boot"),
    ],
)
def test_firmware_has_no_replacement(host: Host, firmware: Firmware, message: str) -> None:
    with pytest.raises(InvalidDefinition, match=message) as caught:
        fit(machine(firmware=firmware), host, {})
    assert "ovmf" in caught.value.hint
    assert fit(machine(firmware=Firmware.BIOS), host, {}).warnings == []


def test_ide_without_its_controller_is_sata() -> None:
    fitted = fit(machine(DiskInterface.IDE, firmware=Firmware.UEFI), HOST, {})
    assert fitted.machine.disks[0].interface is DiskInterface.SATA
    assert fitted.warnings == ["disk 'd0' is on sata: there is no room for it on ide here"]


def test_the_fifth_ide_disk_is_sata() -> None:
    fitted = fit(machine(*[DiskInterface.IDE] * 5), HOST, {})
    assert [disk.interface for disk in fitted.machine.disks] == [DiskInterface.IDE] * 4 + [DiskInterface.SATA]


@pytest.mark.parametrize(
    ("buses", "expected"),
    [({"scsi", "virtio"}, DiskInterface.VIRTIO_SCSI), ({"virtio"}, DiskInterface.VIRTIO)],
)
def test_hosts_without_sata(buses: set[str], expected: DiskInterface) -> None:
    fitted = fit(machine(DiskInterface.SATA), HOST._replace(disk_buses=frozenset(buses)), {})
    assert fitted.machine.disks[0].interface is expected


def test_an_unknown_network() -> None:
    fitted = fit(machine(nics=(nic("VM Network"),)), HOST, {})
    assert fitted.machine.nics[0].network == "default"
    assert fitted.warnings == ["there is no network 'VM Network' here; adapter 52:54:00:00:00:01 is on 'default'"]
    with pytest.raises(InvalidDefinition, match="no network or bridge 'VM Network' here") as caught:
        fit(
            machine(nics=(nic("VM Network"),)),
            HOST._replace(networks=frozenset({"lan"}), bridges=frozenset({"br0"})),
            {},
        )
    assert caught.value.hint == "make one, or map it to one that there is: br0, lan"


def test_an_adapter_on_no_network_where_there_is_none() -> None:
    fitted = fit(machine(nics=(nic(""),)), HOST._replace(networks=frozenset()), {})
    assert fitted.machine.nics == ()
    assert "left out" in fitted.warnings[0]


def test_an_address_of_a_group() -> None:
    group = msgspec.structs.replace(nic("default"), mac="53:54:00:00:00:01")
    with pytest.raises(InvalidDefinition, match="53:54:00:00:00:01 is the address of a group"):
        fit(machine(nics=(group,)), HOST, {})


VARIABLES = bytes(40) + b"_FVH" + bytes(1000)
TEXT = write_variables(VARIABLES)
PLAIN = FirmwareBuild("/usr/code.fd", "/usr/vars.fd", has_secure_boot=False, size=len(VARIABLES))
SECURE = PLAIN._replace(code="/usr/secure.fd", has_secure_boot=True)
LARGER = PLAIN._replace(code="/usr/larger.fd", size=len(VARIABLES) + 1)


@pytest.mark.parametrize(
    ("firmware", "builds", "expected"),
    [
        (Firmware.UEFI, (LARGER, SECURE, PLAIN), PLAIN),
        (Firmware.UEFI_SECURE, (LARGER, PLAIN, SECURE), SECURE),
        (Firmware.UEFI, (LARGER, SECURE), None),
        (Firmware.UEFI_SECURE, (PLAIN,), None),
    ],
)
def test_variables_need_a_firmware_that_takes_them(
    firmware: Firmware, builds: tuple[FirmwareBuild, ...], expected: FirmwareBuild | None
) -> None:
    host = HOST._replace(firmwares=builds)
    state = state_of(TEXT)
    one = machine(firmware=firmware, nvram=state)
    assert firmware_for(one, host, VARIABLES) == expected
    fitted = fit(one, host, {state.digest: TEXT})
    if expected is None:
        assert fitted.machine.nvram is None
        assert "no firmware here has variables of 1044 bytes; it starts with fresh ones" in fitted.warnings[0]
    else:
        assert fitted == (one, [])


def test_variables_that_are_none() -> None:
    text = write_variables(VARIABLES)[:-8]
    state = state_of(text)
    fitted = fit(machine(firmware=Firmware.UEFI, nvram=state), HOST, {state.digest: text})
    assert fitted.machine.nvram is None
    assert "not taken over: their text is cut off" in fitted.warnings[0]


def test_the_state_of_a_tpm_is_not_taken_over() -> None:
    one = machine(firmware=Firmware.UEFI, tpm=STATE)
    fitted = fit(one, HOST, {})
    assert fitted.machine.tpm == STATE
    assert "a fresh TPM" in fitted.warnings[0]
    without = fit(one, HOST._replace(has_tpm=False), {})
    assert without.machine.tpm is None
    assert "swtpm" in without.warnings[0]


def test_names() -> None:
    fitted = fit(machine(name="a/b"), HOST, {})
    assert (fitted.machine.name, fitted.warnings) == ("a-b", ["names have no '/' here; the machine is called 'a-b'"])
