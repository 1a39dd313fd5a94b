"""What can be chosen about an import, against packages that it fits and that it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ovafs.errors import InvalidChoices, NameTaken
from ovafs.formats.ovf.read import read_descriptor
from ovafs.model import CpuTopology, DiskInterface, Firmware, MachineKind
from ovafs.transfer.ingest.choices import (
    Clash,
    DiskChoices,
    Identity,
    ImportChoices,
    check_choices,
    choices_of_disks,
    formats_of_disks,
)
from ovafs.transfer.ingest.package import PackageImport
from ovafs.transfer.ingest.target import TargetFormat
from tests.support.packages import DiskText, archive, descriptor, small_package

if TYPE_CHECKING:
    from tests.support.packages import ImportPool

RAW = DiskChoices(format=TargetFormat.RAW)
# Disks 1 to 3; the aliases are disk0 to disk2. The third one's file is called like another one's number.
THREE = read_descriptor(descriptor(DiskText("a.raw", 512), DiskText(None, 512), DiskText("1", 512)), "x.ovf")


@pytest.mark.parametrize(("name", "number"), [("a.raw", 0), ("disk0", 0), ("disk1", 1), ("2", 1), ("1", 2), ("3", 2)])
def test_a_disk_is_named_by_its_file_then_its_alias_then_its_number(name: str, number: int) -> None:
    disk = THREE.systems[0].disks[number].disk
    assert choices_of_disks(THREE, ImportChoices(disks={name: RAW})) == {disk: RAW}


def test_formats_of_single_disks() -> None:
    choices = ImportChoices(format=TargetFormat.KEEP, disks={"a.raw": RAW, "2": DiskChoices()})
    assert list(formats_of_disks(THREE, choices).values()) == ["raw", "keep", "keep"]


def test_a_disk_that_is_not_there_is_an_error_that_lists_those_that_are() -> None:
    for name in ("4", "0", "01", "A.RAW", ""):
        with pytest.raises(InvalidChoices) as error:
            choices_of_disks(THREE, ImportChoices(disks={name: RAW}))
        assert error.value.summary == (
            f"there is no disk {name!r} in the package; its disks are:"
            " 1: a.raw (disk0); 2: the empty disk 'd1' (disk1); 3: 1 (disk2)"
        )


def test_a_name_of_several_disks() -> None:
    text = descriptor(DiskText("a", 512), DiskText("b", 512)).replace(b">disk1<", b">disk0<")
    with pytest.raises(InvalidChoices, match="'disk0' means 2 disks in the package; its disks are: 1: a"):
        choices_of_disks(read_descriptor(text, "x.ovf"), ImportChoices(disks={"disk0": RAW}))


def test_networks() -> None:
    choices = ImportChoices(networks={"a": "b", "c": ""}, network="rest")
    assert [choices.network_for(name) for name in ("a", "b", "c", "")] == ["b", "rest", "", ""]
    assert ImportChoices(networks={"": "lan"}, network="rest").network_for("") == "lan"
    assert ImportChoices().network_for("a") == "a"


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"name": " "}, "the name is empty"),
        ({"os": ""}, "the operating system is empty"),
        ({"description": "a\0"}, r"the description contains the character U\+0000"),
        ({"memory": 1}, "memory of 1 bytes cannot be; give a multiple of 1 MiB"),
        ({"cpu": CpuTopology(cores=5000)}, "1 sockets, 5000 cores, 1 threads cannot be"),
        ({"network": "a\n"}, "the network 'a.n' contains"),
        ({"networks": {"a": "\n"}}, "the network '.n' contains"),
    ],
)
def test_what_no_machine_can_have(choices: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidChoices, match=message):
        check_choices(ImportChoices(**choices))  # type: ignore[arg-type]


def test_all_of_it_in_the_machine(pool: ImportPool) -> None:
    package = archive(small_package(uuid="0f0e0d0c-0b0a-4908-8706-050403020100", macs=["52:54:00:00:00:01"]))
    machine = pool.take(
        package,
        name="n",
        description="d\r\ne",
        os="debian12",
        memory=2 << 30,
        cpu=CpuTopology(sockets=2),
        firmware=Firmware.UEFI,
        kind=MachineKind.TEMPLATE,
        networks={"lan": "wan"},
        mac=Identity.NEW,
        uuid=Identity.NEW,
        disks={"a.raw": DiskChoices(format=TargetFormat.RAW, interface=DiskInterface.IDE)},
    ).machines[0]
    assert (machine.name, machine.description, machine.os, machine.memory) == ("n", "d\ne", "debian12", 2 << 30)
    assert (machine.cpu.sockets, machine.firmware, machine.kind) == (2, "uefi", "template")
    assert [(disk.interface, disk.volume.format) for disk in machine.disks] == [("ide", "raw"), ("sata", "qcow2")]
    assert machine.nics[0].network == "wan"
    assert machine.nics[0].mac != "52:54:00:00:00:01"
    assert not machine.uuid.startswith("0f0e0d0c")
    pool.assert_whole(1)


def test_a_clash_of_names(pool: ImportPool) -> None:
    package = archive(small_package())
    pool.take(package)
    with pytest.raises(NameTaken, match="the name 'web' is taken by another vm; choose another name"):
        pool.take(package[:5000], on_clash=Clash.REFUSE)
    assert pool.take(package, on_clash=Clash.REFUSE, kind=MachineKind.TEMPLATE).machines[0].name == "web"
    assert pool.take(package).machines[0].name == "web-2"
    pool.assert_whole(3)


def test_a_clash_that_appears_only_at_the_commit(pool: ImportPool) -> None:
    """Another import took the name meanwhile, or the name was not known before."""
    package = archive(small_package())
    unnamed = archive({"x.ovf": descriptor(name="").replace(b'ovf:id=""', b"")})
    for data in (package, unnamed):
        running = PackageImport(pool.pool, None, ImportChoices(on_clash=Clash.REFUSE))
        running.receive_data(data)
        pool.take(package, name="web")
        with pytest.raises(NameTaken, match="the name 'web' is taken"):
            running.commit("web")
        running.close()
        pool.assert_whole(1)
        pool.pool.remove("web")
        for path in pool.files:
            (pool.path / "volumes" / path).unlink()


def test_choices_that_come_with_the_name(pool: ImportPool) -> None:
    """All but the formats still count."""
    running = PackageImport(pool.pool, None, ImportChoices())
    running.receive_data(archive(small_package()))
    late = ImportChoices(
        name="late", disks={"b.raw": DiskChoices(format=TargetFormat.RAW, interface=DiskInterface.IDE)}
    )
    imported = running.commit("x", late)
    running.close()
    assert imported.warnings == ["b.raw: the format raw was chosen too late; it was taken in as qcow2"]
    (machine,) = imported.machines
    assert [disk.interface for disk in machine.disks] == ["sata", "ide"]
    assert (machine.name, machine.disks[1].volume.format) == ("late", "qcow2")
    pool.assert_whole(1)
