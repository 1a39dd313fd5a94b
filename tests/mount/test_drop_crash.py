"""The daemon dies while a package is dropped: the pool holds whole machines only, and the next copy imports."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.drop import DISK, place_in
from tests.support.filesystems import on_loop
from tests.support.killing import MOMENTS
from tests.support.mount import PATIENCE
from tests.support.packages import guest_bytes, import_pool
from tests.support.pools import eventually
from tests.support.processes import is_traced, run, started

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

REGISTERED = {"when the machine is registered", "before the writer hears of it"}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_in_an_import(tmp_path: Path, moment: str) -> None:
    with place_in(tmp_path, program=("tests.support.killing", moment)) as place:
        source = place.package("web")
        os.utime(source, (1_600_000_000, 1_600_000_000))
        result = run("rsync", "-a", source, f"{place.drop}/", status=None)
        assert result.returncode != 0, "a copy that was not acknowledged must not look like one"
        place.mount.process.wait(PATIENCE)
        place.mount.killed = True
        with pytest.raises(OSError, match="not connected"):
            os.listdir(place.mount.path)
    with place_in(tmp_path) as place:
        assert place.machines() == (["web"] if moment in REGISTERED else [])
        with import_pool(place.pool) as pool:
            pool.assert_whole(len(place.machines()))
        # Of a registered machine there is a receipt for rsync --inplace; one with a temporary name came before it.
        run("rsync", "-a", "--inplace", source, f"{place.drop}/")
        place.assert_imported("web")
        assert place.machines() == ["web"], "the copy that was sent again is the machine that was there"
        assert place.names() == ["web.ova"]
        with import_pool(place.pool) as pool:
            pool.assert_whole(1)


def test_everything_is_on_stable_storage_before_the_writer_hears_of_it(tmp_path: Path) -> None:
    """The order that survives a power cut, as the kernel sees it: note, volume, name, directory, catalog, reply."""
    trace = tmp_path / "trace"
    with place_in(tmp_path) as place:
        strace = ("strace", "-f", "-y", "-qq", "-e", "trace=openat,fsync,fdatasync,rename,renameat,renameat2,writev")
        with started(*strace, "-o", trace, "-p", str(place.mount.pid), log=tmp_path / "strace.log") as tracer:
            eventually(lambda: is_traced(place.mount.pid), "strace is attached")
            with (place.drop / "web.ova").open("wb") as file:
                file.write(place.package("web").read_bytes())
                file.flush()
                mark = len(trace.read_text().splitlines())
            end = len(trace.read_text().splitlines())
            tracer.terminate()
            tracer.wait(PATIENCE)
        calls = [line.split(maxsplit=1)[1] for line in trace.read_text().splitlines()]
        noted = _first(calls, 0, r"fdatasync\(\d+<.*catalog\.sqlite-wal>")
        made = _first(calls, noted, r"openat\(.*volumes/.*O_CREAT")
        stored = _first(calls, made, r"fsync\(\d+<.*/volumes/[^>]+>")
        named = _first(calls, stored, r"rename\(")
        listed = _first(calls, named, r"fsync\(\d+<.*/volumes>")
        registered = _first(calls, listed, r"fdatasync\(\d+<.*catalog\.sqlite-wal>")
        assert mark <= registered < end, "close(2) returned before the machine was on stable storage"
        place.assert_imported("web")


def _first(calls: Sequence[str], start: int, pattern: str) -> int:
    for number in range(start, len(calls)):
        if re.match(pattern, calls[number]):
            return number
    pytest.fail(f"no {pattern} behind call {start} of:\n" + "\n".join(calls))


def test_a_locked_catalog_when_an_upload_is_complete(tmp_path: Path) -> None:
    """The writer hears of it, nothing is registered or left, and the next copy imports."""
    with place_in(tmp_path) as place, import_pool(place.pool) as pool:
        place.mount.expect_log("is locked by another program")
        file = (place.drop / "web.ova").open("wb", buffering=0)
        file.write(place.package("web").read_bytes())
        with pool.locked(), pytest.raises(OSError, match="Input/output error"):
            file.close()
        assert "is locked by another program" in (place.drop / "web.ova.report.txt").read_text()
        assert place.machines() == []
        run("cp", place.folder / "web.ova", place.drop)
        place.assert_imported("web")
        pool.assert_whole(1)


@pytest.mark.parametrize("sent", [1 << 20, 3 << 20])
def test_unmounted_in_an_upload(tmp_path: Path, sent: int) -> None:
    """``umount -l`` and SIGTERM while a writer is at work: nothing of the upload stays, and the next one imports."""
    with place_in(tmp_path) as place:
        data = place.package("web").read_bytes()
        file = (place.drop / "web.ova").open("wb", buffering=0)
        file.write(data[:sent])
        place.mount.terminate()
        with pytest.raises(OSError, match=r"not connected|aborted"):
            file.write(data[sent:])
        with pytest.raises(OSError, match=r"not connected|aborted"):
            file.close()
    with place_in(tmp_path) as place:
        place.assert_nothing_left()
        run("cp", place.package("web"), place.drop)
        place.assert_imported("web")


@pytest.mark.parametrize("option", ["drop_format=qcow2", "drop_format=raw"])
def test_a_power_cut_after_the_answer(tmp_path: Path, option: str) -> None:
    """Once cp has ended well, the machine survives that everything is lost which the file system had not stored."""
    with on_loop(tmp_path, "xfs") as storage:
        with place_in(tmp_path, option, pool=storage / "pool") as place:
            run("cp", place.package("web"), place.drop)
            place.mount.kill()
        run("xfs_io", "-x", "-c", "shutdown", storage)
        run("umount", storage)
        run("mount", "-o", "loop", tmp_path / "xfs.img", storage)
        with place_in(tmp_path, option, pool=storage / "pool") as place:
            assert place.machines() == ["web"]
            assert place.names() == ["web.ova"]
        with import_pool(storage / "pool") as pool:
            pool.assert_whole(1)
            (disk,) = pool.pool.find("web").disks
            assert guest_bytes(disk.volume.path, disk.volume.format, tmp_path) == DISK
