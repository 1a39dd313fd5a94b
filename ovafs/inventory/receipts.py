"""What the catalog keeps of uploads that were imported, so that sync tools find them and do not send them again."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import sqlite3


class Receipt(NamedTuple):
    """An upload as ``stat`` shows it. ``mode`` has permission bits only; times are in nanoseconds."""

    number: int
    name: bytes
    size: int
    mtime_ns: int
    mode: int
    uid: int
    gid: int


def new_number(connection: sqlite3.Connection) -> int:
    """The next number; AUTOINCREMENT remembers it although the row goes again at once."""
    added = connection.execute(
        "INSERT INTO drop_entries (name, size, mtime_ns, mode, uid, gid) VALUES (randomblob(16), 0, 0, 0, 0, 0)"
    )
    number = added.lastrowid
    if number is None:
        raise RuntimeError("an INSERT without a row id")
    forget(connection, number)
    return number


def keep(connection: sqlite3.Connection, receipt: Receipt, archive: bytes | None) -> None:
    """Add the receipt, in the place of one with the same number or name.

    ``archive`` is what its package can be read from; None leaves what the catalog has of the same number.
    """
    connection.execute("DELETE FROM drop_entries WHERE name = ? AND number != ?", (receipt.name, receipt.number))
    connection.execute(
        "INSERT INTO drop_entries (number, name, size, mtime_ns, mode, uid, gid, archive)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET name = excluded.name,"
        " size = excluded.size, mtime_ns = excluded.mtime_ns, mode = excluded.mode, uid = excluded.uid,"
        " gid = excluded.gid, archive = coalesce(excluded.archive, archive)",
        (*receipt, archive),
    )


def archive(connection: sqlite3.Connection, number: int) -> bytes | None:
    """What the package of this receipt can be read from; None if it cannot be."""
    row = connection.execute("SELECT archive FROM drop_entries WHERE number = ?", (number,)).fetchone()
    return row[0] if row and isinstance(row[0], bytes) else None


def forget(connection: sqlite3.Connection, number: int) -> None:
    """Remove the receipt with this number."""
    connection.execute("DELETE FROM drop_entries WHERE number = ?", (number,))


def read_all(connection: sqlite3.Connection) -> list[Receipt]:
    """All receipts, the oldest first."""
    rows = connection.execute(
        "SELECT number, name, size, mtime_ns, mode, uid, gid FROM drop_entries ORDER BY number"
    ).fetchall()
    return [Receipt._make(row) for row in rows]
