"""A whole guest: what libvirt has comes back from its OVA, and what VMware packed runs after its adaptation."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.libvirt.serial_port import listen
from tests.support import processes
from tests.support.debian_guest import LOGIN, SIZE
from tests.support.libvirtd import own_libvirt
from tests.support.mount import mounted
from tests.support.packages import STREAM, DiskText, archive, content, descriptor
from tests.support.pools import eventually
from tests.support.processes import ovafs, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.libvirtd import Libvirt

pytestmark = [pytest.mark.libvirt, pytest.mark.timeout(2400)]  # an emulated guest takes its time

BOOT_SECONDS = 400.0
ADAPT_SECONDS = 1500.0


@pytest.fixture(scope="module")
def libvirt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Libvirt]:
    with own_libvirt(tmp_path_factory.mktemp("libvirt")) as running:
        yield running


def assert_reaches_login(libvirt: Libvirt, name: str) -> None:
    with listen(libvirt, name, BOOT_SECONDS) as said:
        said(LOGIN)


def test_what_was_exported_boots_under_another_name(libvirt: Libvirt, tmp_path: Path, debian_disk: Path) -> None:
    disk = tmp_path / "debian.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", debian_disk, disk)
    source = f"<driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda' bus='virtio'/>"
    libvirt.define("debian", f"<disk type='file' device='disk'>{source}</disk>", memory=512)
    with mounted(libvirt.uri, tmp_path) as mount:
        run("cp", mount.path / "vms" / "debian.ova", tmp_path / "copy.ova")
        run("cp", tmp_path / "copy.ova", mount.path / "drop" / "copy.ova")
        eventually((mount.path / "vms" / "debian-2.ova").exists, "the second domain is shown")
    assert_reaches_login(libvirt, "debian-2")


def vmware_package(folder: Path, disk: Path) -> Path:
    """As ESXi exports it: a SCSI controller that QEMU's boards have not, a streamOptimized VMDK."""
    text = descriptor(DiskText("web-disk1.vmdk", SIZE, STREAM), name="web", macs=["00:50:56:11:22:33"])
    text = text.replace(b"AHCI", b"lsilogic").replace(b"<rasd:ResourceType>20<", b"<rasd:ResourceType>6<")
    text = text.replace(b"<rasd:Connection>lan<", b"<rasd:Connection>VM Network<")
    (folder / "web.ovf").write_bytes(text)
    vmdk = folder / "web-disk1.vmdk"
    run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", disk, vmdk)
    path = folder / "web.ova"
    run("tar", "--format=ustar", "-C", folder, "-cf", path, "web.ovf", "web-disk1.vmdk")
    return path


def adapting(mount: Path) -> list[dict[str, Any]]:
    document = json.loads((mount / ".ovafs" / "status.json").read_text())
    waiting: list[dict[str, Any]] = document["drop"]["adapting"]
    return waiting


def test_a_guest_of_vmware_is_adapted_and_boots_from_virtio(
    libvirt: Libvirt, tmp_path: Path, debian_disk: Path
) -> None:
    package = vmware_package(tmp_path, debian_disk)
    with mounted(libvirt.uri, tmp_path, "adapt=v2v") as mount:
        run("cp", package, mount.path / "drop")
        assert "web" not in libvirt.domains(), "its writer does not wait for it"
        assert "web.ova: adapting" in (mount.path / "drop" / "web.ova.report.txt").read_text()
        (one,) = adapting(mount.path)
        assert (one["name"], one["machines"], one["error"]) == ("web.ova", ["web"], "")
        assert "web.ova: adapting since" in ovafs("status", mount.path).stdout
        assert "Device or resource busy" in run("rm", mount.path / "drop" / "web.ova", status=1).stderr
        shown = mount.path / "vms" / "web.ova"
        failures: list[str] = []

        def has_ended() -> bool:
            failures[:] = [one["error"] for one in adapting(mount.path) if one["error"]]
            return bool(failures) or shown.exists()

        eventually(has_ended, "the domain is shown", patience=ADAPT_SECONDS)
        assert failures == []
        eventually(lambda: adapting(mount.path) == [], "nothing is adapted")
        report = (mount.path / "drop" / "web.ova.report.txt").read_text()
        assert "This guest has virtio drivers installed." in report
    text = libvirt.virsh("dumpxml", "web")
    assert re.search(r"<target dev='vda' bus='virtio'/>", text)
    assert re.search(r"<model type='virtio'/>", text)
    libvirt.virsh("detach-interface", "web", "network", "--config")  # the network of these tests does not run
    assert [name for name in os.listdir(libvirt.images) if name.startswith(".")] == [], "the overlays are gone"
    assert_reaches_login(libvirt, "web")


def foreign_package(folder: Path, name: str) -> Path:
    """With a disk that no system is on."""
    path = folder / f"{name}.ova"
    disk = content()
    path.write_bytes(archive({"vm.ovf": descriptor(DiskText("disk", len(disk)), name=name), "disk": disk}))
    return path


def test_a_guest_that_cannot_be_adapted(libvirt: Libvirt, tmp_path: Path) -> None:
    before = libvirt.domains(), sorted(os.listdir(libvirt.images))
    package = foreign_package(tmp_path, "strange")
    refused = ovafs("import", "--adapt=v2v", libvirt.uri, package, status=1).stderr
    assert "ovafs: error: virt-v2v-in-place failed: " in refused
    assert before == (libvirt.domains(), sorted(os.listdir(libvirt.images)))
    said = ovafs("import", libvirt.uri, package).stderr
    assert "adapting the guest: Inspecting the source" in said
    assert "strange: its guest was not adapted, its hardware stays: virt-v2v-in-place failed: " in said
    assert "bus='sata'" in libvirt.virsh("dumpxml", "strange")


def test_an_import_is_interrupted_while_it_adapts(libvirt: Libvirt, tmp_path: Path) -> None:
    before = libvirt.domains(), sorted(os.listdir(libvirt.images))
    command = [sys.executable, "-m", "ovafs", "import", libvirt.uri, str(foreign_package(tmp_path, "cut"))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=processes.ENVIRONMENT) as process:
        assert process.stderr is not None
        with contextlib.closing(process.stderr):
            assert process.stderr.readline().startswith("adapting the guest: ")
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            assert "interrupted: nothing is imported, nothing is left" in process.stderr.read()
    assert before == (libvirt.domains(), sorted(os.listdir(libvirt.images)))
    assert run("pgrep", "-f", str(libvirt.images / ".adapt-"), status=1).stdout == ""
