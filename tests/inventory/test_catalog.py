"""The pool as an inventory: what is added is found again, exactly, and everybody sees it."""

from __future__ import annotations

import errno
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from ovafs.errors import CatalogFull, InvalidDefinition, MachineNotFound, NameTaken, SourceError
from ovafs.fuse.errnos import errno_of
from ovafs.inventory import catalog, database
from ovafs.inventory.pool import Pool, create_pool
from ovafs.model import MachineKind
from tests.support.definitions import THEN, disk, machine, nic, number, rich_machine
from tests.support.processes import ENVIRONMENT, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovafs.inventory.inventory import Inventory

TEMPLATE = MachineKind.TEMPLATE


@pytest.fixture
def path(tmp_path: Path) -> str:
    create_pool(str(tmp_path / "pool"))
    return str(tmp_path / "pool")


@pytest.fixture
def pool(path: str) -> Iterator[Pool]:
    with closing(Pool(path)) as opened:
        yield opened


def names(inventory: Inventory) -> list[str]:
    return [found.name for found in inventory.machines()]


def run_python(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", script, *arguments], env=ENVIRONMENT, stdout=subprocess.PIPE)


def test_what_is_added_is_read_back(pool: Pool, path: str) -> None:
    plain = machine("plain", disks=())
    pool.add(plain)
    pool.add(rich_machine())
    with closing(Pool(path)) as other:
        assert other.machines() == pool.machines() == [plain, rich_machine()]
        assert other.snapshot().damaged == []


def test_order(pool: Pool) -> None:
    for name in ("b", "Z", "ä", "a", "a b"):
        pool.add(machine(name))
        pool.add(machine(name, kind=TEMPLATE, disks=()))
    in_order = ["Z", "a", "a b", "b", "ä"]
    assert names(pool) == in_order * 2
    assert [found.kind for found in pool.machines()] == ["vm"] * 5 + ["template"] * 5


def test_many_disks_and_nics_keep_their_order(pool: Pool) -> None:
    big = machine(
        "big",
        disks=tuple(disk("big", position) for position in range(64)),
        nics=tuple(nic("big", position, f"52:54:00:00:00:{63 - position:02x}") for position in range(64)),
    )
    pool.add(big)
    assert pool.machines() == [big]


def test_ten_thousand_machines(pool: Pool) -> None:
    machines = [
        machine(
            f"vm{index:05}",
            disks=(disk(f"vm{index:05}", 0), disk(f"vm{index:05}", 1)),
            nics=(nic(f"vm{index:05}", 0, f"52:54:00:00:{index >> 8:02x}:{index & 255:02x}"),),
        )
        for index in range(10_000)
    ]
    with pool._change() as connection:
        for one in machines:
            catalog._insert(connection, one)
    statements: list[str] = []
    pool._reader._connection.set_trace_callback(statements.append)  # type: ignore[attr-defined]
    assert pool.machines() == machines
    assert len(statements) == 6, "begin, machines, disks, NICs, states, commit: no query for each machine"


def test_find(pool: Pool) -> None:
    vm, template, other = machine("a"), machine("a", kind=TEMPLATE, disks=()), machine("b", kind=TEMPLATE)
    for one in (vm, template, other):
        pool.add(one)
    assert pool.find("b") == pool.find(other.uuid) == pool.find(other.uuid.upper()) == other
    assert pool.find("a", TEMPLATE) == pool.find(template.uuid) == template
    assert pool.find("a", MachineKind.VM) == vm
    with pytest.raises(InvalidDefinition) as caught:
        pool.find("a")
    assert str(caught.value) == (
        f"'a' means the vm {vm.uuid} and the template {template.uuid}; say which by its UUID (or --template)"
    )


@pytest.mark.parametrize("name", ["", "A", "a%", "\udcff", "a\0", "' OR 1=1 --"])
def test_find_nothing(pool: Pool, name: str) -> None:
    pool.add(machine("a"))
    with pytest.raises(MachineNotFound, match="there is no machine"):
        pool.find(name)
    with pytest.raises(MachineNotFound, match="there is no template 'a'"):
        pool.find("a", TEMPLATE)


def test_a_name_is_unique_within_its_kind(pool: Pool) -> None:
    pool.add(machine("a"))
    with pytest.raises(NameTaken, match="there is a vm 'a' already"):
        pool.add(machine("a", uuid=number("other"), disks=()))
    assert pool.machines() == [machine("a")]


def test_a_mac_address_is_unique(pool: Pool) -> None:
    mac = "52:54:00:00:00:01"
    pool.add(machine("a", nics=(nic("a", 0, mac),)))
    with pytest.raises(InvalidDefinition, match="the MAC address 52:54:00:00:00:01 is used by 'a' already"):
        pool.add(machine("b", nics=(nic("b", 0, mac),)))
    assert names(pool) == ["a"]
    assert pool.macs() == {mac}


def test_a_uuid_is_unique(pool: Pool) -> None:
    pool.add(machine("a"))
    with pytest.raises(InvalidDefinition, match=r"'b' cannot be added: UNIQUE constraint failed: volumes\.uuid"):
        pool.add(machine("b", disks=(disk("b", 0), disk("a", 0))))
    assert names(pool) == ["a"]


def test_a_broken_rule_is_refused(pool: Pool) -> None:
    with pytest.raises(InvalidDefinition, match=r"the name 'a\\n' contains the character U\+000A"):
        pool.add(machine("a\n"))
    assert names(pool) == []


def test_remove_keeps_images(pool: Pool, path: str) -> None:
    removed = rich_machine()
    pool.add(machine("stays"))
    pool.add(removed)
    assert pool.users_of("/images/stays-0") == ["stays"]
    result = pool.remove(removed.name)
    assert (result.uuid, result.name, result.kind) == (removed.uuid, removed.name, "template")
    assert result.images == [one.volume.path for one in removed.disks]
    assert names(pool) == ["stays"]
    with closing(sqlite3.connect(f"{path}/catalog.sqlite")) as connection:
        counts = "SELECT (SELECT count(*) FROM volumes), (SELECT count(*) FROM disks), (SELECT count(*) FROM nics)"
        rest = connection.execute(counts).fetchone()
    assert rest == (1, 1, 0)
    pool.add(removed)
    assert names(pool) == ["stays", removed.name]


def test_remove_of_two_kinds(pool: Pool) -> None:
    pool.add(machine("a"))
    pool.add(machine("a", kind=TEMPLATE, disks=()))
    with pytest.raises(InvalidDefinition, match="say which"):
        pool.remove("a")
    assert pool.remove("a", TEMPLATE).kind == "template"
    assert pool.remove("a").kind == "vm"
    with pytest.raises(MachineNotFound):
        pool.remove("a")


def test_replace(pool: Pool) -> None:
    pool.add(machine("a"))
    changed = msgspec.structs.replace(machine("a"), name="b", created=5, modified=THEN - 100, disks=())
    stored = pool.replace(changed)
    assert stored == msgspec.structs.replace(changed, created=THEN, modified=THEN + 1)
    assert pool.machines() == [stored]
    assert pool.replace(msgspec.structs.replace(stored, modified=THEN + 50)).modified == THEN + 50
    pool.add(machine("c"))
    with pytest.raises(NameTaken):
        pool.replace(msgspec.structs.replace(stored, name="c"))
    assert names(pool) == ["b", "c"]
    with pytest.raises(MachineNotFound):
        pool.replace(machine("d"))


def test_revision_changes_with_every_change_of_anybody(pool: Pool, path: str) -> None:
    seen = [pool.revision()]
    assert pool.revision() == seen[0]
    pool.add(machine("mine"))
    seen.append(pool.revision())
    with closing(Pool(path)) as other:
        other.add(machine("yours"))
        seen.append(pool.revision())
        other.remove("yours")
    seen.append(pool.revision())
    assert len(set(seen)) == 4
    pool.machines()
    pool.find("mine")
    assert pool.revision() == seen[-1]


def test_revision_across_processes(pool: Pool, path: str) -> None:
    before = pool.revision()
    script = "import sys; from ovafs.inventory.pool import Pool; from tests.support.definitions import machine; "
    run(sys.executable, "-c", script + "Pool(sys.argv[1]).add(machine('a'))", path)
    assert pool.revision() != before
    assert names(pool) == ["a"]


def test_opening_the_pool_again_keeps_the_locks_of_the_first(pool: Pool, path: str) -> None:
    """POSIX drops all locks of a process on a file when it closes any descriptor of it.

    Without them the other process, when it closes, takes itself for the last one and deletes the -wal file.
    """
    Pool(path).close()
    script = "import sys; from ovafs.inventory.pool import Pool; from tests.support.definitions import machine; "
    run(sys.executable, "-c", script + "p = Pool(sys.argv[1]); p.add(machine('a')); p.close()", path)
    assert Path(path, "catalog.sqlite-wal").exists()
    assert names(pool) == ["a"]


def test_threads(pool: Pool) -> None:
    def work(worker: int) -> None:
        for step in range(20):
            pool.add(machine(f"{worker}-{step}"))
            pool.revision()
            assert f"{worker}-{step}" in names(pool)

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(work, range(4)))
    assert len(pool.machines()) == 80


