"""Packages that become domains of a real libvirt, and start: a guest of one sector says so on its serial port."""

from __future__ import annotations

import base64
import bz2
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.libvirt.serial_port import listen
from tests.support.guests import boot_sector
from tests.support.libvirtd import own_libvirt
from tests.support.mount import mounted
from tests.support.packages import (
    MIB,
    QCOW2,
    RAW,
    STREAM,
    DiskText,
    archive,
    content,
    converted,
    descriptor,
    guest_bytes,
)
from tests.support.pools import eventually
from tests.support.processes import ovafs, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.libvirtd import Libvirt

pytestmark = pytest.mark.libvirt

GREETING = b"the guest is up"

# What a BIOS loads to 0x7c00 and starts: it writes the text behind it to the first serial port (0x3f8), and halts.
_CODE = bytes.fromhex("fc 31c0 8ed8 be167c baf803 ac 84c0 7403 ee ebf8 f4 ebfd")
DISK = boot_sector(_CODE + GREETING + b"\r\n\0") + content(2 * MIB)[512:]


@pytest.fixture(scope="module")
def libvirt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Libvirt]:
    with own_libvirt(tmp_path_factory.mktemp("libvirt")) as running:
        yield running


def package(folder: Path, name: str, form: str) -> Path:
    """A machine whose disk has the guest, in a format that others write."""
    uri, options = {
        "raw": (RAW, ()),
        "qcow2": (QCOW2, ()),
        "vmdk": (STREAM, ("-o", "subformat=streamOptimized")),
    }[form]
    disk = DISK if form == "raw" else converted(folder, DISK, form, *options)
    path = folder / f"{name}.ova"
    path.write_bytes(archive({"vm.ovf": descriptor(DiskText("disk", len(DISK), uri), name=name), "disk": disk}))
    return path


def assert_boots(libvirt: Libvirt, name: str) -> None:
    """The guest's greeting comes out of the serial port."""
    with listen(libvirt, name) as said:
        said(re.compile(re.escape(GREETING)))


@pytest.mark.parametrize("form", ["raw", "qcow2", "vmdk"])
def test_what_is_dropped_boots_and_its_export_too(libvirt: Libvirt, tmp_path: Path, form: str) -> None:
    name = f"guest-{form}"
    with mounted(libvirt.uri, tmp_path, "adapt=never") as mount:
        run("cp", package(tmp_path, name, form), mount.path / "drop")
        eventually((mount.path / "vms" / f"{name}.ova").exists, "the domain is shown")
        assert_boots(libvirt, name)
        again = tmp_path / "again.ova"
        run("cp", mount.path / "vms" / f"{name}.ova", again)
        (mount.path / "drop" / "second.ova.toml").write_text(f'name = "{name}-2"\n')
        run("cp", again, mount.path / "drop" / "second.ova")
        eventually((mount.path / "vms" / f"{name}-2.ova").exists, "the second domain is shown")
        assert_boots(libvirt, f"{name}-2")
    volumes = [line.split()[1] for line in libvirt.virsh("domblklist", f"{name}-2").splitlines()[2:] if line.strip()]
    assert [guest_bytes(volume, "qcow2", tmp_path) for volume in volumes] == [DISK]
    known = libvirt.virsh("vol-list", "default")
    assert all(os.path.basename(volume) in known for volume in volumes), "libvirt knows the volumes"


@pytest.mark.parametrize(
    ("interface", "board"),
    [("ide", "pc-i440fx"), ("sata", "pc-q35"), ("virtio", "pc-q35"), ("virtio-scsi", "pc-q35")],
)
def test_every_bus_boots(libvirt: Libvirt, tmp_path: Path, interface: str, board: str) -> None:
    name = f"bus-{interface}"
    ovafs(
        "import", "--adapt=never", libvirt.uri, package(tmp_path, name, "raw"), "--disk", f"disk,interface={interface}"
    )
    assert f"machine='{board}-" in libvirt.virsh("dumpxml", name)
    assert_boots(libvirt, name)


