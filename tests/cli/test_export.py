"""``ovafs export`` as users run it: words, exit codes, signals, a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.filesystems import in_memory
from tests.support.pools import judge_ova, pool_builder, raw_image
from tests.support.processes import ENVIRONMENT, end, ovafs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.pools import PoolBuilder

MIB = 1 << 20


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[PoolBuilder]:
    """A pool with a machine of 40 MiB of data, ten blocks of an export."""
    with pool_builder(tmp_path) as builder:
        builder.add("web", raw_image(builder.images / "web.raw", 64 * MIB, hole=(20 * MIB, 44 * MIB)))
        yield builder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An empty folder for exports."""
    path = tmp_path / "target"
    path.mkdir()
    return path


def test_to_a_file(pool: PoolBuilder, target: Path) -> None:
    result = ovafs("export", pool.path, "web", target / "x.ova")
    assert re.fullmatch(rf"{re.escape(str(target))}/x\.ova: 40\.3 MiB, \d+\.\d s, .*B/s\n", result.stdout), (
        result.stdout
    )
    assert result.stderr == ""
    pool.judge("web", target / "x.ova")


def test_into_a_folder_under_the_name_of_the_mount(pool: PoolBuilder, target: Path) -> None:
    images = [raw_image(pool.images / "c.raw")]
    machine = pool.add("a/b: ü", *images, kind="template")
    ovafs("export", "--template", pool.path, "a/b: ü", target)
    assert os.listdir(target) == ["a_b: ü.ova"]
    judge_ova(target / "a_b: ü.ova", machine, images)


def test_json(pool: PoolBuilder, target: Path) -> None:
    result = ovafs("export", "--json", pool.path, "web", target)
    document = json.loads(result.stdout)
    assert document.keys() == {
        *("path", "name", "uuid", "generation", "size"),
        *("copied", "cloned", "resumed_at", "seconds"),
    }
    assert document["path"] == str(target / "web.ova")
    assert document["size"] == (target / "web.ova").stat().st_size
    assert document["copied"] + document["cloned"] <= document["size"]
    assert (document["name"], document["uuid"]) == ("web", pool.pool.find("web").uuid)
    assert result.stderr == ""


def test_quiet(pool: PoolBuilder, target: Path) -> None:
    result = ovafs("export", "-q", pool.path, "web", target)
    assert (result.stdout, result.stderr) == ("", "")


def test_existing_file_and_force(pool: PoolBuilder, target: Path) -> None:
    path = target / "web.ova"
    path.write_bytes(b"old")
    result = ovafs("export", pool.path, "web", target, status=1)
    assert result.stderr == (
        f"ovafs: error: {path} exists; remove it, give another name, or say --force to replace it\n"
    )
    assert path.read_bytes() == b"old"
    ovafs("export", "--force", pool.path, "web", target)
    pool.judge("web", path)


@pytest.mark.parametrize(
    ("destination", "words"),
    [
        ("missing/", "is no directory; make it first"),
        ("backup", "is no directory, and as a file it would need a name that ends in .ova"),
        ("missing/x.ova", "cannot be made: No such file or directory"),
    ],
)
def test_impossible_destinations(pool: PoolBuilder, target: Path, destination: str, words: str) -> None:
    result = ovafs("export", pool.path, "web", f"{target}/{destination}", status=1)
    assert re.fullmatch(rf"ovafs: error: .*{re.escape(words)}\n", result.stderr), result.stderr
    assert os.listdir(target) == []


def test_unknown_machine(pool: PoolBuilder, target: Path) -> None:
    result = ovafs("export", pool.path, "nobody", target, status=1)
    assert "there is no machine 'nobody'" in result.stderr


def test_broken_machine(pool: PoolBuilder, target: Path) -> None:
    pool.disks["web"][0].path.unlink()
    result = ovafs("export", pool.path, "web", target, status=1)
    assert result.stderr.startswith(f"ovafs: error: {pool.images}/web.raw: ")
    assert os.listdir(target) == []


