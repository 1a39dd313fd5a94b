"""Versions of the catalog."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import SourceError
from ovafs.inventory import schema
from ovafs.inventory.pool import Pool, create_pool
from tests.support.definitions import machine, rich_machine

if TYPE_CHECKING:
    from pathlib import Path

NEWEST = len(schema.STEPS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_pool(str(tmp_path / "pool"))
    return tmp_path / "pool"


def pragma(path: Path, statement: str) -> object:
    with closing(sqlite3.connect(path / "catalog.sqlite")) as connection:
        row = connection.execute(f"PRAGMA {statement}").fetchone()
        connection.commit()
    return row and row[0]


def test_a_new_catalog(path: Path) -> None:
    assert pragma(path, "user_version") == NEWEST
    assert pragma(path, "application_id") == int.from_bytes(b"ovaf")
    assert pragma(path, "journal_mode") == "wal"
    assert pragma(path, "integrity_check") == "ok"


def test_durability(path: Path) -> None:
    with closing(Pool(str(path))) as pool, pool._change() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,), "FULL: a commit is on disk when it returns"
        assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)


def test_from_version_0(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog before the first version: the application's mark, and nothing else."""
    for entry in path.glob("catalog*"):
        entry.unlink()
    pragma(path, f"application_id = {schema.APPLICATION_ID}")
    pragma(path, "journal_mode = WAL")
    with pytest.raises(SourceError, match="does not say which pool it belongs to"):
        Pool(str(path))
    assert pragma(path, "user_version") == NEWEST
    with closing(sqlite3.connect(path / "catalog.sqlite")) as connection, connection:
        connection.execute("INSERT INTO pool VALUES (1, 'the-uuid')")
    with closing(Pool(str(path))) as pool:
        pool.add(machine("a"))
        assert pool.source_id == "the-uuid"


@pytest.fixture
def next_version(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    step = ["ALTER TABLE machines ADD COLUMN notes TEXT NOT NULL DEFAULT 'none'", "CREATE TABLE extra (x TEXT) STRICT"]
    monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, step))
    return step


def test_the_next_version_keeps_the_machines(path: Path, next_version: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch, closing(_old(path, patch)) as pool:
        pool.add(rich_machine())
    with closing(Pool(str(path))) as pool:
        assert pool.machines() == [rich_machine()]
    assert pragma(path, "user_version") == NEWEST + 1
    with closing(Pool(str(path))) as pool:
        pool.add(machine("a"))
        assert pool.machines() == [machine("a"), rich_machine()]


def _old(path: Path, patch: pytest.MonkeyPatch) -> Pool:
    patch.setattr(schema, "STEPS", schema.STEPS[:NEWEST])
    return Pool(str(path))


def test_a_step_that_fails_changes_nothing(path: Path, next_version: list[str]) -> None:
    next_version.append("INSERT INTO nowhere VALUES (1)")
    with pytest.raises(SourceError, match="no such table: nowhere"):
        Pool(str(path))
    assert pragma(path, "user_version") == NEWEST
    assert pragma(path, "table_info(extra)") is None
    next_version.pop()
    Pool(str(path)).close()
    assert pragma(path, "user_version") == NEWEST + 1


def test_another_process_migrated_meanwhile(path: Path, next_version: list[str]) -> None:
    with closing(sqlite3.connect(path / "catalog.sqlite", isolation_level=None)) as connection:
        assert not schema.check_version(connection, "catalog")
        Pool(str(path)).close()
        schema.migrate(connection)
        assert schema.check_version(connection, "catalog")


@pytest.mark.parametrize("version", [NEWEST + 1, 1000, -1])
def test_a_newer_version(path: Path, version: int) -> None:
    pragma(path, f"user_version = {version}")
    with pytest.raises(SourceError, match=f"has catalog version {version}, .* versions up to {NEWEST}; upgrade ovafs"):
        Pool(str(path))
    assert pragma(path, "user_version") == version


def test_somebody_elses_database(path: Path) -> None:
    pragma(path, "application_id = 7")
    with pytest.raises(SourceError, match="is an SQLite database, but not the catalog of a pool"):
        Pool(str(path))
