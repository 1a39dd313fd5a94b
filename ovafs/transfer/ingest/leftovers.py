"""Files in a pool's directory for volumes that belong to no machine: what a crash left, and what somebody kept."""

from __future__ import annotations

import fcntl
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from ovafs.storage.writer.new_volume import leftovers
from ovafs.transfer.ingest.landing import lock_directory, open_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ovafs.inventory.pool import Pool


class Leftover(NamedTuple):
    """A file; ``allocated`` in bytes. ``is_ours``: an interrupted import left it, and the next one removes it."""

    path: str
    allocated: int
    is_ours: bool


def find_leftovers(pool: Pool) -> list[Leftover] | None:
    """Everything in ``volumes/`` that is no machine's, sorted; None while an import runs, whose files they may be.

    Blocks, and keeps imports from beginning meanwhile. Raises SourceError, WriteFailed.
    """
    directory = open_directory(pool.volumes_path)
    try:
        if not lock_directory(directory, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return None
        known = pool.volume_uuids()
        ours = leftovers(pool.volumes_path, known=known, unfinished=pool.unfinished_volumes())
        return sorted(_look(pool, set(ours)))
    finally:
        os.close(directory)


def _look(pool: Pool, ours: set[str]) -> Iterator[Leftover]:
    used = {os.path.realpath(disk.volume.path) for machine in pool.machines() for disk in machine.disks}
    for entry in os.scandir(pool.volumes_path):
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISREG(status.st_mode) and os.path.realpath(entry.path) not in used:
            yield Leftover(entry.path, status.st_blocks * 512, entry.path in ours)