def test_no_room(pool: PoolBuilder, tmp_path: Path) -> None:
    with in_memory(tmp_path, "tmpfs", "size=30M") as folder:
        result = ovafs("export", pool.path, "web", folder, status=1)
        assert result.stderr == (
            f"ovafs: error: the export needs 40.3 MiB, 30.0 MiB are free on {folder}; make room there, or give another"
            " place\n"
        )
        assert os.listdir(folder) == []


def test_disk_full_on_the_way(pool: PoolBuilder, tmp_path: Path) -> None:
    """Another program takes the room that there was at first."""
    with in_memory(tmp_path, "tmpfs", "size=45M") as folder:
        slow = SlowExport(pool, folder)
        slow.wait_for_writes(5 * MIB)
        (folder / "other").write_bytes(bytes(20 * MIB))
        status, _, messages = slow.result()
        assert status == 1
        assert re.fullmatch(
            rf"ovafs: error: {folder}/web\.ova\.tmp cannot be written: No space left on device; make room on its file"
            rf" system; {folder}/web\.ova\.tmp holds 2\d.\d MiB of 40\.3 MiB, go on with: ovafs export --resume .*\n",
            messages,
        ), messages
        (folder / "other").unlink()
        ovafs("export", "--resume", pool.path, "web", folder)
        pool.judge("web", folder / "web.ova")


def test_interrupted_where_it_cannot_be_resumed(pool: PoolBuilder, tmp_path: Path) -> None:
    with in_memory(tmp_path, "ramfs") as folder:
        slow = SlowExport(pool, folder)
        slow.wait_for_writes(5 * MIB)
        status, _, messages = slow.send(signal.SIGINT)
        assert status == 130
        assert messages == ("ovafs: interrupted: nothing is kept, the file system has no extended attributes\n")
        assert os.listdir(folder) == []


class SlowExport:
    """An export whose every block takes a quarter of a second, with a checkpoint each 4 MiB."""

    PROGRAM = """
import time
import ovafs.transfer.export_file
from ovafs.cli.main import main
from ovafs.transfer.partial_file import PartialFile

def slow_write(partial, buffer, offset, write=PartialFile.write):
    time.sleep(0.25)
    write(partial, buffer, offset)

ovafs.transfer.export_file.CHECKPOINT_BYTES = 4 << 20
PartialFile.write = slow_write
main()
"""

    def __init__(self, pool: PoolBuilder, target: Path) -> None:
        self.partial = target / "web.ova.tmp"
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.PROGRAM, "export", str(pool.path), "web", str(target)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
        )

    def wait_for_writes(self, offset: int) -> None:
        """Until something stands at ``offset`` in the file; fails when the export ends before."""
        deadline = time.monotonic() + 60
        while not self._is_written(offset):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _is_written(self, offset: int) -> bool:
        try:
            with self.partial.open("rb") as file:
                return any(os.pread(file.fileno(), 512, offset))
        except FileNotFoundError:
            return False

    def send(self, number: signal.Signals) -> tuple[int, str, str]:
        """Send a signal; the exit code, output and messages."""
        self.process.send_signal(number)
        return self.result()

    def result(self) -> tuple[int, str, str]:
        """Wait for the end: exit code, output and messages."""
        output, messages = self.process.communicate(timeout=60)
        return self.process.returncode, output.decode(), messages.decode()