def test_two_processes_add_at_the_same_time(pool: Pool, path: str) -> None:
    script = """
import sys
from ovafs.inventory.pool import Pool
from tests.support.definitions import machine
pool = Pool(sys.argv[1])
for step in range(50):
    pool.add(machine(f"{sys.argv[2]}-{step}"))
pool.close()
"""
    processes = [run_python(script, path, worker) for worker in "ab"]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert sorted(names(pool)) == sorted(f"{worker}-{step}" for worker in "ab" for step in range(50))


# The process is killed when SQLite begins statement number argv[2]; "done" says that the change had ended before.
KILLED = """
import os, signal, sys
import msgspec
from ovafs.inventory.pool import Pool
from tests.support.definitions import disk, machine, nic
pool = Pool(sys.argv[1])
count = 0
def trace(statement):
    global count
    count += 1
    if count == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
new = machine("a", disks=(disk("a", 0), disk("a", 1)), nics=(nic("a", 0, "52:54:00:00:00:01"),))
connect = pool._connect_writer
def traced():
    connection = connect()
    connection.set_trace_callback(trace)
    return connection
pool._connect_writer = traced
if sys.argv[3] == "add":
    pool.add(new)
else:
    pool.replace(msgspec.structs.replace(machine("old"), name="new"))
print("done", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("change", ["add", "replace"])
def test_kill_in_the_middle_of_a_change(tmp_path: Path, change: str) -> None:
    old = machine("old")
    outcomes = set()
    for statement in range(1, 40):
        path = str(tmp_path / str(statement))
        create_pool(path)
        with closing(Pool(path)) as pool:
            pool.add(old)
        process = run_python(KILLED, path, str(statement), change)
        output, _ = process.communicate()
        assert process.returncode == -9
        with closing(Pool(path)) as pool:
            found = names(pool)
        with closing(sqlite3.connect(f"{path}/catalog.sqlite")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        outcomes.add(tuple(found))
        if output == b"done\n":
            assert found == (["a", "old"] if change == "add" else ["new"])
            break
        assert found == ["old"], f"killed at statement {statement}"
    else:
        pytest.fail("the change never ended")
    assert len(outcomes) == 2


def test_a_writer_that_holds_the_catalog(pool: Pool, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 0.1)
    pool.add(machine("a"))
    with (
        closing(Pool(path)) as impatient,
        closing(sqlite3.connect(f"{path}/catalog.sqlite", isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        assert names(impatient) == ["a"], "readers do not wait for writers"
        with pytest.raises(SourceError, match=r"is locked by another program .*; wait until it has finished"):
            impatient.add(machine("b"))
        other.execute("ROLLBACK")
        impatient.add(machine("b"))
    assert names(pool) == ["a", "b"]


def test_no_space(pool: Pool) -> None:
    """SQLite's own limit on the size of the file gives the error that a full file system gives."""
    pool.add(machine("a"))
    assert pool._writer is not None
    pool._writer.execute("PRAGMA max_page_count = 1")
    with pytest.raises(SourceError, match="cannot be written: no space left"):
        pool.add(machine("big", description="x" * 60_000))
    assert pool.machines() == [machine("a")]
    pool.remove("a")


def test_close_is_idempotent(path: str) -> None:
    pool = Pool(path)
    pool.add(machine("a"))
    pool.close()
    pool.close()
    assert sorted(entry.name for entry in Path(path).iterdir()) == ["catalog.sqlite", "volumes"]


def test_revision_is_cheap(pool: Pool) -> None:
    """Not a timing test: it would notice a revision that reads the machines."""
    statements: list[str] = []
    pool._reader._connection.set_trace_callback(statements.append)  # type: ignore[attr-defined]
    pool.revision()
    assert statements == ["PRAGMA data_version"]


def test_a_full_file_system_is_said_to_be_full(tmp_path: Path) -> None:
    create_pool(str(tmp_path / "pool"))
    with closing(Pool(str(tmp_path / "pool"))) as pool:
        pool.add(machine("first"))
        assert pool._writer is not None
        pool._writer.execute("PRAGMA max_page_count = 1")
        with pytest.raises(CatalogFull, match="no space left") as caught:
            pool.add(machine("second", description="x" * 60_000))
        assert errno_of(caught.value) == errno.ENOSPC
        assert [one.name for one in pool.machines()] == ["first"]
