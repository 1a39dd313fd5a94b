"""Storage that hangs: its machines fail in time, every other one goes on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, cast

import pytest
import trio

from ovafs.errors import ReadFailed
from ovafs.vfs.handles import Handles
from ovafs.vfs.nodes import MachineFile
from ovafs.vfs.threads import Threads
from ovafs.vfs.tree import VMS, Tree
from tests.support.fakes import FakePackage, FakePackager, MemoryInventory, machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ovafs.model import Machine
    from ovafs.transfer.description import Description
    from ovafs.transfer.packager import Packager


class HangingPackager(FakePackager):
    """Describes and opens the machines in ``hanging`` only once the storage is back."""

    def __init__(self) -> None:
        super().__init__()
        self.hanging: set[str] = set()
        self.back = threading.Event()
        self.waiting = 0

    def describe(self, machine: Machine) -> Description:
        self._wait(machine)
        return super().describe(machine)

    def open(self, machine: Machine, wanted: Description) -> FakePackage:
        self._wait(machine)
        return super().open(machine, wanted)

    def _wait(self, machine: Machine) -> None:
        if machine.name in self.hanging:
            self.waiting += 1
            self.back.wait()


@pytest.fixture
def storage(expect_log: Callable[[str], None]) -> Iterator[HangingPackager]:
    expect_log("the storage does not answer")
    made = HangingPackager()
    try:
        yield made
    finally:
        made.back.set()


def make_tree(storage: HangingPackager, count: int) -> Tree:
    tree = Tree(MemoryInventory([machine(number) for number in range(1, count + 1)]), cast("Packager", storage))
    tree.threads.seconds = 0.2
    return tree


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - threads end in their own time
            await trio.sleep(0.01)


async def test_a_machine_whose_storage_hangs_holds_one_thread_and_nobody_else(storage: HangingPackager) -> None:
    tree = make_tree(storage, 2)
    storage.hanging.add("vm1")
    for _ in range(60):  # more than the threads that trio gives to all
        with pytest.raises(ReadFailed, match="vm1: the storage does not answer"):
            await tree.lookup(VMS.inode, b"vm1.ova")
    assert storage.waiting == 1
    assert isinstance(await tree.lookup(VMS.inode, b"vm2.ova"), MachineFile)


async def test_a_listing_of_many_machines_on_storage_that_hangs_ends(storage: HangingPackager) -> None:
    tree = make_tree(storage, 100)
    storage.hanging.update(f"vm{number}" for number in range(1, 100))
    with trio.fail_after(20):
        entries = await tree.entries(VMS)
    assert len(entries) == 100
    assert all(entry.error for entry in entries if entry.machine.name != "vm100")
    await until(lambda: not tree.threads.is_hanging(machine(100).uuid))
    assert isinstance(await tree.lookup(VMS.inode, b"vm100.ova"), MachineFile)


async def test_storage_that_is_back_is_used_again(storage: HangingPackager) -> None:
    tree = make_tree(storage, 1)
    storage.hanging.add("vm1")
    with pytest.raises(ReadFailed):
        await tree.lookup(VMS.inode, b"vm1.ova")
    storage.back.set()
    await until(lambda: not tree.threads.is_hanging(machine(1).uuid))
    assert isinstance(await tree.lookup(VMS.inode, b"vm1.ova"), MachineFile)


async def test_opens_that_hang(storage: HangingPackager) -> None:
    tree = make_tree(storage, 1)
    handles = Handles(tree, cast("Packager", storage))
    node = await tree.lookup(VMS.inode, b"vm1.ova")
    assert isinstance(node, MachineFile)
    storage.hanging.add("vm1")
    for _ in range(3):
        with pytest.raises(ReadFailed, match="vm1: the storage does not answer"):
            await handles.open(node)
    assert storage.waiting == 1
    storage.back.set()
    await until(lambda: not tree.threads.is_hanging(node.machine.uuid))
    assert not any(package.is_open for package in storage.opened), "what was opened too late is closed"


async def test_what_a_call_raises() -> None:
    def fail() -> None:
        raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"):
        await Threads().answer("key", "name", fail)
