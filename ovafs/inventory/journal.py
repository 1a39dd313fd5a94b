"""The file that outlives every process: notes of volumes that are being written, and receipts of uploads.

An SQLite database in WAL mode, where every change is one transaction. A pool's catalog has machines in the same file.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ovafs.errors import SourceError
from ovafs.inventory import pending as waiting
from ovafs.inventory import receipts, rows
from ovafs.inventory.database import connect, is_writable, open_reader, sqlite_errors
from ovafs.inventory.schema import APPLICATION_ID, check_version, migrate

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from ovafs.inventory.pending import PendingImport
    from ovafs.inventory.receipts import Receipt


def create_journal(path: str, pool_uuid: str) -> None:
    """Make an empty journal, or catalog, of the empty file ``path``, complete and on disk when this returns."""
    with sqlite_errors(path), contextlib.closing(connect(path, "mode=rw")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        migrate(connection)
        connection.execute("INSERT INTO pool (only_row, uuid) VALUES (1, ?)", (pool_uuid,))


class Journal:
    """An open journal. Any thread may call any method; any number of processes may have it open."""

    def __init__(self, path: str) -> None:
        """Open the catalog at ``path`` and migrate it if need be.

        Raises SourceError if it is missing, no catalog, damaged or of a newer version.
        """
        self._path = path
        self._lock = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        _check_file(path)
        with sqlite_errors(path):
            self._reader = open_reader(path)
            try:
                self.pool_uuid = self._check()
            except BaseException:
                self.close()
                raise

    def note_volume(self, uuid: str) -> None:
        """Note a volume that an import is going to write; what is noted and not registered is nobody's."""
        with self._change() as connection:
            connection.execute("INSERT INTO unfinished_volumes (uuid) VALUES (?)", (uuid,))

    def forget_volumes(self, uuids: Sequence[str]) -> None:
        """Take notes away whose volumes are gone."""
        with self._change() as connection:
            connection.executemany("DELETE FROM unfinished_volumes WHERE uuid = ?", [(uuid,) for uuid in uuids])

    def unfinished_volumes(self) -> set[str]:
        """UUIDs of the volumes that are noted, and not those of a pending import."""
        return self._column("SELECT uuid FROM unfinished_volumes WHERE pending IS NULL")

    def keep_pending(self, pending: PendingImport, receipt: Receipt | None = None) -> None:
        """Keep it and, as :meth:`keep_receipt` does it, the receipt of its upload: one change."""
        with self._change() as connection:
            waiting.keep(connection, pending)
            if receipt is not None:
                receipts.keep(connection, receipt, None)

    def give_up_pending(self, uuid: str) -> None:
        """Forget it; its volumes are nobody's then."""
        with self._change() as connection:
            waiting.give_up(connection, uuid)

    def pending_imports(self) -> list[PendingImport]:
        """All of them, the oldest first."""
        with sqlite_errors(self._path), self._reader.read() as connection:
            return waiting.read_all(connection)

    def new_entry_number(self) -> int:
        """A number for an entry of the drop directory; none is ever given twice."""
        with self._change() as connection:
            return receipts.new_number(connection)

    def keep_receipt(self, receipt: Receipt, archive: bytes | None = None) -> None:
        """Keep a receipt, in the place of one with the same number or name.

        ``archive`` is what its package can be read from; None leaves what there is.
        """
        with self._change() as connection:
            receipts.keep(connection, receipt, archive)

    def receipt_archive(self, number: int) -> bytes | None:
        """What the package of a receipt can be read from; None if it cannot be."""
        with sqlite_errors(self._path), self._reader.read() as connection:
            return receipts.archive(connection, number)

    def forget_receipt(self, number: int) -> None:
        """Forget a receipt; whether there is one does not matter."""
        with self._change() as connection:
            receipts.forget(connection, number)

    def receipts(self) -> list[Receipt]:
        """All receipts."""
        with sqlite_errors(self._path), self._reader.read() as connection:
            return receipts.read_all(connection)

    def settle(self, volumes: Sequence[str], receipt: Receipt | None, archive: bytes | None) -> None:
        """Take the notes of ``volumes`` away, and keep the receipt as :meth:`keep_receipt` does it: one change."""
        with self._change() as connection:
            self._settle(connection, volumes, receipt, archive)

    def close(self) -> None:
        """Idempotent."""
        self._reader.close()
        with self._lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    def _settle(
        self, connection: sqlite3.Connection, volumes: Sequence[str], receipt: Receipt | None, archive: bytes | None
    ) -> None:
        connection.executemany("DELETE FROM unfinished_volumes WHERE uuid = ?", [(uuid,) for uuid in volumes])
        waiting.forget_registered(connection)
        if receipt is not None:
            receipts.keep(connection, receipt, archive)

    def _column(self, query: str) -> set[str]:
        with sqlite_errors(self._path), self._reader.read() as connection:
            return {str(value) for (value,) in rows.fetch(connection, query)}

    def _check(self) -> str:
        with self._reader.read() as connection:
            current = check_version(connection, self._path)
        if not current:
            if not is_writable(self._path):
                raise SourceError(f"{self._path} has an older version", "open the pool once where it can be written")
            with contextlib.closing(self._connect_writer()) as writer:
                migrate(writer)
        with self._reader.read() as connection:
            row = connection.execute("SELECT uuid FROM pool").fetchone()
        if row is None:
            raise SourceError(f"{self._path} is incomplete: it does not say which pool it belongs to")
        return str(row[0])

    @contextlib.contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it is on disk when the ``with`` ends well, else nothing of it ever is."""
        with sqlite_errors(self._path), self._lock:
            if self._writer is None:
                self._writer = self._connect_writer()
            with self._writer:
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer

    def _connect_writer(self) -> sqlite3.Connection:
        if not is_writable(self._path):
            raise SourceError(
                f"{self._path} cannot be written", "check that the file system and the permissions allow writing"
            )
        return connect(self._path, "mode=rw")


def _check_file(path: str) -> None:
    # Without opening it: closing any descriptor of the file would drop the locks that SQLite holds on it in this
    # process (https://www.sqlite.org/howtocorrupt.html, 2.2).
    hint = f"is {Path(path).parent} a pool? 'ovafs pool create' makes one"
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}", hint) from error
    if not stat.S_ISREG(mode):
        raise SourceError(f"{path} is not a file", hint)
    if not os.access(path, os.R_OK):
        raise SourceError(f"{path}: Permission denied", "ask the owner of the pool")
