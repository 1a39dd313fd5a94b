"""OVAs that other products made: each imports, with the disks that other programs find in it, or is refused."""

from __future__ import annotations

import base64
import bz2
import gzip
import re
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import InvalidPackage
from ovafs.model import StateKind
from tests.support.oracles import assert_same_disk, check_qcow2, extract
from tests.support.packages import import_pool
from tests.support.processes import run
from tests.support.shared import SHARED, shared_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.packages import ImportPool

EFI = "efi scsi späce 虚拟机"

# The machines of each sample with the number of their disks, which are in the archive in the same order.
TAKEN: dict[str, dict[str, int]] = {
    "other/harvester/test.ova": {"ubuntu": 1},
    "ovftool/tdAppliance1-t1.ova": {"tdAppliance1-t1": 0},
    "ovftool/tdAppliance1-t2.ova": {"tdAppliance1-t2": 1},
    "ovftool/tdAppliance1-t3-ovftool-4.1.0.ova": {"tdAppliance1-t3": 1},
    "ovftool/tdAppliance1-t4.ova": {"tdAppliance1-t4": 2},
    "ovftool/tdAppliance1-t7-bad-instance.ova": {"tdAppliance1-t7": 1},
    "virtualbox/ctl-virtio-ovf10.ova": {"ctl-virtio": 1},
    "virtualbox/diskless.ova": {"diskless": 0},
    "virtualbox/efi-scsi-ovf20-iso.ova": {EFI: 2},
    "virtualbox/linux-sata-nomf.ova": {"linux-sata": 1},
    "virtualbox/linux-sata-ovf10.ova": {"linux-sata": 1},
    "virtualbox/linux-sata-ovf20.ova": {"linux-sata": 1},
    "virtualbox/two-vms-ovf10.ova": {"linux-sata": 1, EFI: 2},
}
# What is known to be on the disks.
CONTENTS = {"linux-sata": ["d1"], "ctl-virtio": ["d2"], EFI: ["d2", "d3"]}
# What is said of them beside the usual (adapters and controllers that become others, elements without a place).
SAID = {
    "other/harvester/test.ova": "ubuntu.2.0-disk1.vmdk: came before the descriptor; it was stored twice",
    "ovftool/tdAppliance1-t1.ova": "tdAppliance1-t1.ovf: not in the manifest, so not verified",
    "ovftool/tdAppliance1-t7-bad-instance.ova": "readme.txt: not in the descriptor, ignored",
    "virtualbox/efi-scsi-ovf20-iso.ova": f"the medium {EFI}-disk003.iso is left out",
    "virtualbox/linux-sata-nomf.ova": "the archive has neither an end nor a manifest: nothing says that it is whole",
    "virtualbox/two-vms-ovf10.ova": "the CD drive 'cdrom1' is left out",
}
REFUSED = {
    "other/glance/testserver-bad-ovf.ova": "'illegal-xml.ovf': the descriptor is not well-formed XML",
    "other/glance/testserver-no-disk.ova": "'testserver-disk1.vmdk': the package does not have this file",
    "other/glance/testserver-no-ovf.ova": r"there is no descriptor \(\*.ovf\) in the archive",
    "other/glance/testserver-not-tar.ova": "not an OVA: it has no tar header",
    # Its disk are four letters.
    "other/glance/testserver.ova": "'testserver-disk1.vmdk': is called vmdk but is not",
    # Of 2008, and its machine stands in an element that no version of the standard has.
    "other/open-ovf/py_tests_test_files_ourOVF.ova": "the descriptor describes no virtual system",
}


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[ImportPool]:
    with import_pool(tmp_path / "pool") as opened:
        yield opened


def test_every_sample_is_here() -> None:
    shared_path("samples")
    found = {str(path.relative_to(SHARED / "samples")) for path in (SHARED / "samples").rglob("*.ova")}
    assert found == TAKEN.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", TAKEN)
def test_samples_that_are_taken(pool: ImportPool, tmp_path: Path, name: str) -> None:
    sample = shared_path(f"samples/{name}")
    imported = pool.take(sample.read_bytes())
    pool.assert_whole(len(TAKEN[name]))
    assert {machine.name: len(machine.disks) for machine in imported.machines} == TAKEN[name]
    assert SAID.get(name, "") in ["", *imported.warnings]
    judges = iter(_unpacked(sample, tmp_path / "unpacked"))
    for machine in imported.machines:
        for number, disk in enumerate(machine.disks):
            volume = disk.volume.path
            check_qcow2(volume)
            assert_same_disk(volume, next(judges), "qcow2", "raw")
            if machine.name in CONTENTS:
                truth = tmp_path / "truth.raw"
                packed = shared_path(f"samples/virtualbox/{CONTENTS[machine.name][number]}.raw.gz")
                truth.write_bytes(gzip.decompress(packed.read_bytes()))
                assert_same_disk(volume, truth, "qcow2", "raw")
    assert list(judges) == []
    unpacked = {file.suffix: file for file in (tmp_path / "unpacked").iterdir()}
    for machine in imported.machines:
        assert pool.pool.read_descriptor(machine) == unpacked[".ovf"].read_bytes()
        assert (machine.nvram is not None) == (machine.name == EFI)
        if machine.nvram is not None:
            text = pool.pool.read_state(machine, StateKind.NVRAM)
            assert bz2.decompress(base64.b64decode(text.removeprefix(b"=0="))) == unpacked[".nvram"].read_bytes()


def _unpacked(sample: Path, folder: Path) -> Iterator[Path]:
    """The disks of an archive, by GNU tar, gzip and qemu-img."""
    for file in extract(sample, folder):
        if file.suffix == ".gz":
            run("gzip", "-d", file)
        image = file.with_suffix("") if file.suffix == ".gz" else file
        if image.suffix == ".vmdk":
            raw = image.with_suffix(".raw")
            run("qemu-img", "convert", "-f", "vmdk", "-O", "raw", image, raw)
            yield raw


@pytest.mark.parametrize(
    "name", [name for name, machines in TAKEN.items() if sum(machines.values()) and "nomf" not in name]
)
def test_samples_with_a_flipped_bit(pool: ImportPool, name: str) -> None:
    """In the last disk: the manifest tells, or the disk's own format."""
    data = bytearray(shared_path(f"samples/{name}").read_bytes())
    last_disk = max(data.rfind(b"KDMV"), data.rfind(b"\x1f\x8b\x08"))
    data[last_disk + 400] ^= 1
    with pytest.raises(InvalidPackage):
        pool.take(bytes(data))
    pool.assert_whole()


@pytest.mark.parametrize("name", REFUSED)
def test_samples_that_are_refused(pool: ImportPool, name: str) -> None:
    with pytest.raises(InvalidPackage, match=REFUSED[name]) as refused:
        pool.take(shared_path(f"samples/{name}").read_bytes())
    assert re.search(r"; (copy the package again|in an OVA|have)", str(refused.value))
    pool.assert_whole()
