"""Catalogs that somebody edited, damaged or made on purpose: each bad machine harms itself alone."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import InvalidDefinition, OvafsError, SourceError
from ovafs.inventory.pool import Pool, create_pool
from tests.support.definitions import disk, machine, nic

if TYPE_CHECKING:
    from pathlib import Path

GOOD = [machine("a", nics=(nic("a", 0, "52:54:00:00:00:0a"),)), machine("z")]
BAD = machine("bad", disks=(disk("bad", 0), disk("bad", 1)), nics=(nic("bad", 0, "52:54:00:00:00:0b"),))


@pytest.fixture
def path(tmp_path: Path) -> str:
    create_pool(str(tmp_path / "pool"))
    with closing(Pool(str(tmp_path / "pool"))) as pool:
        for one in (*GOOD, BAD):
            pool.add(one)
    return str(tmp_path / "pool")


def edit(path: str, *statements: str) -> None:
    with closing(sqlite3.connect(f"{path}/catalog.sqlite")) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        for statement in statements:
            connection.execute(statement)


def set_machine(assignment: str) -> str:
    return f"UPDATE machines SET {assignment} WHERE name = 'bad'"  # noqa: S608


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (set_machine("uuid = 'x'"), "'x' is not a UUID"),
        (set_machine("uuid = upper(uuid)"), "is not a UUID in lower-case canonical form"),
        (set_machine("kind = 'domain'"), "Invalid enum value 'domain' - at `$.kind`"),
        (set_machine("firmware = ''"), "Invalid enum value '' - at `$.firmware`"),
        (set_machine("os = ''"), "the operating system is empty"),
        (set_machine("memory = 0"), "memory of 0 bytes cannot be"),
        (set_machine("memory = 1048577"), "memory of 1048577 bytes cannot be"),
        (set_machine("memory = -1048576"), "memory of -1048576 bytes cannot be"),
        (set_machine("memory = 9223372036853727232"), "memory of 9223372036853727232 bytes cannot be"),
        (set_machine("sockets = 0"), "0 sockets, 1 cores, 1 threads cannot be"),
        (set_machine("cores = 100000"), "1 sockets, 100000 cores, 1 threads cannot be"),
        (set_machine("threads = -1"), "1 sockets, 1 cores, -1 threads cannot be"),
        (set_machine("created = -1"), "the times -1 (created)"),
        (set_machine("modified = 1"), "1 (modified) cannot be"),
        (set_machine("modified = 1 << 62"), "(modified) cannot be"),
        (set_machine("description = char(27) || '[2J'"), "the description contains the character U+001B"),
        (set_machine("description = printf('%.*c', 70000, 'x')"), "the description is longer than 65536 characters"),
        (set_machine("description = CAST(x'61ff' AS TEXT)"), "the description contains the byte 0xff"),
        ("UPDATE volumes SET path = '../x' WHERE path = '/images/bad-1'", "'../x' is not an absolute path"),
        ("UPDATE volumes SET path = '/x' || char(10) WHERE path = '/images/bad-1'", "contains the character U+000A"),
        ("UPDATE volumes SET path = CAST(x'2fff' AS TEXT) WHERE path = '/images/bad-0'", "contains the byte 0xff"),
        ("UPDATE volumes SET format = 'dmg' WHERE path = '/images/bad-1'", "Invalid enum value 'dmg'"),
        ("DELETE FROM volumes WHERE path = '/images/bad-1'", "Expected `str`, got `null`"),
        ("UPDATE disks SET boot = 2 WHERE alias = 'bad_Disk2'", "Expected `bool`, got `int`"),
        ("UPDATE disks SET interface = 'floppy' WHERE alias = 'bad_Disk2'", "Invalid enum value 'floppy'"),
        ("UPDATE disks SET uuid = '' WHERE alias = 'bad_Disk2'", "'' is not a disk UUID"),
        ("UPDATE volumes SET uuid = '../../x' WHERE path = '/images/bad-1'", "'../../x' is not a volume UUID"),
        ("UPDATE volumes SET path = '/images/bad-0' WHERE path = '/images/bad-1'", "is used twice in this machine"),
        ("UPDATE nics SET mac = 'x' WHERE mac LIKE '%b'", "'x' is not a MAC address"),
        ("UPDATE nics SET mac = '01:00:5e:00:00:01' WHERE mac LIKE '%b'", "is a multicast address"),
        ("UPDATE nics SET model = 'ne2k' WHERE mac LIKE '%b'", "Invalid enum value 'ne2k'"),
        ("UPDATE nics SET network = char(0) WHERE mac LIKE '%b'", "the network '\\x00' contains the character U+0000"),
    ],
)
def test_one_bad_value(path: str, statement: str, reason: str) -> None:
    edit(path, statement)
    with closing(Pool(path)) as pool:
        machines, damaged = pool.snapshot()
        assert machines == GOOD
        assert [one.name for one in damaged] == ["bad"]
        assert reason in damaged[0].reason
        with pytest.raises(InvalidDefinition, match="bad is damaged in the catalog"):
            pool.find("bad")
        assert pool.find("a") == GOOD[0]
        assert pool.remove("bad").name == "bad"
        assert pool.snapshot() == (GOOD, [])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("''", ""),
        ("'   '", "   "),
        ("'x' || char(10) || 'y'", "x\\ny"),
        ("char(27) || '[31mred'", "\\x1b[31mred"),
        ("CAST(x'c328' AS TEXT)", "\\udcc3("),
        ("printf('%.*c', 1000, 'n')", "n" * 255),
        ("char(65535)", "\\uffff"),
    ],
)
def test_bad_names_are_shown_safely_and_removed_by_uuid(path: str, value: str, shown: str) -> None:
    edit(path, set_machine(f"name = {value}"))
    with closing(Pool(path)) as pool:
        machines, damaged = pool.snapshot()
        assert machines == GOOD
        assert [one.name for one in damaged] == [shown]
        assert pool.remove(BAD.uuid).name == shown
        assert pool.snapshot() == (GOOD, [])


def test_another_schema_with_the_same_names(path: str) -> None:
    """Columns without types, so that anything can stand in them, and rows that belong to nobody."""
    columns = "id, uuid, kind, name, description, memory, sockets, cores, threads, firmware, os, created, modified"
    edit(
        path,
        "PRAGMA foreign_keys = OFF",
        f"CREATE TABLE loose ({columns})",
        f"INSERT INTO loose SELECT {columns} FROM machines",  # noqa: S608
        "DROP TABLE machines",
        "ALTER TABLE loose RENAME TO machines",
        "INSERT INTO machines (id, name) VALUES (NULL, x'00ff'), ('x', 7), (1e300, NULL)",
        "UPDATE machines SET memory = '1 GiB' WHERE name = 'bad'",
    )
    with closing(Pool(path)) as pool:
        machines, damaged = pool.snapshot()
    assert machines == GOOD
    assert sorted(one.name for one in damaged) == ["7", "None", "b'\\x00\\xff'", "bad"]


def test_missing_tables(path: str) -> None:
    edit(path, "DROP TABLE nics")
    with closing(Pool(path)) as pool, pytest.raises(SourceError, match="does not have the tables of a catalog"):
        pool.machines()
    edit(path, "DROP TABLE pool")
    with pytest.raises(SourceError, match="does not have the tables of a catalog"):
        Pool(path)


@pytest.mark.parametrize("content", [b"", b"SQLite format 3", b"SQLite format 3\0" + bytes(84), b"x" * 5000])
def test_no_database(path: str, content: bytes) -> None:
    with open(f"{path}/catalog.sqlite", "wb") as file:
        file.write(content)
    with pytest.raises(SourceError, match=r"is not an SQLite database|is damaged|but not the catalog of a pool"):
        Pool(path)


def test_truncated(path: str) -> None:
    with open(f"{path}/catalog.sqlite", "r+b") as file:
        file.truncate(8192)
    with pytest.raises(SourceError, match=r"catalog\.sqlite is damaged .*; restore it from a backup"):
        _read(path)


def test_random_damage(path: str) -> None:
    """Whatever bytes are changed: machines as they were, machines reported as damaged, or an error in words.

    What remains is a change within a value to another valid value, which nothing can notice.
    """
    with open(f"{path}/catalog.sqlite", "rb") as file:
        sound = file.read()
    generator = random.Random(1)
    outcomes = set()
    for _ in range(150):
        broken = bytearray(sound)
        for _ in range(generator.choice((1, 10, 300))):
            broken[generator.randrange(len(broken))] = generator.randrange(256)
        with open(f"{path}/catalog.sqlite", "wb") as file:
            file.write(broken)
        try:
            outcomes.add("read" if _read(path) == [*GOOD[:1], BAD, *GOOD[1:]] else "different")
        except OvafsError as error:
            outcomes.add(type(error).__name__)
    assert outcomes <= {"read", "different", "SourceError"}
    assert {"read", "SourceError"} <= outcomes


def _read(path: str) -> object:
    with closing(Pool(path)) as pool:
        return pool.machines()
