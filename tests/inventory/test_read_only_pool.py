"""Pools that can be read and not written: on a read-only file system, or another user's."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import SourceError
from ovafs.inventory import database
from ovafs.inventory.pool import Pool, create_pool
from tests.support.definitions import machine
from tests.support.processes import ENVIRONMENT, run

if TYPE_CHECKING:
    from collections.abc import Iterator

# Says what a process without write permission sees; answers each line on its standard input again.
READ = """
import sys
from ovafs.errors import OvafsError
from ovafs.inventory.pool import Pool
from tests.support.definitions import machine
try:
    pool = Pool(sys.argv[1])
    print(*[one.name for one in pool.machines()], pool.cache_dir)
    try:
        pool.add(machine("new"))
    except OvafsError as error:
        print(error)
    revision = pool.revision()
    for line in sys.stdin:
        before, revision = revision, pool.revision()  # before the answer, after which the test goes on
        print(before != revision, *[one.name for one in pool.machines()], flush=True)
except OvafsError as error:
    print(error)
"""
# Becomes the user nobody once everything is imported: he may not be able to read the interpreter's files.
NOBODY = """
import os
import ovafs.inventory.pool, tests.support.definitions
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
"""
REFUSED = "catalog.sqlite cannot be written; check that the file system and the permissions allow writing"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that other users may enter, as pytest's own may not be."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def path(folder: Path) -> Path:
    create_pool(str(folder / "pool"))
    with closing(Pool(str(folder / "pool"))) as pool:
        pool.add(machine("a"))
    return folder / "pool"


@pytest.fixture
def crashed(path: Path, folder: Path) -> Path:
    """The pool of a process that died: its last change is in the -wal file only."""
    copy = folder / "crashed"
    with closing(Pool(str(path))) as pool:
        pool.add(machine("b"))
        shutil.copytree(path, copy)
    assert (copy / "catalog.sqlite-wal").stat().st_size > 0
    return copy


def on_read_only_file_system(path: Path) -> str:
    """What ``READ`` prints when ``path`` is mounted read-only."""
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    command = ("unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", path)
    if run(*command, "true", status=None).returncode:
        pytest.skip("this system does not allow mount namespaces")
    return run(*command, sys.executable, "-c", READ, path).stdout


def test_read_only_file_system(path: Path) -> None:
    before = sorted((entry.name, entry.stat().st_mtime_ns) for entry in path.iterdir())
    assert on_read_only_file_system(path) == f"a None\n{path}/{REFUSED}\n"
    assert sorted((entry.name, entry.stat().st_mtime_ns) for entry in path.iterdir()) == before


def test_read_only_file_system_after_a_crash(crashed: Path) -> None:
    assert on_read_only_file_system(crashed) == f"a b None\n{crashed}/{REFUSED}\n"


def test_changes_that_cannot_be_read_are_not_left_out(crashed: Path) -> None:
    """Without the -shm file SQLite cannot read a -wal file; the main file alone would be an old state."""
    (crashed / "catalog.sqlite-shm").unlink()
    assert on_read_only_file_system(crashed) == (
        f"{crashed}/catalog.sqlite has changes in its -wal file that cannot be read without write permission; "
        "open the pool once as its owner, or where it can be written, for example by 'ovafs vm list'\n"
    )


def test_an_older_version_on_a_read_only_file_system(path: Path) -> None:
    with closing(sqlite3.connect(path / "catalog.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 0")
    assert on_read_only_file_system(path).startswith(f"{path}/catalog.sqlite has an older version")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
class TestAnotherUser:
    """Processes of the user nobody."""

    @pytest.fixture
    def reader(self, path: Path) -> Iterator[subprocess.Popen[str]]:
        path.chmod(0o755)
        (path / "catalog.sqlite").chmod(0o644)
        with subprocess.Popen(
            [sys.executable, "-u", "-c", NOBODY + READ, str(path)],
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            yield process
            assert process.stdin is not None
            process.stdin.close()

    def answer(self, process: subprocess.Popen[str]) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        return process.stdout.readline()

    def test_sees_every_change(self, path: Path, reader: subprocess.Popen[str]) -> None:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "a None\n"
        assert REFUSED in reader.stdout.readline()
        assert self.answer(reader) == "False a\n"
        with closing(Pool(str(path))) as pool:
            pool.add(machine("b"))
            assert self.answer(reader) == "True a b\n"
            pool.add(machine("c"))
            assert self.answer(reader) == "True a b c\n"
        assert self.answer(reader) == "True a b c\n", "the writer closed; the files changed, the machines did not"
        assert self.answer(reader) == "False a b c\n"
        with closing(Pool(str(path))) as pool:
            pool.remove("a")
        assert self.answer(reader) == "True b c\n"

    def test_may_not_read(self, path: Path) -> None:
        result = subprocess.run(
            [sys.executable, "-c", NOBODY + READ, str(path)],
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.startswith(f"{path}/catalog.sqlite: Permission denied")


def test_a_writer_comes_while_the_file_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The read of a file that changed meanwhile does not count."""
    load = database._load
    options_seen = []

    def load_slowly(catalog: str, options: str) -> sqlite3.Connection:
        copy = load(catalog, options)
        options_seen.append(options)
        if len(options_seen) <= 2:
            with closing(Pool(str(path))) as writer:
                writer.add(machine(f"b{len(options_seen)}"))
        return copy

    reader = database._ReadOnlyReader(str(path / "catalog.sqlite"))
    monkeypatch.setattr(database, "_load", load_slowly)
    with reader.read() as connection:
        assert connection.execute("SELECT name FROM machines ORDER BY 1").fetchall() == [("a",), ("b1",), ("b2",)]
    assert options_seen == ["immutable=1"] * 3


def test_a_catalog_that_never_rests(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = database._load

    def load_and_change(catalog: str, options: str) -> sqlite3.Connection:
        os.utime(catalog)
        return load(catalog, options)

    monkeypatch.setattr(database, "_load", load_and_change)
    monkeypatch.setattr(database, "_PAUSE", 0)
    reader = database._ReadOnlyReader(str(path / "catalog.sqlite"))
    with pytest.raises(SourceError), reader.read():
        pass
