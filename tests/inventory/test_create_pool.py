"""Making pools, and opening what is none."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import uuid
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import SourceError
from ovafs.inventory import pool as pool_module
from ovafs.inventory.pool import Pool, create_pool
from ovafs.inventory.source import open_inventory
from tests.support.definitions import machine
from tests.support.processes import ENVIRONMENT

if TYPE_CHECKING:
    from pathlib import Path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_pool(tmp_path: Path) -> None:
    path = tmp_path / "pool"
    pool_uuid = create_pool(str(path))
    assert str(uuid.UUID(pool_uuid)) == pool_uuid
    assert sorted(entry.name for entry in path.iterdir()) == ["catalog.sqlite", "volumes"]
    assert (mode(path), mode(path / "volumes"), mode(path / "catalog.sqlite")) == (0o700, 0o700, 0o600)
    with closing(open_inventory(str(path))) as inventory:
        assert inventory.source_id == pool_uuid
        assert inventory.statvfs_path == str(path)
        assert inventory.snapshot() == ([], [])


def test_two_pools_are_not_the_same(tmp_path: Path) -> None:
    assert create_pool(str(tmp_path / "a")) != create_pool(str(tmp_path / "b"))


def test_a_moved_pool_keeps_its_identity(tmp_path: Path) -> None:
    pool_uuid = create_pool(str(tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "b")
    with closing(Pool(str(tmp_path / "b"))) as pool:
        assert pool.source_id == pool_uuid


def test_paths_with_everything_in_them(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path / "a?b#c%41 ü;&=") + b"\xff")
    create_pool(path)
    with closing(Pool(path)) as pool:
        pool.add(machine("a"))
        assert pool.machines() == [machine("a")]


def test_a_relative_path_is_kept_when_the_process_changes_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    create_pool("pool")
    with closing(Pool("pool")) as pool:
        monkeypatch.chdir("/")
        assert pool.statvfs_path == str(tmp_path / "pool")
        assert pool.cache_dir == str(tmp_path / "pool" / "cache")


def test_the_cache_is_made_when_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "pool"
    create_pool(str(path))
    with closing(Pool(str(path))) as pool:
        assert not (path / "cache").exists()
        assert pool.cache_dir == str(path / "cache")
    assert mode(path / "cache") == 0o700


def test_an_empty_directory_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "pool"
    path.mkdir(mode=0o750)
    (path / "lost+found").mkdir()
    create_pool(str(path))
    assert mode(path) == 0o750


@pytest.mark.parametrize("entry", ["catalog.sqlite", "volumes", ".hidden"])
def test_a_directory_with_something_in_it(tmp_path: Path, entry: str) -> None:
    (tmp_path / entry).write_text("precious")
    with pytest.raises(SourceError, match="is not empty; give a new or an empty directory"):
        create_pool(str(tmp_path))
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [(entry, "precious")]


def test_a_pool_is_not_made_twice(tmp_path: Path) -> None:
    create_pool(str(tmp_path / "pool"))
    with closing(Pool(str(tmp_path / "pool"))) as pool:
        pool.add(machine("a"))
    with pytest.raises(SourceError, match="is not empty"):
        create_pool(str(tmp_path / "pool"))
    with closing(Pool(str(tmp_path / "pool"))) as pool:
        assert pool.machines() == [machine("a")]


def test_places_where_no_pool_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place, reason in (("file", "File exists"), ("file/pool", "Not a directory"), ("no/pool", "No such file")):
        with pytest.raises(SourceError, match=f"the pool .*{place} cannot be made: {reason}"):
            create_pool(str(tmp_path / place))
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("exists", [False, True])
def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, exists: bool) -> None:
    path = tmp_path / "pool"
    if exists:
        path.mkdir()

    def fail(directory: Path) -> None:
        if directory == tmp_path:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(pool_module, "_sync_directory", fail)
    with pytest.raises(SourceError, match="cannot be made: No space left on device"):
        create_pool(str(path))
    assert list(tmp_path.iterdir()) == ([path] if exists else [])
    assert not exists or list(path.iterdir()) == []


def test_eight_processes_make_the_same_pool(tmp_path: Path) -> None:
    """One makes it; the others fail and harm nothing."""
    script = (
        "import sys; from ovafs.inventory.pool import create_pool; sys.stdin.read(); print(create_pool(sys.argv[1]))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "pool")],
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    outputs = [process.communicate() for process in processes]
    made = [output.strip() for output, _ in outputs if output]
    assert len(made) == 1, outputs
    assert all("SourceError" in error for output, error in outputs if not output)
    with closing(Pool(str(tmp_path / "pool"))) as pool:
        assert pool.source_id == made[0]


@pytest.mark.parametrize("uri", ["https://engine/api", "file:/pool"])
def test_a_uri_is_for_libvirt(uri: str) -> None:
    with pytest.raises(SourceError, match=uri):
        open_inventory(uri)


def test_a_directory_that_looks_like_a_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x:").mkdir()
    create_pool("x:/y")
    with closing(open_inventory("./x:/y")) as inventory:
        assert inventory.machines() == []


def test_what_is_no_pool(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place, reason in (("", "No such file"), ("no", "No such file"), ("file", "Not a directory")):
        with pytest.raises(SourceError, match=f"catalog.sqlite: {reason}.*'ovafs pool create' makes one"):
            Pool(str(tmp_path / place))
    (tmp_path / "catalog.sqlite").mkdir()
    with pytest.raises(SourceError, match=r"catalog\.sqlite is not a file"):
        Pool(str(tmp_path))
