"""Handles: one pinned package for all handles of a generation, released with the last."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

import pytest
import trio

from ovafs.errors import StaleHandle, VolumeBusy, VolumeChanged
from ovafs.vfs import handles as handles_module
from ovafs.vfs import tree as tree_module
from ovafs.vfs.handles import Handles
from ovafs.vfs.nodes import MachineFile
from ovafs.vfs.tree import VMS, Tree
from tests.support.fakes import FakePackager, MemoryInventory, machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovafs.transfer.packager import Packager


async def start() -> tuple[Tree, Handles, FakePackager, MachineFile]:
    packager = FakePackager()
    tree = Tree(MemoryInventory([machine(1)]), cast("Packager", packager))
    handles = Handles(tree, cast("Packager", packager))
    node = await tree.lookup(VMS.inode, b"vm1.ova")
    assert isinstance(node, MachineFile)
    return tree, handles, packager, node


async def read(handles: Handles, handle: int, offset: int, size: int) -> bytes:
    buffer = bytearray(b"\xff" * size)
    length = await handles.read_into(handle, offset, memoryview(buffer))
    return bytes(buffer[:length])


async def test_handles_share_a_package_until_the_last_is_released() -> None:
    _, handles, packager, node = await start()
    opened: list[int] = []

    async def open_one() -> None:
        opened.append(await handles.open(node))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(open_one)
    assert len(set(opened)) == 8
    (package,) = packager.opened
    for handle in opened[:-1]:
        handles.release(handle)
    assert package.is_open
    assert await read(handles, opened[-1], 3, 10) == package.content[3:13]
    handles.release(opened[-1])
    await package.closed()


async def test_reads_are_cut_at_the_end_only() -> None:
    _, handles, packager, node = await start()
    handle = await handles.open(node)
    content = packager.opened[0].content
    assert await read(handles, handle, 9_990, 100) == content[9_990:]
    assert await read(handles, handle, 10_000, 100) == b""


async def test_open_of_a_stale_generation_makes_the_tree_look_again() -> None:
    tree, handles, packager, node = await start()
    packager.salt["vm1"] = 7
    with pytest.raises(StaleHandle):
        await handles.open(node)
    found = await tree.lookup(VMS.inode, b"vm1.ova")
    assert isinstance(found, MachineFile)
    assert found.inode != node.inode
    handle = await handles.open(found)
    handles.release(handle)
    assert len(packager.opened) == 1
    await packager.opened[0].closed()


async def test_an_open_handle_keeps_its_generation() -> None:
    _, handles, packager, node = await start()
    handle = await handles.open(node)
    packager.salt["vm1"] = 7
    assert await read(handles, handle, 0, 10) == packager.opened[0].content[:10]


async def test_a_machine_that_cannot_be_opened_is_logged_and_shows_it(
    caplog: pytest.LogCaptureFixture, expect_log: Callable[[str], None]
) -> None:
    expect_log("WARNING ovafs.vfs.tree: vm1: /images/a.raw: another process writes to it; shut the machine down")
    tree, handles, packager, node = await start()
    packager.failures["vm1"] = VolumeBusy("/images/a.raw", "another process writes to it")
    for _ in range(2):
        with pytest.raises(VolumeBusy):
            await handles.open(node)
        with pytest.raises(VolumeBusy):
            await tree.lookup(VMS.inode, b"vm1.ova")
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


async def test_a_held_generation_whose_images_changed_is_no_use_to_a_new_handle() -> None:
    tree, handles, packager, node = await start()
    handle = await handles.open(node)
    packager.opened[0].failure = VolumeChanged("/images/a.raw", "changed")
    packager.salt["vm1"] = 7
    with pytest.raises(StaleHandle, match=r"vm1: /images/a.raw: changed"):
        await handles.open(node)
    found = await tree.lookup(VMS.inode, b"vm1.ova")
    assert isinstance(found, MachineFile)
    assert found.inode != node.inode
    handles.release(await handles.open(found))
    assert packager.opened[0].is_open  # for the first handle
    handles.release(handle)
    await packager.opened[0].closed()


async def test_a_failing_read_is_logged_once_with_machine_offset_and_place(
    caplog: pytest.LogCaptureFixture, expect_log: Callable[[str], None]
) -> None:
    expect_log("vm1: read at 512")
    _, handles, packager, node = await start()
    handle = await handles.open(node)
    packager.opened[0].failure = VolumeChanged("/images/a.raw", "changed")
    for _ in range(3):
        with pytest.raises(VolumeChanged):
            await read(handles, handle, 512, 10)
    messages = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert len(messages) == 1
    assert messages[0].startswith("vm1: read at 512 (content): /images/a.raw: changed")


async def test_close_releases_everything() -> None:
    _, handles, packager, node = await start()
    await handles.open(node)
    await handles.open(node)
    handles.close()
    assert not packager.opened[0].is_open


async def start_running(
    monkeypatch: pytest.MonkeyPatch, backup_age: float = 3600.0
) -> tuple[Tree, Handles, FakePackager, MachineFile]:
    """A machine that runs: whenever it is looked at it has changed."""
    monkeypatch.setattr(tree_module, "FRESH_SECONDS", 0)
    packager = FakePackager()
    packager.announced = (10_000,)
    tree = Tree(MemoryInventory([machine(1)]), cast("Packager", packager))
    node = await tree.lookup(VMS.inode, b"vm1.ova")
    assert isinstance(node, MachineFile)
    return tree, Handles(tree, cast("Packager", packager), backup_age), packager, node


async def test_the_name_of_a_running_machine_stands_for_its_backup_while_it_is_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handles_module, "GRACE_SECONDS", 1.0)
    tree, handles, packager, node = await start_running(monkeypatch)
    first = await handles.open(node)
    packager.salt["vm1"] = 7
    assert await tree.lookup(VMS.inode, b"vm1.ova") is node
    second = await handles.open(node)
    assert [(file.readers, file.backup) for file in handles.opened()] == [(2, packager.opened[0].backup)]
    handles.release(first)
    handles.release(second)
    third = await handles.open(node)
    await trio.sleep(1.2)
    assert packager.opened[0].is_open, "somebody came within the time of grace"
    handles.release(third)
    await packager.opened[0].closed()
    assert len(packager.opened) == 1
    assert handles.opened() == []
    found = await tree.lookup(VMS.inode, b"vm1.ova")
    assert isinstance(found, MachineFile)
    assert found.inode != node.inode


async def test_a_backup_that_has_failed_is_no_longer_what_the_name_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tree, handles, packager, node = await start_running(monkeypatch)
    handle = await handles.open(node)
    packager.salt["vm1"] = 7
    backup = packager.opened[0].backup
    assert backup is not None
    backup.failure = "the machine was stopped"
    found = await tree.lookup(VMS.inode, b"vm1.ova")
    assert isinstance(found, MachineFile)
    assert found.inode != node.inode
    handles.release(handle)
    await packager.opened[0].closed()


async def test_a_backup_that_cannot_begin_holds_nothing(
    monkeypatch: pytest.MonkeyPatch, expect_log: Callable[[str], None]
) -> None:
    expect_log("vm1: vm1: libvirt works on this domain")
    tree, handles, packager, node = await start_running(monkeypatch)
    packager.failures["vm1"] = VolumeBusy("vm1", "libvirt works on this domain")
    with pytest.raises(VolumeBusy):
        await handles.open(node)
    assert not node.is_held
    del packager.failures["vm1"]
    found = await tree.lookup(VMS.inode, b"vm1.ova")
    assert isinstance(found, MachineFile)
    handles.release(await handles.open(found))
    handles.close()
    assert not packager.opened[0].is_open


async def test_who_comes_late_waits_for_a_new_backup(monkeypatch: pytest.MonkeyPatch) -> None:
    tree, handles, packager, node = await start_running(monkeypatch, backup_age=0.0)
    first = await handles.open(node)
    packager.salt["vm1"] = 7
    newer = await tree.lookup(VMS.inode, b"vm1.ova")
    assert isinstance(newer, MachineFile)
    assert newer.inode != node.inode
    opened: list[int] = []

    async def open_newer() -> None:
        opened.append(await handles.open(newer))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_newer)
        await trio.sleep(0.2)
        assert len(packager.opened) == 1, "there is one backup of a machine at a time"
        assert await read(handles, first, 0, 10) == packager.opened[0].content[:10]
        handles.release(first)
    assert not packager.opened[0].is_open
    assert await read(handles, opened[0], 0, 10) == packager.opened[1].content[:10]
    handles.close()


async def test_an_older_backup_that_does_not_end(
    monkeypatch: pytest.MonkeyPatch, expect_log: Callable[[str], None]
) -> None:
    expect_log("vm1: vm1: somebody still reads an older backup of it; wait for the end, 'ovafs status' tells")
    monkeypatch.setattr(handles_module, "WAIT_SECONDS", 0.1)
    tree, handles, packager, node = await start_running(monkeypatch, backup_age=0.0)
    first = await handles.open(node)
    packager.salt["vm1"] = 7
    newer = await tree.lookup(VMS.inode, b"vm1.ova")
    assert isinstance(newer, MachineFile)
    with pytest.raises(VolumeBusy, match="somebody still reads an older backup of it"):
        await handles.open(newer)
    assert await read(handles, first, 0, 10) == packager.opened[0].content[:10]
    handles.release(first)
    await packager.opened[0].closed()
    later = await tree.lookup(VMS.inode, b"vm1.ova")
    assert isinstance(later, MachineFile)
    handles.release(await handles.open(later))
    handles.close()
