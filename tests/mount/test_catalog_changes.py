"""Machines that another process adds, changes and removes show up in a mount that stays."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from ovafs.model import MachineKind
from tests.support.mount import mounted
from tests.support.pools import MIB, chain_image, eventually, pool_builder, raw_image
from tests.support.processes import ovafs, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.mount import Mount
    from tests.support.pools import PoolBuilder


class World(NamedTuple):
    pool: PoolBuilder
    mount: Mount

    @property
    def vms(self) -> Path:
        return self.mount.path / "vms"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("changes")
    with pool_builder(folder) as pool, mounted(pool.path, folder) as mount:
        yield World(pool, mount)


def disk(world: World, name: str, *, seed: int = 1) -> None:
    world.pool.add(name, raw_image(world.pool.images / f"{name}.raw", seed=seed))


def ovf(file: Path) -> str:
    return run("tar", "-xOf", file, "vm.ovf").stdout


def test_listings_follow_the_catalog_at_once(world: World) -> None:
    before = set(os.listdir(world.vms))
    disk(world, "listed")
    assert set(os.listdir(world.vms)) == {*before, "listed.ova"}
    world.pool.add("listed", kind="template")
    assert "listed.ova" in os.listdir(world.mount.path / "templates")
    world.pool.pool.remove("listed", MachineKind.VM)
    assert set(os.listdir(world.vms)) == before
    assert "listed.ova" in os.listdir(world.mount.path / "templates")


def test_commands_of_other_processes_show_too(world: World, tmp_path: Path) -> None:
    image = chain_image(world.pool.images, "cli")
    ovafs("vm", "add", world.pool.path, "by command", "--disk", image.path, "--memory", "2GiB")
    file = world.vms / "by command.ova"
    assert file.name in os.listdir(world.vms)
    run("cp", file, tmp_path)
    world.pool.disks["by command"] = [image]
    world.pool.judge("by command", tmp_path / file.name)
    ovafs("vm", "remove", world.pool.path, "by command")
    assert file.name not in os.listdir(world.vms)


def test_a_name_that_was_looked_up_before_it_existed_appears(world: World) -> None:
    file = world.vms / "late.ova"
    assert not file.exists()
    disk(world, "late")
    eventually(file.exists, "the new machine can be found by name")


def test_a_removed_machine_cannot_be_opened_any_more(world: World) -> None:
    disk(world, "removed")
    file = world.vms / "removed.ova"
    assert file.read_bytes()
    world.pool.pool.remove("removed")
    with pytest.raises(FileNotFoundError):
        file.read_bytes()
    eventually(lambda: not file.exists(), "the name goes too")


def test_a_changed_definition_is_a_new_file_at_the_next_open(world: World) -> None:
    disk(world, "redescribed")
    file = world.vms / "redescribed.ova"
    before, content = file.stat(), file.read_bytes()
    world.pool.change("redescribed", description="quite another machine & <more>")
    with file.open("rb") as stream:
        assert b"quite another machine &amp; &lt;more" in stream.read(65536)
        after = os.fstat(stream.fileno())
    assert after.st_ino != before.st_ino
    assert after.st_mtime > before.st_mtime or after.st_size != before.st_size
    assert file.read_bytes() != content
    world.pool.judge("redescribed", file)


def test_each_of_many_changes_is_seen_by_the_next_open(world: World) -> None:
    disk(world, "many")
    file = world.vms / "many.ova"
    inodes = {file.stat().st_ino}
    for number in range(20):
        world.pool.change("many", description=f"revision {number}.")
        assert f"revision {number}." in ovf(file)
        inodes.add(file.stat().st_ino)
    assert len(inodes) == 21


def test_a_definition_that_comes_back_has_its_old_content_back_but_for_the_time(world: World) -> None:
    machine = world.pool.add("back", raw_image(world.pool.images / "back.raw"))
    file = world.vms / "back.ova"
    before = file.stat().st_ino, file.read_bytes()
    world.pool.pool.remove("back")
    eventually(lambda: not file.exists(), "the machine goes")
    world.pool.pool.add(machine)
    eventually(file.exists, "the machine comes back")
    assert (file.stat().st_ino, file.read_bytes()) == before


def test_an_added_disk_shows(world: World) -> None:
    disk(world, "grows")
    other = world.pool.add("donor", raw_image(world.pool.images / "second.raw", 2 * MIB, seed=9))
    world.pool.pool.remove("donor")
    file = world.vms / "grows.ova"
    size = file.stat().st_size
    machine = world.pool.pool.find("grows")
    world.pool.change("grows", disks=(*machine.disks, *other.disks))
    with file.open("rb") as stream:
        assert os.fstat(stream.fileno()).st_size > size + MIB
    world.pool.disks["grows"] += world.pool.disks["donor"]
    world.pool.judge("grows", file)


def test_a_rename_moves_the_file(world: World) -> None:
    disk(world, "old name")
    assert (world.vms / "old name.ova").stat()
    world.pool.change("old name", name="new name")
    names = os.listdir(world.vms)
    assert "new name.ova" in names
    assert "old name.ova" not in names
    eventually(lambda: not (world.vms / "old name.ova").exists(), "the old name goes")
    assert "<Name>new name</Name>" in re.sub(r"\s*(?=<)", "", ovf(world.vms / "new name.ova"))


def test_a_folder_has_a_new_time_when_names_come_and_go(world: World) -> None:
    """NFS clients and many tools look at nothing else to see whether a listing is still good."""
    templates = world.mount.path / "templates"
    times = [(world.vms.stat().st_mtime_ns, templates.stat().st_mtime_ns)]
    for change in (lambda: disk(world, "comes and goes"), lambda: world.pool.pool.remove("comes and goes")):
        change()
        eventually(lambda: world.vms.stat().st_mtime_ns > times[-1][0], "the folder's time changes")
        times.append((world.vms.stat().st_mtime_ns, templates.stat().st_mtime_ns))
    assert len({time for _, time in times}) == 1


def test_rsync_copies_what_changed_and_deletes_what_went(world: World, tmp_path: Path) -> None:
    for name in ("stays", "changes", "goes"):
        disk(world, name)
    mirror = tmp_path / "mirror"

    def sync() -> set[str]:
        only = [f"--include={name}.ova" for name in ("stays", "changes", "goes", "comes")]
        command = ["rsync", "-a", "--delete", "--out-format=%i %n", *only, "--exclude=*", f"{world.vms}/", str(mirror)]
        lines = run(*command).stdout.splitlines()
        return {line.split(" ", 1)[1] for line in lines if line.startswith((">f", "*deleting"))}

    assert {name.strip() for name in sync()} == {"stays.ova", "changes.ova", "goes.ova"}
    # By default rsync compares whole seconds.
    world.pool.change("changes", description="changed", modified=int((world.vms / "changes.ova").stat().st_mtime) + 1)
    world.pool.pool.remove("goes")
    disk(world, "comes")
    assert {name.strip() for name in sync()} == {"changes.ova", "goes.ova", "comes.ova"}
    for name in ("stays", "changes", "comes"):
        world.pool.judge(name, mirror / f"{name}.ova")


def test_a_damaged_row_of_the_catalog_harms_its_machine_only(world: World) -> None:
    disk(world, "damaged")
    disk(world, "sound")
    damage = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2]); c.commit()"
    change = "UPDATE machines SET firmware = 'abacus' WHERE name = 'damaged'"
    run(sys.executable, "-c", damage, world.pool.path / "catalog.sqlite", change)
    world.mount.expect_log("WARNING damaged: .*'abacus'")
    assert "sound.ova" in os.listdir(world.vms)
    assert (world.vms / "sound.ova").read_bytes()
