"""Engines of a test's own, and what runs of them."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from ovafs.model import DiskFormat, Volume
from ovafs.storage.engine.engines import Engines
from ovafs.storage.volume import TIMESTAMP_GRANULARITY_NS
from tests.support.images import convert, scatter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FORMATS = ("qcow", "vmdk", "vdi", "vhdx", "vpc")

PATIENCE = 20.0


@contextlib.contextmanager
def engines(grace: float = 0.0) -> Iterator[Engines]:
    # Paths of sockets are short; pytest's are not.
    with (
        tempfile.TemporaryDirectory(prefix="engines-") as base,
        contextlib.closing(Engines(base, grace)) as made,
    ):
        yield made


def model_volume(path: str | Path, form: str, secret: str = "") -> Volume:
    """A volume as a machine's definition names it."""
    return Volume(
        uuid=str(uuid.uuid5(uuid.NAMESPACE_OID, str(path))), path=str(path), format=DiskFormat(form), secret=secret
    )


def foreign_image(folder: Path, form: str, size: int = 8 << 20, *, seed: int = 1) -> Path:
    """An image that QEMU wrote, with data, zeros and holes."""
    raw = folder / f"{form}-{seed}.content"
    raw.touch()
    os.truncate(raw, size)
    scatter(raw, size, seed=seed, form="raw")
    return convert(raw, folder / f"{form}-{seed}.{form}", "raw", form)


def settle(path: Path) -> None:
    """Let enough time pass that a further change would show in the file's times."""
    wait_until(lambda: time.time_ns() > path.stat().st_ctime_ns + 2 * TIMESTAMP_GRANULARITY_NS)


def is_running(pid: int) -> bool:
    """Whether a process exists, and is more than a number that its parent has not asked for."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
