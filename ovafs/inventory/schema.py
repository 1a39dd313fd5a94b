"""The catalog's SQL schema, and the steps that bring an older catalog up to it.

``PRAGMA user_version`` holds the schema version, ``PRAGMA application_id`` says that the file is a catalog.

    pool       one row: the pool's own UUID
    machines   virtual machines and templates; a name is unique within its kind
    volumes    image files and block devices with their recorded formats, and where the passphrase is ('': none)
    disks      a machine's disks in order, each with a volume of its own
    nics       a machine's network adapters in order; a MAC address is unique in the pool
    unfinished_volumes   volumes of imports that run, or that were interrupted: no machine is on them; or those of
                   the pending import that is named with them
    pending_imports   imports whose guests are adapted before their machines are registered
    drop_entries   receipts: what was uploaded to the drop directory and imported, and the numbers of its entries;
                   what a package is read again from, as ``transfer.archive`` has it (NULL: it cannot be)
    states     of firmware and TPM, as oVirt packs them; in tables of their own, so that listings never read them
    descriptors, machine_descriptors   the descriptors that machines were imported from, compressed
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovafs.errors import SourceError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    Step = Sequence[str]

APPLICATION_ID = 0x6F766166
"""ASCII "ovaf"; ``file`` and ``PRAGMA application_id`` show it."""

# STRICT makes SQLite keep the column types. Values that need more than a type are checked in ``rules``, when they
# are written and again when they are read.
_VERSION_1: Step = (
    """
    CREATE TABLE pool (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
        uuid TEXT NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE machines (
        id INTEGER PRIMARY KEY,
        uuid TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        description TEXT NOT NULL,
        memory INTEGER NOT NULL,
        sockets INTEGER NOT NULL,
        cores INTEGER NOT NULL,
        threads INTEGER NOT NULL,
        firmware TEXT NOT NULL,
        os TEXT NOT NULL,
        created INTEGER NOT NULL,
        modified INTEGER NOT NULL,
        UNIQUE (kind, name)
    ) STRICT
    """,
    "CREATE INDEX machines_by_name ON machines (name)",
    """
    CREATE TABLE volumes (
        id INTEGER PRIMARY KEY,
        uuid TEXT NOT NULL UNIQUE,
        path TEXT NOT NULL,
        format TEXT NOT NULL
    ) STRICT
    """,
    "CREATE INDEX volumes_by_path ON volumes (path)",
    """
    CREATE TABLE disks (
        machine INTEGER NOT NULL REFERENCES machines ON DELETE CASCADE,
        position INTEGER NOT NULL,
        uuid TEXT NOT NULL UNIQUE,
        alias TEXT NOT NULL,
        volume INTEGER NOT NULL UNIQUE REFERENCES volumes,
        interface TEXT NOT NULL,
        boot INTEGER NOT NULL CHECK (boot IN (0, 1)),
        PRIMARY KEY (machine, position)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE nics (
        machine INTEGER NOT NULL REFERENCES machines ON DELETE CASCADE,
        position INTEGER NOT NULL,
        uuid TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        network TEXT NOT NULL,
        mac TEXT NOT NULL UNIQUE,
        model TEXT NOT NULL,
        PRIMARY KEY (machine, position)
    ) STRICT, WITHOUT ROWID
    """,
)

_VERSION_2: Step = ("CREATE TABLE unfinished_volumes (uuid TEXT PRIMARY KEY) STRICT, WITHOUT ROWID",)

# AUTOINCREMENT: the number of a file that is gone is never given to another one, also after a restart.
_VERSION_3: Step = (
    """
    CREATE TABLE drop_entries (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        name BLOB NOT NULL UNIQUE,
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        mode INTEGER NOT NULL,
        uid INTEGER NOT NULL,
        gid INTEGER NOT NULL
    ) STRICT
    """,
)

_VERSION_4: Step = ("ALTER TABLE drop_entries ADD COLUMN archive BLOB",)

# By the machine's UUID: its row is a new one whenever its definition is replaced, these stay.
_VERSION_5: Step = (
    """
    CREATE TABLE states (
        machine TEXT NOT NULL,
        kind TEXT NOT NULL,
        size INTEGER NOT NULL,
        digest TEXT NOT NULL,
        data BLOB NOT NULL,
        PRIMARY KEY (machine, kind)
    ) STRICT
    """,
    "CREATE TABLE descriptors (digest TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT",
    "CREATE TABLE machine_descriptors (machine TEXT PRIMARY KEY, digest TEXT NOT NULL) STRICT, WITHOUT ROWID",
)

_VERSION_6: Step = ("ALTER TABLE volumes ADD COLUMN secret TEXT NOT NULL DEFAULT ''",)

_VERSION_7: Step = (
    "CREATE TABLE pending_imports (uuid TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT, WITHOUT ROWID",
    "ALTER TABLE unfinished_volumes ADD COLUMN pending TEXT",
)

STEPS: Sequence[Step] = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4, _VERSION_5, _VERSION_6, _VERSION_7)
"""``STEPS[n]`` makes version n + 1 of version n. A released step is never edited."""


def check_version(connection: sqlite3.Connection, path: str) -> bool:
    """Whether the catalog at ``path`` has the newest schema; False means that ``migrate`` has work to do.

    Raises SourceError if the file is not a catalog or comes from a newer ovafs.
    """
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise SourceError(f"{path} is an SQLite database, but not the catalog of a pool")
    version = _pragma(connection, "user_version")
    if not 0 <= version <= len(STEPS):
        raise SourceError(
            f"{path} has catalog version {version}, this ovafs knows versions up to {len(STEPS)}", "upgrade ovafs"
        )
    return version == len(STEPS)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the catalog to the newest version, one transaction for each step: stopped anywhere, it can go on.

    ``connection`` is in autocommit mode. The version is read again inside each transaction, because another
    process may be doing the same.
    """
    while True:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            version = _pragma(connection, "user_version")
            if version >= len(STEPS):
                return
            for statement in STEPS[version]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {version + 1}")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value