@pytest.mark.parametrize("firmware", ["uefi", "uefi-secure"])
def test_firmware_of_the_host_starts(libvirt: Libvirt, tmp_path: Path, firmware: str) -> None:
    """The guest is none for UEFI: the firmware itself is what starts, with variables of the domain's own."""
    ovafs("import", "--adapt=never", libvirt.uri, package(tmp_path, firmware, "qcow2"), "--firmware", firmware)
    variables = tmp_path / f"{firmware}_VARS.fd"  # libvirt's own place is in its mount namespace
    definition = tmp_path / "domain.xml"
    text = libvirt.virsh("dumpxml", "--inactive", firmware)
    definition.write_text(text.replace("</os>", f"<nvram>{variables}</nvram></os>"))
    libvirt.virsh("define", definition)
    libvirt.virsh("start", firmware)
    assert libvirt.virsh("domstate", firmware).strip() == "running"
    assert f">{variables}</nvram>" in libvirt.virsh("dumpxml", firmware)
    libvirt.virsh("destroy", firmware)
    ovafs("export", libvirt.uri, firmware, tmp_path / "out.ova")
    packed = run("tar", "-xOf", tmp_path / "out.ova", "nvram.dat").stdout
    assert bz2.decompress(base64.b64decode(packed.removeprefix("=0="))) == variables.read_bytes()
    _assert_comes_back(libvirt, tmp_path / "out.ova", variables.read_bytes(), f"{firmware}-again")


def _assert_comes_back(libvirt: Libvirt, package: Path, variables: bytes, name: str) -> None:
    """The package's machine starts with the variables that it had; they go with the domain, and with a failure."""
    before = libvirt.domains(), sorted(os.listdir(libvirt.images))
    refused = ovafs("import", "--adapt=never", libvirt.uri, package, "--name", name, "--cpus", "4000", status=1)
    assert f"libvirt refuses {name}: " in refused.stderr
    assert before == (libvirt.domains(), sorted(os.listdir(libvirt.images)))
    said = ovafs("import", "--adapt=never", libvirt.uri, package, "--name", name)
    assert "NVRAM" not in said.stdout + said.stderr
    found = re.search(r"<nvram[^>]*>(.*)</nvram>", libvirt.virsh("dumpxml", "--inactive", name))
    assert found is not None
    copy = Path(found[1])
    assert copy.parent == libvirt.images
    assert copy.read_bytes() == variables
    libvirt.virsh("start", name)
    assert libvirt.virsh("domstate", name).strip() == "running"
    assert f">{copy}</nvram>" in libvirt.virsh("dumpxml", name)
    libvirt.virsh("destroy", name)
    libvirt.virsh("undefine", "--nvram", name)
    assert not copy.exists()
    libvirt.virsh("pool-refresh", "default")  # libvirt's list of volumes knows nothing of its own removal


def test_what_is_refused_or_lost_leaves_nothing(libvirt: Libvirt, tmp_path: Path) -> None:
    before = libvirt.domains(), sorted(os.listdir(libvirt.images)), libvirt.virsh("vol-list", "default")
    source = package(tmp_path, "cut", "qcow2")
    os.truncate(source, source.stat().st_size // 2)
    assert "'disk'" in ovafs("import", "--adapt=never", libvirt.uri, source, status=1).stderr
    too_many = package(tmp_path, "many", "qcow2")
    # More processors than any board has: libvirt itself says no, when the volumes are there.
    refused = ovafs("import", "--adapt=never", libvirt.uri, too_many, "--cpus", "4000", status=1)
    assert "libvirt refuses many: " in refused.stderr
    assert before == (libvirt.domains(), sorted(os.listdir(libvirt.images)), libvirt.virsh("vol-list", "default"))


def test_an_import_without_a_mount(libvirt: Libvirt, tmp_path: Path) -> None:
    source = package(tmp_path, "alone", "qcow2")
    result = ovafs("import", "--adapt=never", libvirt.uri, source, "--format", "raw", "--firmware", "uefi")
    assert result.stdout.startswith("imported vm alone (")
    text = libvirt.virsh("dumpxml", "alone")
    assert "firmware='efi'" in text
    assert "type='raw'" in text
    refused = ovafs("import", "--adapt=never", libvirt.uri, source, "--on-clash", "refuse", status=1)
    assert "the name 'alone' is taken" in refused.stderr
    assert libvirt.domains().count("alone") == 1
