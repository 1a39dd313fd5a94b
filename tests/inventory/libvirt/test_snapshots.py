"""Snapshots of domains as machines: what can be read of them, and what is said of the others."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import InvalidDefinition
from ovafs.formats.domain.read import read_domain
from ovafs.formats.domain.snapshot import read_snapshot
from ovafs.inventory.inventory import DamagedMachine
from ovafs.inventory.libvirt.connection import DomainText
from ovafs.inventory.libvirt.machines import machine_of
from ovafs.inventory.libvirt.snapshots import snapshot_machines
from ovafs.model import Machine, MachineKind
from tests.support.domains import domain_xml
from tests.support.images import create
from tests.support.pools import Image, raw_image

if TYPE_CHECKING:
    from pathlib import Path


def now() -> int:
    return int(time.time())


def snapshot_xml(name: str, image: Image, *, created: int, kept: str = "external") -> str:
    return (
        f"<domainsnapshot><name>{name}</name><creationTime>{created}</creationTime>"
        f"<disks><disk name='vda' snapshot='{kept}'/></disks>{domain_xml('web', image)}</domainsnapshot>"
    )


def machines(*snapshots: str, on: Image | None = None) -> list[Machine | DamagedMachine]:
    """``on``: what the domain itself is on now."""
    domain = DomainText("5402a2e9-0dff-4b3d-a32e-e667db6d3d56", "web", "", is_active=True, snapshots=snapshots)
    read = read_domain(domain_xml("web", *([] if on is None else [on])))
    now_it_is = machine_of(read, MachineKind.VM, lambda source: source.path)
    return list(snapshot_machines(domain, now_it_is, lambda source: source.path))


def only(*snapshots: str, on: Image | None = None) -> Machine | DamagedMachine:
    (machine,) = machines(*snapshots, on=on)
    return machine


def test_an_external_snapshot_is_a_machine(tmp_path: Path) -> None:
    image = raw_image(tmp_path / "base.raw")
    made = now()
    first, second = machines(snapshot_xml("one", image, created=made), snapshot_xml("two", image, created=made))
    assert isinstance(first, Machine)
    assert isinstance(second, Machine)
    assert (first.name, second.name) == ("web@one", "web@two")
    assert (first.created, first.modified) == (made, made)
    assert [disk.volume.path for disk in first.disks] == [str(image.path)]
    assert first.uuid != second.uuid
    assert first.disks[0].uuid != second.disks[0].uuid
    assert machines(snapshot_xml("one", image, created=made)) == [first], "the same whenever it is looked at"


def test_an_internal_snapshot_lies_in_its_image(tmp_path: Path) -> None:
    """So that it does not matter when that was written to last."""
    image = Image(create(tmp_path / "a.qcow2", 1 << 20), "qcow2")
    machine = only(snapshot_xml("one", image, created=1, kept="internal"))
    assert isinstance(machine, Machine)
    assert [disk.volume.snapshot for disk in machine.disks] == ["one"]


@pytest.mark.parametrize(("form", "kept"), [("qcow2", "no"), ("raw", "internal")])
def test_a_disk_that_is_no_part_of_the_snapshot(tmp_path: Path, form: str, kept: str) -> None:
    machine = only(snapshot_xml("one", Image(tmp_path / "a", form), created=now(), kept=kept))
    assert isinstance(machine, DamagedMachine)
    assert machine.name == "web@one"
    assert machine.reason == "disk vda is no part of the snapshot"


def test_an_image_that_was_written_to_since(tmp_path: Path) -> None:
    """As a block commit does, which leaves the snapshot's metadata."""
    image = raw_image(tmp_path / "base.raw")
    os.utime(image.path, (now(), now() + 60))
    machine = only(snapshot_xml("one", image, created=now()))
    assert isinstance(machine, DamagedMachine)
    assert "base.raw was written to after the snapshot was made: it is not what it was" in machine.reason


def test_an_image_that_the_domain_is_on_again(tmp_path: Path) -> None:
    """However little time has passed since the snapshot."""
    image = raw_image(tmp_path / "base.raw")
    machine = only(snapshot_xml("one", image, created=now()), on=image)
    assert isinstance(machine, DamagedMachine)
    assert "base.raw was written to after the snapshot was made: it is not what it was" in machine.reason


def test_an_image_that_is_gone_is_the_machines_own_trouble(tmp_path: Path) -> None:
    image = raw_image(tmp_path / "base.raw")
    image.path.unlink()
    assert isinstance(only(snapshot_xml("one", image, created=now())), Machine)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<domainsnapshot><name>x</name><creationTime>1</creationTime></domainsnapshot>", "what the domain was"),
        ("<domainsnapshot><name>x</name><creationTime>-1</creationTime><domain/></domainsnapshot>", "or when"),
        ("<domainsnapshot><name/><creationTime>1</creationTime><domain/></domainsnapshot>", "what the domain was"),
        ("<domain/>", "describes a 'domain', not a domainsnapshot"),
        ("<domainsnapshot>", "the domainsnapshot's XML cannot be read"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><domainsnapshot><name>&a;</name></domainsnapshot>", "what the domain was"),
    ],
)
def test_texts_that_are_no_snapshot(text: str, reason: str) -> None:
    with pytest.raises(InvalidDefinition, match=reason):
        read_snapshot(text)
    machine = only(text)
    assert isinstance(machine, DamagedMachine)
    assert machine.name == "web@0"
    assert reason in machine.reason
