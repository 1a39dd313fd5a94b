"""The descriptors that domains were imported from, in the source's directory: ``descriptors/UUID``, as they came."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ovafs.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Collection

_NEW_SECONDS = 3600.0


def read_descriptor(state: str, machine: str) -> bytes | None:
    """That of the domain with this UUID; None if there is none. Raises SourceError."""
    path = _path(state, machine)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error


def keep_descriptor(state: str, machine: str, descriptor: bytes) -> None:
    """Keep it, in the place of one that is there. Raises SourceError."""
    path = _path(state, machine)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_bytes(descriptor)
    except OSError as error:
        raise SourceError(f"{path} cannot be written: {error.strerror}") from error


def forget_descriptor(state: str, machine: str) -> None:
    """Remove it; best effort, for a domain that was not defined."""
    with contextlib.suppress(OSError):
        _path(state, machine).unlink(missing_ok=True)


def retain_descriptors(state: str, machines: Collection[str]) -> None:
    """Remove those of all domains but these. Raises SourceError.

    What is new may be of a domain that another process is about to define.
    """
    directory = _path(state, "any").parent
    try:
        for path in directory.iterdir() if directory.is_dir() else ():
            if path.name not in machines and path.stat().st_mtime < time.time() - _NEW_SECONDS:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise SourceError(f"{directory} cannot be cleared: {error.strerror}") from error


def _path(state: str, machine: str) -> Path:
    return Path(state, "descriptors", machine)
