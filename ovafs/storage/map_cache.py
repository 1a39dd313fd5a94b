"""Maps and plans that were computed once, kept for the next mount in an SQLite file of their own.

Nothing depends on this file: what is lost is computed again. So a file that is damaged, of another version or not
writable is never an error, and each blob carries a checksum (a flipped bit is a miss, never wrong bytes). The least
recently used blobs go when the size limit is reached.

Small blobs are written many at a time: a transaction for each costs a quarter of what the first listing of many small
images takes. What a crash loses of them is computed again, too.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_log = logging.getLogger(__name__)

DEFAULT_LIMIT = 512 << 20

_VERSION = 2
_SCHEMA = """
CREATE TABLE blobs (key BLOB PRIMARY KEY, used INTEGER NOT NULL, size INTEGER NOT NULL, blob BLOB NOT NULL);
CREATE INDEX blobs_by_use ON blobs (used, size);
"""
_CIRCUMSTANCES = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}
_FAILURES = (sqlite3.Error, UnicodeError)  # the second: a message that quotes damaged text
# Damage can turn a column into another type, which a cast turns back.
_FIND = "SELECT key, CAST(coalesce(used, 0) AS INTEGER), CAST(coalesce(blob, '') AS BLOB) FROM blobs WHERE key IN"
_TOTAL = "SELECT CAST(coalesce(sum(size), 0) AS INTEGER) FROM blobs"
_OLDEST = "SELECT key, CAST(coalesce(size, 0) AS INTEGER) FROM blobs ORDER BY used"
_DIGEST_SIZE = 16
_KEEP = 0.75  # of the limit stays at an eviction, so that not every put evicts
_REFRESH_SECONDS = 3600  # a hit is written down once an hour at most: reads should not write
_KEYS_PER_QUERY = 500
_UNWRITTEN_BLOBS = 256
_UNWRITTEN_BYTES = 1 << 20


class MapCache:
    """Key to blob, for several threads. ``path`` None: nothing is kept. ``limit`` bounds the blobs' bytes."""

    def __init__(self, path: str | None, limit: int = DEFAULT_LIMIT) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._size = 0
        self._unwritten: dict[bytes, tuple[int, bytes]] = {}
        self._unwritten_size = 0
        self._path = path
        if path is None:
            return
        try:
            self._open(path)
        except _FAILURES as error:
            _log.warning("%s: not used as a cache (%s)", path, error)
            self._give_up()

    def get(self, key: bytes) -> bytes | None:
        """The blob put under ``key``, or None."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """The blobs of those keys that are there."""
        found: dict[bytes, bytes] = {}
        now = int(time.time())
        with self._attempt() as database:
            if database is None:
                return {}
            wanted = []
            for key in keys:
                if key in self._unwritten:
                    _, found[key] = self._unwritten[key]
                else:
                    wanted.append(key)
            for first in range(0, len(wanted), _KEYS_PER_QUERY):
                part = wanted[first : first + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(part))
                rows = database.execute(f"{_FIND} ({marks})", part)
                old = []
                for key, used, blob in rows:
                    if blob[:_DIGEST_SIZE] == _digest(key, memoryview(blob)[_DIGEST_SIZE:]):
                        found[key] = blob[_DIGEST_SIZE:]
                        if abs(now - used) > _REFRESH_SECONDS:
                            old.append((now, key))
                    else:
                        _log.warning("%s: an entry is damaged and is computed again", self._path)
                database.executemany("UPDATE blobs SET used = ? WHERE key = ?", old)
        return found

    def put(self, key: bytes, blob: bytes) -> None:
        """Keep ``blob``, unless it alone would fill a good part of the cache."""
        size = len(key) + len(blob)
        if size > self._limit // 4:
            return
        with self._attempt() as database:
            if database is None:
                return
            self._unwritten[key] = (int(time.time()), blob)
            self._unwritten_size += size
            most = min(_UNWRITTEN_BYTES, self._limit // 16)
            if len(self._unwritten) >= _UNWRITTEN_BLOBS or self._unwritten_size >= most:
                self._write(database)

    def close(self) -> None:
        """Write what is unwritten, and close the file; afterwards nothing is found and nothing is kept. Idempotent."""
        with self._attempt() as database:
            if database is not None:
                self._write(database)
        with self._lock:
            self._give_up()

    @contextmanager
    def _attempt(self) -> Iterator[sqlite3.Connection | None]:
        """The database, for a few statements; a failure is only logged, and no more is kept until the next start."""
        with self._lock:
            try:
                yield self._database
            except _FAILURES as error:
                _log.warning("%s: no longer used as a cache (%s)", self._path, error)
                self._give_up()
                if _is_damage(error):
                    self._remove()

    def _open(self, path: str) -> None:
        """Open the file, or begin a new one where it is damaged or none of ours."""
        try:
            self._connect(path)
        except _FAILURES as error:
            if not _is_damage(error):
                raise
            _log.warning("%s: is begun anew (%s)", path, error)
            self._give_up()
            self._remove()
            self._connect(path)

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                Path(f"{self._path}{suffix}").unlink()

    def _connect(self, path: str) -> None:
        database = sqlite3.connect(path, timeout=1, isolation_level=None, check_same_thread=False)
        self._database = database
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")  # a commit does not wait for the disk
        database.execute("PRAGMA cache_size = -4096")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if version == 0 and not tables:
            database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
        elif version != _VERSION:
            raise sqlite3.DatabaseError(f"version {version}, not {_VERSION}")
        (self._size,) = database.execute(_TOTAL).fetchone()

    def _write(self, database: sqlite3.Connection) -> None:
        """Put what is unwritten into the file, in one transaction."""
        rows = [
            (key, used, len(key) + len(blob), _digest(key, blob) + blob)
            for key, (used, blob) in self._unwritten.items()
        ]
        database.execute("BEGIN IMMEDIATE")
        database.executemany("REPLACE INTO blobs (key, used, size, blob) VALUES (?, ?, ?, ?)", rows)
        database.execute("COMMIT")
        self._size += self._unwritten_size
        self._forget_unwritten()
        if self._size > self._limit:
            self._evict(database)

    def _forget_unwritten(self) -> None:
        self._unwritten.clear()
        self._unwritten_size = 0

    def _evict(self, database: sqlite3.Connection) -> None:
        (self._size,) = database.execute(_TOTAL).fetchone()
        surplus = self._size - int(self._limit * _KEEP)
        if self._size <= self._limit:
            return
        doomed = []
        for key, size in database.execute(_OLDEST):
            if surplus <= 0:
                break
            doomed.append((key,))
            surplus -= size
            self._size -= size
        database.execute("BEGIN IMMEDIATE")
        database.executemany("DELETE FROM blobs WHERE key = ?", doomed)
        database.execute("COMMIT")

    def _give_up(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
        self._forget_unwritten()


def _is_damage(error: Exception) -> bool:
    """True for a file whose content is wrong; False for one that is locked, full or not to be read or written."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return code & 0xFF not in _CIRCUMSTANCES


def _digest(key: bytes, blob: bytes | memoryview) -> bytes:
    """SHA-256, which many processors compute themselves: measured 1.8 times as fast as BLAKE2b for 5 MiB."""
    digest = hashlib.sha256(key)
    digest.update(blob)
    return digest.digest()[:_DIGEST_SIZE]
