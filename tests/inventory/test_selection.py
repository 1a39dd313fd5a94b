"""Machines by patterns of their names, and by tags."""

from __future__ import annotations

import pytest

from ovafs.errors import MachineNotFound, SourceError
from ovafs.inventory.inventory import DamagedMachine
from ovafs.inventory.selection import Selection
from ovafs.inventory.source import open_inventory, selection_for
from ovafs.model import Machine, MachineKind
from tests.support.fakes import MemoryInventory


@pytest.mark.parametrize(
    ("selection", "shown"),
    [
        (Selection(), ["db", "web-1", "web-2"]),
        (Selection(include=("web-*",)), ["web-1", "web-2"]),
        (Selection(include=("web-?", "db"), exclude=("*-2",)), ["db", "web-1"]),
        (Selection(exclude=("*",)), []),
        (Selection(include=("WEB*",)), []),
    ],
)
def test_patterns(selection: Selection, shown: list[str]) -> None:
    assert [name for name in ("db", "web-1", "web-2") if selection.shows(name, frozenset())] == shown


def _machine(name: str) -> Machine:
    return Machine(uuid=f"uuid of {name}", name=name, memory=1 << 30, created=0, modified=0)


def test_what_is_not_selected_is_not_there() -> None:
    memory = MemoryInventory([_machine("web"), _machine("db")])
    memory.damaged = [DamagedMachine("db-2", "broken", "x", MachineKind.VM)]
    inventory = Selection(exclude=("db*",)).of(memory)
    assert [machine.name for machine in inventory.machines()] == ["web"]
    assert inventory.snapshot().damaged == []
    assert inventory.find("web").name == "web"
    with pytest.raises(MachineNotFound, match="db is not among the machines that are shown"):
        inventory.find("db")
    assert Selection(templates=("*",)).of(memory) is memory
    assert (inventory.source_id, inventory.revision()) == (memory.source_id, memory.revision())


def test_templates_of_a_pool_are_its_own() -> None:
    with pytest.raises(SourceError, match="a pool knows its templates"):
        open_inventory("/somewhere", Selection(templates=("*",)))


def test_tags() -> None:
    memory = MemoryInventory([_machine("web"), _machine("db"), _machine("old")])
    memory.tagged = {"uuid of web": frozenset({"nightly", "x"}), "uuid of old": frozenset({"weekly"})}

    def shown(selection: Selection) -> list[str]:
        return [machine.name for machine in selection.of(memory).machines()]

    assert shown(Selection(tag=("nightly",))) == ["web"]
    assert shown(Selection(tag=("nightly", "weekly"))) == ["web", "old"]
    assert shown(Selection(tag=("nightly", "weekly"), exclude=("w*",))) == ["old"]
    assert shown(Selection(tag=("none",))) == []
    with pytest.raises(MachineNotFound):
        Selection(tag=("nightly",)).of(memory).find("db")


def test_a_pool_has_no_tags() -> None:
    with pytest.raises(SourceError, match="a pool has no tags; the option 'tag' is for libvirt"):
        open_inventory("/somewhere", Selection(tag=("nightly",)))


def test_a_pool_has_no_snapshots() -> None:
    with pytest.raises(SourceError, match="a pool has no snapshots; the option 'snapshots' is for libvirt"):
        open_inventory("/somewhere", Selection(snapshots=True))


@pytest.mark.parametrize(
    ("source", "name", "expected"),
    [
        ("qemu:///system", "web@one", True),
        ("qemu:///system", "web", False),
        ("qemu:///system", None, False),
        ("/srv/pool", "web@one", False),
    ],
)
def test_a_machine_that_is_a_snapshot(source: str, name: str | None, expected: bool) -> None:
    assert selection_for(source, name).snapshots is expected
