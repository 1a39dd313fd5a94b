"""Who shares a process, and when it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import ReadFailed, SourceError
from ovafs.storage.engine import engines as engines_module
from ovafs.storage.engine.engines import Engines
from ovafs.storage.engine.volume import open_engine_volume
from tests.support.engines import engines, foreign_image, is_running, model_volume, settle, wait_until
from tests.support.processes import ENVIRONMENT

if TYPE_CHECKING:
    from ovafs.storage.engine.volume import EngineVolume


def open_vmdk(pool: Engines, path: Path) -> EngineVolume:
    return open_engine_volume(pool, model_volume(path, "vmdk"))


def test_readers_of_a_disk_share_a_process(tmp_path: Path) -> None:
    image, other = foreign_image(tmp_path, "vmdk"), foreign_image(tmp_path, "vmdk", seed=2)
    settle(other)
    with engines() as pool:
        volumes = [open_vmdk(pool, image), open_vmdk(pool, image), open_vmdk(pool, other)]
        running = {one.path: one for one in pool.running()}
        assert {path: one.readers for path, one in running.items()} == {str(image): 2, str(other): 1}
        volumes.pop(0).close()
        assert is_running(running[str(image)].pid)
        for volume in volumes:
            volume.close()
            volume.close()  # once is enough, twice harms nobody
        assert not any(is_running(one.pid) for one in running.values())
        assert pool.running() == []


def test_many_threads_open_at_once(tmp_path: Path) -> None:
    image = foreign_image(tmp_path, "vmdk")
    settle(image)
    volumes: list[EngineVolume] = []
    with engines() as pool:
        threads = [threading.Thread(target=lambda: volumes.append(open_vmdk(pool, image))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [one.readers for one in pool.running()] == [8]
        for volume in volumes:
            volume.close()
        assert pool.running() == []


def test_a_process_waits_for_the_next_reader_and_ends(tmp_path: Path) -> None:
    image = foreign_image(tmp_path, "vmdk")
    settle(image)
    with engines(grace=2) as pool:
        open_vmdk(pool, image).close()
        (first,) = pool.running()
        assert first.readers == 0
        open_vmdk(pool, image).close()
        assert [one.pid for one in pool.running()] == [first.pid]
        wait_until(lambda: not is_running(first.pid))
        assert pool.running() == []


def test_a_process_from_before_its_image_was_settled_is_not_shared(tmp_path: Path) -> None:
    image = foreign_image(tmp_path, "vmdk")
    with engines(grace=60) as pool:
        os.utime(image)
        young = open_vmdk(pool, image)
        settle(image)
        old = open_vmdk(pool, image)
        assert sorted(one.readers for one in pool.running()) == [1, 1]
        young.close()
        assert [one.readers for one in pool.running()] == [1]
        old.close()
        assert [one.readers for one in pool.running()] == [0]


def test_only_some_processes_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines_module, "MOST_IDLE", 2)
    images = [foreign_image(tmp_path, "vmdk", 1 << 20, seed=seed) for seed in range(4)]
    settle(images[-1])
    with engines(grace=60) as pool:
        for image in images:
            open_vmdk(pool, image).close()
        assert [one.path for one in pool.running()] == [str(image) for image in images[2:]]


def test_nothing_runs_or_lies_there_after_the_end(tmp_path: Path) -> None:
    image = foreign_image(tmp_path, "vmdk")
    settle(image)
    with tempfile.TemporaryDirectory(prefix="engines-") as base:
        with contextlib.closing(Engines(base, 60)) as pool:
            assert os.listdir(base) == []  # nothing before it is needed
            volume = open_vmdk(pool, image)
            (one,) = pool.running()
            (place,) = Path(base).iterdir()
            assert place.stat().st_mode & 0o777 == 0o700
            assert sorted(path.name for path in place.iterdir()) == ["1", "1.pid", "1.ready"]
        assert not is_running(one.pid)
        assert os.listdir(base) == []
        with pytest.raises(ReadFailed):
            open_vmdk(pool, image)
        volume.close()


def test_a_place_that_others_can_write(tmp_path: Path) -> None:
    image = foreign_image(tmp_path, "vmdk")
    with tempfile.TemporaryDirectory(prefix="engines-") as base:
        os.chmod(base, 0o777)  # noqa: S103 - what is not to be trusted
        with contextlib.closing(Engines(base)) as pool, pytest.raises(SourceError, match="can be written by others"):
            open_vmdk(pool, image)


def test_a_place_with_a_path_that_is_too_long(tmp_path: Path) -> None:
    image = foreign_image(tmp_path, "vmdk")
    with contextlib.closing(Engines(str(tmp_path / ("x" * 90)))) as pool, pytest.raises(SourceError, match="too long"):
        open_vmdk(pool, image)


_HOLDER = """
import sys
from ovafs.model import DiskFormat, Volume
from ovafs.storage.engine.engines import Engines
from ovafs.storage.engine.volume import open_engine_volume
engines = Engines(sys.argv[1])
volume = open_engine_volume(engines, Volume(uuid='', path=sys.argv[2], format=DiskFormat.VMDK))
print(engines.running()[0].pid, flush=True)
sys.stdin.read()
"""


def test_a_process_ends_with_an_ovafs_that_is_killed(tmp_path: Path) -> None:
    image = foreign_image(tmp_path, "vmdk")
    with tempfile.TemporaryDirectory(prefix="engines-") as base:
        words = [sys.executable, "-c", _HOLDER, base, str(image)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT) as holder:
            assert holder.stdout is not None
            pid = int(holder.stdout.readline())
            assert is_running(pid)
            holder.send_signal(signal.SIGKILL)
        wait_until(lambda: not is_running(pid))
        assert len(os.listdir(base)) == 1  # which the next one removes
        with contextlib.closing(Engines(base)) as pool:
            pool.end_abandoned()
            assert os.listdir(base) == []
