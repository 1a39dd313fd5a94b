"""Opening the catalog's SQLite file, and saying in words what SQLite reports."""

from __future__ import annotations

import abc
import contextlib
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ovafs.errors import CatalogFull, SourceError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

BUSY_TIMEOUT = 10.0
"""Seconds that a change waits for another process's change. Changes take milliseconds."""

# How often, and with which pause (seconds), a read-only reader tries again while a writer opens or closes the catalog.
_ATTEMPTS = 10
_PAUSE = 0.02

# Primary result codes (https://www.sqlite.org/rescode.html): what happened, what to do.
_CAUSES = {
    sqlite3.SQLITE_BUSY: ("is locked by another program", "wait until it has finished; 'fuser' shows which it is"),
    sqlite3.SQLITE_LOCKED: ("is locked by another program", "wait until it has finished; 'fuser' shows which it is"),
    sqlite3.SQLITE_NOTADB: ("is not an SQLite database", "restore it from a backup"),
    sqlite3.SQLITE_CORRUPT: ("is damaged", "restore it from a backup, or try '.recover' of the sqlite3 program"),
    sqlite3.SQLITE_FULL: ("cannot be written: no space left", "make room in its file system"),
    sqlite3.SQLITE_READONLY: ("cannot be written", "check that the file system and the permissions allow writing"),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", "check the permissions of the pool's directory"),
    sqlite3.SQLITE_PERM: ("cannot be opened", "check the permissions of the pool's directory"),
    sqlite3.SQLITE_IOERR: ("cannot be read or written", "see the kernel's log for the storage below this path"),
    sqlite3.SQLITE_NOMEM: ("cannot be read: out of memory", ""),
    sqlite3.SQLITE_ERROR: ("does not have the tables of a catalog", "restore it from a backup"),
}


@contextlib.contextmanager
def sqlite_errors(path: str) -> Iterator[None]:
    """Turn what SQLite reports about the catalog at ``path`` into SourceError; misuse of the library stays a bug."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
        raise
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        what, hint = _CAUSES.get(code & 0xFF, ("cannot be used", ""))
        kind = CatalogFull if code & 0xFF == sqlite3.SQLITE_FULL else SourceError
        raise kind(f"{path} {what} (SQLite: {error})", hint) from error
    except UnicodeDecodeError as error:
        # Raised in the place of an SQLite error whose message quotes damaged bytes of the schema.
        what, hint = _CAUSES[sqlite3.SQLITE_CORRUPT]
        raise SourceError(f"{path} {what}", hint) from error


def connect(path: str, options: str) -> sqlite3.Connection:
    """An autocommit connection to an existing file, for any thread (one at a time).

    ``options`` are those of SQLite's URI file names: "mode=rw", "mode=ro", "immutable=1".
    """
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?{options}",
        uri=True,
        timeout=BUSY_TIMEOUT,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA trusted_schema = OFF")
    except BaseException:
        connection.close()
        raise
    return connection


class Reader(abc.ABC):
    """Consistent reads of the catalog, and whether there is something new to read."""

    @abc.abstractmethod
    def revision(self) -> Hashable:
        """A value that differs from earlier ones once the catalog may have changed."""

    @abc.abstractmethod
    def read(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """A connection that sees one state of the catalog for the length of the ``with``."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release everything; idempotent."""


def open_reader(path: str) -> Reader:
    """The reader that the permissions allow. Errors show at its first use."""
    return _LiveReader(path) if is_writable(path) else _ReadOnlyReader(path)


def is_writable(path: str) -> bool:
    """Whether this process may change the catalog: its file, and the files that SQLite puts beside it."""
    return os.access(path, os.W_OK) and os.access(Path(path).parent, os.W_OK)


class _LiveReader(Reader):
    """Reads beside writers in any process: the usual case. Needs write permission for the WAL's index."""

    def __init__(self, path: str) -> None:
        self._connection = connect(path, "mode=rw")
        self._lock = threading.Lock()

    def revision(self) -> Hashable:
        # data_version changes with the commits of every *other* connection, and this one never writes.
        with self._lock:
            version: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return version

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._connection:
            self._connection.execute("BEGIN")
            yield self._connection

    def close(self) -> None:
        with self._lock:
            self._connection.close()


class _ReadOnlyReader(Reader):
    """Reads where nothing can be written: a read-only file system, or another user's pool.

    SQLite reads a WAL database without write permission while the files ``-wal`` and ``-shm`` exist
    (https://www.sqlite.org/wal.html#read_only_databases). When the last writer has closed the catalog both are
    gone and the main file is complete; then it is read as an immutable one, and the read counts only if no
    writer came meanwhile.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def revision(self) -> Hashable:
        return _identity(self._path), _identity(f"{self._path}-wal")

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        # A copy in memory is one state, whatever happens to the file while the caller looks at it.
        copy = self._copy()
        try:
            yield copy
        finally:
            copy.close()

    def close(self) -> None:
        """Nothing is held between reads."""

    def _copy(self) -> sqlite3.Connection:
        for _ in range(_ATTEMPTS):
            before = self.revision()
            is_complete = _is_empty(f"{self._path}-wal")
            try:
                copy = _load(self._path, "immutable=1" if is_complete else "mode=ro")
            except sqlite3.OperationalError as error:
                # The last writer may be closing the catalog: then one of the two files is gone already.
                if error.sqlite_errorcode != sqlite3.SQLITE_CANTOPEN:
                    raise
            else:
                if not is_complete or self.revision() == before:
                    return copy
                copy.close()
            time.sleep(_PAUSE)
        raise SourceError(
            f"{self._path} has changes in its -wal file that cannot be read without write permission",
            "open the pool once as its owner, or where it can be written, for example by 'ovafs vm list'",
        )


def _load(path: str, options: str) -> sqlite3.Connection:
    copy = sqlite3.connect(":memory:", check_same_thread=False)
    try:
        with contextlib.closing(connect(path, options)) as source:
            source.backup(copy)
    except BaseException:
        copy.close()
        raise
    return copy


def _is_empty(path: str) -> bool:
    try:
        return Path(path).stat().st_size == 0
    except FileNotFoundError:
        return True


def _identity(path: str) -> tuple[int, ...]:
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
