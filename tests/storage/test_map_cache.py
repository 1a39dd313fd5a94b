"""The cache of maps: what was put comes back, or nothing does; damage never harms."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import threading
from typing import TYPE_CHECKING

import pytest

from ovafs.storage.map_cache import MapCache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "maps.sqlite"


def filled(path: Path, count: int = 50, size: int = 3000) -> dict[bytes, bytes]:
    rng = random.Random(1)
    content = {b"key %d" % number: rng.randbytes(size) for number in range(count)}
    cache = MapCache(str(path))
    for key, blob in content.items():
        cache.put(key, blob)
    cache.close()
    return content


def test_what_was_put_is_there_after_a_restart(path: Path) -> None:
    content = filled(path)
    cache = MapCache(str(path))
    assert cache.get(b"key 7") == content[b"key 7"]
    assert cache.get(b"other") is None
    assert cache.get_many([*content, b"other"]) == content
    cache.put(b"key 7", b"")
    assert cache.get(b"key 7") == b""
    cache.close()


def test_thousands_at_once(path: Path) -> None:
    content = filled(path, 2500, 10)
    cache = MapCache(str(path))
    assert cache.get_many(iter(content)) == content
    cache.close()


def test_no_path_keeps_nothing() -> None:
    cache = MapCache(None)
    cache.put(b"key", b"blob")
    assert cache.get(b"key") is None
    assert cache.get_many([b"key"]) == {}
    cache.close()


def test_closed_keeps_nothing(path: Path) -> None:
    filled(path)
    cache = MapCache(str(path))
    cache.close()
    cache.close()
    cache.put(b"key", b"blob")
    assert cache.get(b"key 1") is None


def test_flipped_bits_are_misses(path: Path, expect_log: Callable[[str], None]) -> None:
    content = filled(path)
    with sqlite3.connect(path) as database:
        database.execute(
            "UPDATE blobs SET blob = substr(blob, 1, 100) || x'00' || substr(blob, 102) WHERE key = ?", (b"key 3",)
        )
        database.execute("UPDATE blobs SET blob = x'' WHERE key = ?", (b"key 4",))
        database.execute(
            "UPDATE blobs SET blob = (SELECT blob FROM blobs WHERE key = ?) WHERE key = ?", (b"key 6", b"key 5")
        )
    database.close()
    expect_log("an entry is damaged")
    cache = MapCache(str(path))
    assert cache.get_many(content) == {k: v for k, v in content.items() if k not in {b"key 3", b"key 4", b"key 5"}}
    cache.put(b"key 3", content[b"key 3"])
    assert cache.get(b"key 3") == content[b"key 3"]
    cache.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"this is no database, and it is longer than a header of SQLite would be" * 9),
        lambda path: path.write_bytes(b"SQLite format 3\0" + os.urandom(8000)),
        lambda path: path.write_bytes(path.read_bytes()[:100] + os.urandom(8000)),
        lambda path: _sql(path, "PRAGMA user_version = 99"),
        lambda path: _sql(path, "PRAGMA user_version = 0"),
    ],
    ids=["text", "header only", "first pages", "newer version", "foreign database"],
)
def test_damaged_and_foreign_files_are_begun_anew(
    path: Path, damage: Callable[[Path], None], expect_log: Callable[[str], None]
) -> None:
    filled(path)
    damage(path)
    expect_log("maps.sqlite: is begun anew")
    cache = MapCache(str(path))
    assert cache.get(b"key 1") is None
    cache.put(b"key 1", b"new")
    cache.close()
    cache = MapCache(str(path))
    assert cache.get(b"key 1") == b"new"
    cache.close()


def _sql(path: Path, statement: str) -> None:
    database = sqlite3.connect(path)
    database.execute(statement)
    database.close()


@pytest.mark.parametrize("seed", range(30))
def test_random_damage_never_gives_wrong_bytes(
    path: Path, seed: int, caplog: pytest.LogCaptureFixture, expect_log: Callable[[str], None]
) -> None:
    content = filled(path)
    rng = random.Random(seed)
    image = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 20, 400])):
        image[rng.randrange(len(image))] ^= 1 << rng.randrange(8)
    path.write_bytes(image)
    for _ in range(2):
        cache = MapCache(str(path))
        found = cache.get_many(content)
        assert found.items() <= content.items()
        for key in content:
            assert cache.get(key) in {None, content[key]}
        cache.put(b"key 1", content[b"key 1"])
        cache.close()
    if caplog.records:
        expect_log("maps.sqlite")


def test_unusable_places_are_no_error(tmp_path: Path, expect_log: Callable[[str], None]) -> None:
    expect_log("not used as a cache")
    cache = MapCache(str(tmp_path / "absent" / "maps.sqlite"))
    cache.put(b"key", b"blob")
    assert cache.get(b"key") is None
    cache.close()


def test_database_locked_by_another_process_is_no_error(path: Path, expect_log: Callable[[str], None]) -> None:
    content = filled(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    cache = MapCache(str(path))
    assert cache.get(b"key 1") == content[b"key 1"]
    expect_log("no longer used as a cache")
    cache.put(b"key", b"blob")
    cache.close()
    other.execute("ROLLBACK")
    other.close()
    cache = MapCache(str(path))
    assert cache.get_many(content) == content
    cache.close()


def test_size_is_bounded_and_the_least_used_go_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10**9
    monkeypatch.setattr("ovafs.storage.map_cache.time.time", lambda: now)
    cache = MapCache(str(path), limit=100_000)
    for number in range(9):
        now += 10
        cache.put(b"key %d" % number, bytes(10_000))
    now += 100_000
    assert cache.get(b"key 0") is not None
    for number in range(9, 12):
        now += 10
        cache.put(b"key %d" % number, bytes(10_000))
    found = {number for number in range(12) if cache.get(b"key %d" % number) is not None}
    assert 0 in found
    assert {10, 11} <= found
    assert not found & {1, 2, 3}
    assert 5 <= len(found) <= 10
    cache.put(b"large", bytes(50_000))
    assert cache.get(b"large") is None
    cache.close()
    assert path.stat().st_size < 400_000


def test_threads(path: Path) -> None:
    cache = MapCache(str(path), limit=200_000)
    failures: list[object] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(100):
            number = rng.randrange(40)
            blob = bytes([number]) * 9000
            if rng.random() < 0.5:
                cache.put(b"key %d" % number, blob)
            elif cache.get(b"key %d" % number) not in {None, blob}:
                failures.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    cache.close()


def test_two_mounts_share_a_file(path: Path) -> None:
    one, two = MapCache(str(path)), MapCache(str(path))
    one.put(b"key", bytes(2 << 20))
    assert two.get(b"key") == bytes(2 << 20)
    two.put(b"key", b"two")
    two.close()
    assert one.get(b"key") == b"two"
    one.close()


def test_small_blobs_are_written_many_at_a_time(path: Path) -> None:
    def written() -> int:
        with contextlib.closing(sqlite3.connect(path)) as database:
            return int(database.execute("SELECT count(*) FROM blobs").fetchone()[0])

    cache = MapCache(str(path))
    for number in range(255):
        cache.put(b"key %d" % number, b"blob %d" % number)
    assert written() == 0
    assert cache.get_many([b"key 7", b"none"]) == {b"key 7": b"blob 7"}
    cache.put(b"key 255", b"blob")
    assert written() == 256
    cache.put(b"last", b"blob")
    cache.close()
    assert written() == 257
    assert cache.get(b"last") is None


def test_what_cannot_be_written_in_the_end_is_no_error(path: Path, expect_log: Callable[[str], None]) -> None:
    expect_log("no longer used as a cache .database is locked")
    cache = MapCache(str(path))
    cache.put(b"key", b"blob")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        cache.close()
        other.execute("ROLLBACK")
    reopened = MapCache(str(path))
    assert reopened.get(b"key") is None
    reopened.close()
