"""The tree: names, generations, inodes, and what happens when they change."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

import pytest
import trio

from ovafs.errors import ImageUnavailable, InvalidDefinition, MachineNotFound, StaleHandle
from ovafs.inventory.inventory import DamagedMachine
from ovafs.model import MachineKind
from ovafs.vfs.nodes import MachineFile, entry_cookie, machine_inode
from ovafs.vfs.tree import CATALOG_FRESH_SECONDS, FRESH_SECONDS, ROOT, TEMPLATES, VMS, Tree
from tests.support.fakes import FakePackager, MemoryInventory, machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from ovafs.model import Machine
    from ovafs.transfer.description import Description
    from ovafs.transfer.packager import Packager


def make_tree(inventory: MemoryInventory, packager: FakePackager) -> Tree:
    return Tree(inventory, cast("Packager", packager))


async def machine_file(tree: Tree, name: bytes, parent: int = VMS.inode) -> MachineFile:
    node = await tree.lookup(parent, name)
    assert isinstance(node, MachineFile)
    node.lookups += 1
    return node


async def test_root_has_two_fixed_directories() -> None:
    tree = make_tree(MemoryInventory(), FakePackager())
    assert await tree.lookup(ROOT.inode, b"vms") is VMS
    assert await tree.lookup(ROOT.inode, b"templates") is TEMPLATES
    with pytest.raises(MachineNotFound, match="no entry b'drop'"):
        await tree.lookup(ROOT.inode, b"drop")


async def test_machines_stand_in_the_directory_of_their_kind() -> None:
    inventory = MemoryInventory([machine(1, "web"), machine(2, "web", kind=MachineKind.TEMPLATE)])
    tree = make_tree(inventory, FakePackager())
    vm = await machine_file(tree, b"web.ova")
    template = await machine_file(tree, b"web.ova", TEMPLATES.inode)
    assert vm.machine.uuid != template.machine.uuid
    assert vm.inode != template.inode
    assert [entry.name for entry in await tree.entries(VMS)] == [b"web.ova"]


async def test_dot_and_dotdot() -> None:
    tree = make_tree(MemoryInventory([machine(1)]), FakePackager())
    node = await machine_file(tree, b"vm1.ova")
    assert await tree.lookup(node.inode, b".") is node
    assert await tree.lookup(VMS.inode, b".") is VMS
    assert await tree.lookup(VMS.inode, b"..") is ROOT


async def test_inode_is_found_by_a_new_tree_as_after_a_restart() -> None:
    inventory = MemoryInventory([machine(1), machine(2)])
    node = await machine_file(make_tree(inventory, FakePackager()), b"vm2.ova")
    found = await make_tree(inventory, FakePackager()).lookup(node.inode, b".")
    assert isinstance(found, MachineFile)
    assert (found.inode, found.machine) == (node.inode, node.machine)


async def test_unknown_inode_is_stale() -> None:
    tree = make_tree(MemoryInventory([machine(1)]), FakePackager())
    with pytest.raises(StaleHandle, match="inode 99999 stands for a machine or a generation that is gone"):
        await tree.node(99999)


async def test_added_machine_is_seen_at_the_first_lookup() -> None:
    inventory = MemoryInventory([machine(1)])
    tree = make_tree(inventory, FakePackager())
    await machine_file(tree, b"vm1.ova")
    inventory.set(machine(1), machine(2))
    assert (await machine_file(tree, b"vm2.ova")).machine.name == "vm2"


async def test_removed_machine_leaves_its_held_inode_alone(mock_clock: MockClock) -> None:
    inventory = MemoryInventory([machine(1)])
    tree = make_tree(inventory, FakePackager())
    node = await machine_file(tree, b"vm1.ova")
    inventory.set()
    mock_clock.jump(FRESH_SECONDS * 2)
    with pytest.raises(MachineNotFound):
        await tree.lookup(VMS.inode, b"vm1.ova")
    assert await tree.node(node.inode) is node
    tree.forget(node.inode, 1)
    with pytest.raises(StaleHandle):
        await tree.node(node.inode)


async def test_changed_volume_is_a_new_inode_under_the_old_name(mock_clock: MockClock) -> None:
    packager = FakePackager()
    tree = make_tree(MemoryInventory([machine(1)]), packager)
    old = await machine_file(tree, b"vm1.ova")
    packager.salt["vm1"] = 1
    assert await machine_file(tree, b"vm1.ova") is old  # still fresh
    mock_clock.jump(FRESH_SECONDS * 1.5)
    new = await machine_file(tree, b"vm1.ova")
    assert new.inode != old.inode
    assert (old.attributes.size, new.attributes.size) == (10_000, 10_001)
    assert await tree.node(old.inode) is old


async def test_doubted_generation_is_looked_at_again_at_once() -> None:
    packager = FakePackager()
    tree = make_tree(MemoryInventory([machine(1)]), packager)
    old = await machine_file(tree, b"vm1.ova")
    packager.salt["vm1"] = 1
    tree.doubt(old)
    assert (await machine_file(tree, b"vm1.ova")).inode != old.inode


async def test_generation_that_comes_back_has_its_old_inode(mock_clock: MockClock) -> None:
    packager = FakePackager()
    tree = make_tree(MemoryInventory([machine(1)]), packager)
    inodes = []
    for salt in (0, 1, 0):
        packager.salt["vm1"] = salt
        node = await machine_file(tree, b"vm1.ova")
        inodes.append(node.inode)
        tree.forget(node.inode, 1)
        mock_clock.jump(FRESH_SECONDS * 1.5)
    assert inodes[0] == inodes[2] != inodes[1]


async def test_broken_machine_fails_alone_and_is_logged_once(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture, expect_log: Callable[[str], None]
) -> None:
    expect_log("vm2: /images/b.raw: no such file")
    packager = FakePackager()
    packager.failures["vm2"] = ImageUnavailable("/images/b.raw", "no such file")
    tree = make_tree(MemoryInventory([machine(1), machine(2), machine(3)]), packager)
    for _ in range(3):
        entries = await tree.entries(VMS)
        mock_clock.jump(FRESH_SECONDS * 1.5)
    assert {entry.name: entry.node is not None for entry in entries} == {
        b"vm1.ova": True,
        b"vm2.ova": False,
        b"vm3.ova": True,
    }
    with pytest.raises(ImageUnavailable, match="no such file"):
        await tree.lookup(VMS.inode, b"vm2.ova")
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert warnings == [
        "vm2: /images/b.raw: no such file; check that the path exists and that the user of ovafs may read it"
    ]


async def test_damaged_machine_is_listed_and_fails_with_the_reason(expect_log: Callable[[str], None]) -> None:
    expect_log("vm2: its memory is no number")
    inventory = MemoryInventory([machine(1)])
    inventory.damaged.append(DamagedMachine("vm2", "its memory is no number", "row 7", MachineKind.VM, "add it again"))
    tree = make_tree(inventory, FakePackager())
    entries = await tree.entries(VMS)
    assert sorted((entry.name, entry.node is None) for entry in entries) == [(b"vm1.ova", False), (b"vm2.ova", True)]
    with pytest.raises(InvalidDefinition, match="its memory is no number; add it again"):
        await tree.lookup(VMS.inode, b"vm2.ova")


async def test_unexpected_failure_breaks_one_machine_only(expect_log: Callable[[str], None]) -> None:
    expect_log("vm1: unexpected failure while planning")
    expect_log("vm1: unexpected failure: ZeroDivisionError")
    packager = FakePackager()
    packager.failures["vm1"] = ZeroDivisionError("boom")
    tree = make_tree(MemoryInventory([machine(1), machine(2)]), packager)
    entries = await tree.entries(VMS)
    assert sorted((entry.name, entry.node is None) for entry in entries) == [(b"vm1.ova", True), (b"vm2.ova", False)]


async def test_listing_twice_asks_the_storage_once() -> None:
    packager = FakePackager()
    inventory = MemoryInventory([machine(number) for number in range(50)])
    tree = make_tree(inventory, packager)
    await tree.entries(VMS)
    await tree.entries(VMS)
    assert len(packager.described) == 50
    assert inventory.reads == 1


async def test_machine_that_changes_while_it_is_described_is_looked_at_again() -> None:
    inventory = MemoryInventory([machine(1)])
    packager = FakePackager()
    tree = make_tree(inventory, packager)
    describe = packager.describe

    def change_meanwhile(subject: Machine) -> Description:
        packager.describe = describe  # type: ignore[method-assign]
        inventory.set(machine(1, modified=1_800_000_000))
        trio.from_thread.run(tree.entries, VMS)  # another request, which sees the change
        return describe(subject)

    packager.describe = change_meanwhile  # type: ignore[assignment, method-assign]
    node = await machine_file(tree, b"vm1.ova")
    assert node.machine.modified == 1_800_000_000
    assert await tree.node_to_open(node.inode) is node
    (entry,) = await tree.entries(VMS)
    assert entry.node is node


async def test_machine_that_goes_while_it_is_described_is_gone() -> None:
    inventory = MemoryInventory([machine(1)])
    packager = FakePackager()
    tree = make_tree(inventory, packager)
    describe = packager.describe

    def remove_meanwhile(subject: Machine) -> Description:
        inventory.set()
        trio.from_thread.run(tree.entries, VMS)
        return describe(subject)

    packager.describe = remove_meanwhile  # type: ignore[assignment, method-assign]
    with pytest.raises(MachineNotFound):
        await tree.lookup(VMS.inode, b"vm1.ova")


async def test_replaced_generation_is_not_opened_again() -> None:
    inventory = MemoryInventory([machine(1)])
    tree = make_tree(inventory, FakePackager())
    old = await machine_file(tree, b"vm1.ova")
    assert await tree.node_to_open(old.inode) is old
    inventory.set(machine(1, modified=1_800_000_000))
    with pytest.raises(StaleHandle, match="vm1: its definition changed"):
        await tree.node_to_open(old.inode)
    assert await tree.node(old.inode) is old  # a handle may still hold it


async def test_directory_has_a_new_time_when_its_names_change(mock_clock: MockClock) -> None:
    inventory = MemoryInventory([machine(1)])
    tree = make_tree(inventory, FakePackager())
    times = []
    for machines in ([machine(1)], [machine(1), machine(2)], [machine(1, modified=1_800_000_000), machine(2)], []):
        inventory.set(*machines)
        mock_clock.jump(CATALOG_FRESH_SECONDS * 2)
        await tree.look_for_changes(VMS)
        times.append((tree.changed_ns(VMS), tree.changed_ns(TEMPLATES), tree.changed_ns(ROOT)))
    assert times[0] < times[1] == times[2] < times[3]
    assert len({time[1:] for time in times}) == 1


def test_inode_numbers_are_positive_63_bit_and_golden() -> None:
    node = machine_inode("pool", machine(1), "generation")
    assert node == machine_inode("pool", machine(1), "generation")
    assert 1024 <= node < 1 << 63
    # A changed formula would give every NFS client a stale handle after an upgrade.
    assert node == 3993924940403319657
    assert entry_cookie(machine(1).uuid) >= 3
