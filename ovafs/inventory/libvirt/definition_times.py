"""When definitions were first seen, of sources that do not say when a machine was changed.

A changed definition must have a later time: tools that compare size and time (rsync) would not copy it again. So the
times are kept, in an SQLite file of the source; who removes it gets new times, and new generations, for all machines.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from ovafs.inventory.database import sqlite_errors

if TYPE_CHECKING:
    from collections.abc import Iterable

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS definitions"
    " (uuid TEXT, digest BLOB, since INTEGER NOT NULL, PRIMARY KEY (uuid, digest)) STRICT, WITHOUT ROWID"
)
_BUSY_SECONDS = 10.0


class Times(NamedTuple):
    """Whole seconds since the epoch."""

    created: int
    modified: int


class DefinitionTimes:
    """The times of one source, for any number of threads and processes. ``path`` None: only as long as it is open."""

    def __init__(self, path: str | None) -> None:
        """Raises SourceError if the file is there and cannot be used."""
        self._path = path or ":memory:"
        self._lock = threading.Lock()
        with sqlite_errors(self._path):
            self._database = sqlite3.connect(
                self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute(_SCHEMA)

    def of(self, definitions: Iterable[tuple[str, bytes]]) -> list[Times]:
        """The times of (UUID, digest of the definition), in their order; what is new was changed now."""
        wanted = list(definitions)
        now = int(time.time())
        with self._lock, sqlite_errors(self._path):
            known = self._known()
            missing = [one for one in wanted if one not in known]
            if missing:
                # One transaction; another process may have been first, then its time counts.
                self._database.execute("BEGIN IMMEDIATE")
                with self._database:
                    self._database.executemany(
                        "INSERT OR IGNORE INTO definitions VALUES (?, ?, ?)", [(*one, now) for one in missing]
                    )
                known = self._known()
        created: dict[str, int] = {}
        for (uuid, _), since in known.items():
            created[uuid] = min(since, created.get(uuid, since))
        return [Times(created[uuid], known[uuid, digest]) for uuid, digest in wanted]

    def close(self) -> None:
        """Idempotent."""
        self._database.close()

    def _known(self) -> dict[tuple[str, bytes], int]:
        rows = self._database.execute("SELECT uuid, digest, since FROM definitions")
        return {(uuid, digest): since for uuid, digest, since in rows}
