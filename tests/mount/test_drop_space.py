"""The pool's file system is full at any moment of an import: ENOSPC to its writer, and nothing is left."""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.drop import MIB, place_in
from tests.support.filesystems import in_memory
from tests.support.packages import import_pool
from tests.support.processes import ovafs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.drop import Place

SIZE = 16 * MIB
STEP = MIB // 8


def in_order(source: Path, target: Path) -> None:
    """As dd writes: the first volume data meets a full file system, or the tables at its end, or the catalog."""
    with source.open("rb") as data, target.open("wb", buffering=0) as file:
        while piece := data.read(STEP):
            file.write(piece)


def backwards(source: Path, target: Path) -> None:
    """The last part first, as an NFS client may: it waits in the spool, which meets the full file system first."""
    data = source.read_bytes()
    with target.open("wb", buffering=0) as file:
        for start in reversed(range(0, len(data), STEP)):
            os.pwrite(file.fileno(), data[start : start + STEP], start)
            os.fsync(file.fileno())


@pytest.mark.parametrize("write", [in_order, backwards])
def test_space_ends_at_every_phase(tmp_path: Path, write: Callable[[Path, Path], None]) -> None:
    """There is a little more room for each try, until it is enough; near the end, page by page."""
    with in_memory(tmp_path, "tmpfs", f"size={SIZE}") as memory, place_in(tmp_path, pool=memory) as place:
        place.mount.expect_log("web.ova: not imported")
        enough = _grow(place, write, 0, STEP)
        assert enough > MIB
        ovafs("vm", "remove", place.pool, "web")
        place.assert_nothing_left()
        _grow(place, write, enough - STEP, os.sysconf("SC_PAGE_SIZE"))
        with import_pool(place.pool) as pool:
            pool.assert_whole(1)


def _grow(place: Place, write: Callable[[Path, Path], None], free: int, step: int) -> int:
    """Try with ``free`` bytes and more, until the machine is imported; return how many were enough."""
    source, target, ballast = place.package("web"), place.drop / "web.ova", place.pool / "ballast"
    while free < SIZE // 2:
        _leave(ballast, free)
        failed = 0
        try:
            write(source, target)
        except OSError as error:
            failed = error.errno or -1
        ballast.unlink()
        for entry in place.drop.iterdir():
            assert entry.name == target.name or re.search(r"No space left|is full", entry.read_text())
            entry.unlink()
        if not failed:
            place.assert_imported("web")
            return free
        assert failed == errno.ENOSPC, f"with {free} bytes free: {os.strerror(failed)}"
        place.assert_nothing_left()
        free += step
    pytest.fail(f"{free} bytes are not enough")


def _leave(ballast: Path, free: int) -> None:
    """Fill the file system but for ``free`` bytes."""
    status = os.statvfs(ballast.parent)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - free)
