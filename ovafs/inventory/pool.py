"""A pool: a directory with a catalog of machines.

    catalog.sqlite   machines, disks, volumes, NICs (and catalog.sqlite-wal, -shm while it is open)
    volumes/         for the images that the pool itself makes
    cache/           what can be computed again; made on first use, may be deleted at any time

The directory is made with mode 0700: the images in it hold everything that the guests know, and whoever shall see
machines sees them through a mount. Wider permissions, set by hand, are respected.
"""

from __future__ import annotations

import contextlib
import functools
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from ovafs.errors import SourceError
from ovafs.inventory.catalog import Catalog
from ovafs.inventory.database import is_writable
from ovafs.inventory.destination import Fitted
from ovafs.inventory.journal import create_journal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ovafs.model import Machine

_CATALOG = "catalog.sqlite"
_VOLUMES = "volumes"
_CACHE = "cache"


class Pool(Catalog):
    """The inventory that a pool directory holds: its catalog, and what lies around it."""

    runs_guests = False

    def __init__(self, path: str) -> None:
        """Open the pool at ``path``. Raises SourceError if there is none, or if its catalog cannot be used."""
        self.path = str(Path(path).absolute())
        super().__init__(str(Path(self.path, _CATALOG)))

    @property
    def source_id(self) -> str:
        """The pool's UUID."""
        return self.pool_uuid

    @property
    def statvfs_path(self) -> str:
        """The pool's directory."""
        return self.path

    @property
    def volumes_path(self) -> str:
        """The directory for the images that the pool itself makes."""
        return str(Path(self.path, _VOLUMES))

    @property
    def is_writable(self) -> bool:
        """Whether this process may import into the pool."""
        return os.access(self.volumes_path, os.W_OK | os.X_OK) and is_writable(str(Path(self.path, _CATALOG)))

    @functools.cached_property
    def cache_dir(self) -> str | None:
        """The directory for the pool's cache, made when it is first asked for; None in a read-only pool."""
        cache = Path(self.path, _CACHE)
        try:
            cache.mkdir(mode=0o700, exist_ok=True)
        except OSError:
            return None
        return str(cache) if os.access(cache, os.W_OK) else None

    def machines(self) -> list[Machine]:
        """The usable machines."""
        return self.snapshot().machines

    def fit(self, machine: Machine, states: Mapping[str, bytes]) -> Fitted:  # noqa: ARG002 - others look
        """A pool takes every machine as it is."""
        return Fitted(machine, [])

    def published(self, paths: Sequence[str]) -> None:
        """Nothing is to be done: nobody else looks at a pool's volumes."""

    def left_out(self, machine: Machine) -> tuple[str, ...]:  # noqa: ARG002 - other inventories look
        """Nothing: a pool keeps only what a package can hold."""
        return ()


def create_pool(path: str) -> str:
    """Make a pool in a new or empty directory and return the pool's UUID. Nothing that exists is overwritten.

    Raises SourceError if the directory is not empty or cannot be made; then everything made here is gone again.
    """
    pool_uuid = str(uuid.uuid4())
    directory = Path(path).absolute()
    try:
        with contextlib.ExitStack() as undo:
            if not directory.is_dir():
                directory.mkdir(mode=0o700)
                undo.callback(_attempt, directory.rmdir)
            # A file system made for the pool alone begins with lost+found.
            if any(entry.name != "lost+found" for entry in directory.iterdir()):
                raise SourceError(f"{path} is not empty", "give a new or an empty directory")
            _fill(directory, pool_uuid, undo)
            _sync_directory(directory.parent)
            undo.pop_all()
    except OSError as error:
        raise SourceError(f"the pool {path} cannot be made: {error.strerror}") from error
    return pool_uuid


def _fill(directory: Path, pool_uuid: str, undo: contextlib.ExitStack) -> None:
    # Of two processes that make the same pool at the same time, one fails here.
    volumes = directory / _VOLUMES
    volumes.mkdir(mode=0o700)
    undo.callback(_attempt, volumes.rmdir)
    # The catalog gets its name once it is complete: a directory is a pool or it is not.
    unfinished, catalog = directory / f"{_CATALOG}.new", directory / _CATALOG
    unfinished.touch(mode=0o600, exist_ok=False)
    undo.callback(_attempt, unfinished.unlink)
    create_journal(str(unfinished), pool_uuid)
    unfinished.rename(catalog)
    undo.callback(_attempt, catalog.unlink)
    _sync_directory(directory)


def _attempt(cleanup: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        cleanup()


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