@pytest.fixture
def slow(pool: PoolBuilder, target: Path) -> Iterator[SlowExport]:
    export = SlowExport(pool, target)
    try:
        yield export
    finally:
        end(export.process)
        for pipe in (export.process.stdout, export.process.stderr):
            assert pipe is not None
            pipe.close()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_and_resumed(
    pool: PoolBuilder, target: Path, slow: SlowExport, number: signal.Signals, code: int
) -> None:
    slow.wait_for_writes(9 * MIB)
    assert os.listdir(target) == ["web.ova.tmp"]
    status, output, messages = slow.send(number)
    assert (status, output) == (code, "")
    assert re.fullmatch(
        rf"ovafs: interrupted: {re.escape(str(target))}/web\.ova\.tmp holds \d\S* MiB of 40\.3 MiB,"
        rf" go on with: ovafs export --resume {pool.path} web {target}\n",
        messages,
    ), messages
    assert os.listdir(target) == ["web.ova.tmp"]
    refused = ovafs("export", pool.path, "web", target, status=1)
    assert "web.ova.tmp exists: an export was interrupted; go on with --resume, or remove it" in refused.stderr

    # The very command that was shown.
    arguments = messages.rstrip().partition("go on with: ovafs ")[2].split()
    result = ovafs(*arguments)
    assert "resumed at" in result.stdout
    assert os.listdir(target) == ["web.ova"]
    ovafs("export", pool.path, "web", target / "whole.ova")
    assert (target / "web.ova").read_bytes() == (target / "whole.ova").read_bytes()
    pool.judge("web", target / "web.ova")


def test_ignored_signal_stays_ignored(pool: PoolBuilder, target: Path) -> None:
    """As under nohup: the terminal that goes away does not end the export."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        slow = SlowExport(pool, target)
    finally:
        signal.signal(signal.SIGHUP, before)
    slow.wait_for_writes(5 * MIB)
    assert slow.send(signal.SIGHUP)[0] == 0
    pool.judge("web", target / "web.ova")


def test_killed_and_resumed(pool: PoolBuilder, target: Path, slow: SlowExport) -> None:
    slow.wait_for_writes(17 * MIB)
    slow.send(signal.SIGKILL)
    assert os.listdir(target) == ["web.ova.tmp"]
    result = ovafs("export", "--resume", "--json", pool.path, "web", target)
    assert json.loads(result.stdout)["resumed_at"] >= 4 * MIB
    pool.judge("web", target / "web.ova")


def test_another_export_at_the_same_time(pool: PoolBuilder, target: Path, slow: SlowExport) -> None:
    slow.wait_for_writes(MIB)
    for option in ((), ("--resume",), ("--force",)):
        result = ovafs("export", *option, pool.path, "web", target, status=1)
        assert "is being written by another export; wait until it has finished" in result.stderr
    assert slow.result()[0] == 0
    pool.judge("web", target / "web.ova")


def test_image_changed_on_the_way(pool: PoolBuilder, target: Path, slow: SlowExport) -> None:
    slow.wait_for_writes(5 * MIB)
    with (pool.images / "web.raw").open("r+b") as image:
        image.write(b"changed")
    status, _, messages = slow.result()
    assert status == 1
    assert re.fullmatch(
        rf"ovafs: error: {pool.images}/web\.raw: [^;]*changed[^;]*; nothing is kept, export again\n", messages
    ), messages
    assert os.listdir(target) == []


def test_resume_of_another_generation(pool: PoolBuilder, target: Path, slow: SlowExport) -> None:
    slow.wait_for_writes(9 * MIB)
    slow.send(signal.SIGINT)
    pool.change("web", description="other")
    result = ovafs("export", "--resume", pool.path, "web", target, status=1)
    assert result.stderr == (
        f"ovafs: error: {target}/web.ova.tmp holds another state of the machine, or another machine;"
        " remove it and export again without --resume\n"
    )


def test_progress_on_a_terminal(pool: PoolBuilder, target: Path) -> None:
    shown, code = on_terminal("export", str(pool.path), "web", str(target))
    assert code == 0
    assert "web: 100%" in shown
    assert re.search(r"40\.3M/40\.3M \[.*B/s\]", shown), shown
    quiet, code = on_terminal("export", "--force", "-q", str(pool.path), "web", str(target))
    assert (quiet, code) == ("", 0)


def on_terminal(*arguments: str) -> tuple[str, int]:
    """What ``ovafs`` shows on stderr, which is a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    command = [sys.executable, "-m", "ovafs", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=ENVIRONMENT) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError:  # the other end is closed
            pass
        os.close(ours)
    return shown.decode(), process.returncode
