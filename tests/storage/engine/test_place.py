"""What a killed ovafs leaves: ended if it is what the pid file says, and left alone otherwise."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ovafs.storage.engine.command import serve, with_pid_file
from ovafs.storage.engine.place import Place, end_abandoned, pid_file, ready_file, start_time
from tests.support.engines import is_running, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def base() -> Iterator[Path]:
    # Paths of sockets are short; pytest's are not.
    with tempfile.TemporaryDirectory(prefix="place-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def engine(socket: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that serves zeros, as an engine does."""
    command = with_pid_file(serve({"driver": "null-co", "size": "1M"}, socket, ready_file(socket)), pid_file(socket))
    with subprocess.Popen(command) as process:
        try:
            wait_until(lambda: os.path.exists(ready_file(socket)))
            yield process
        finally:
            process.kill()


def abandon(place: Place) -> None:
    """Let go of a place as a process does that is killed."""
    os.close(place._fd)
    place._fd = -1


def test_the_engine_of_a_killed_process_is_ended(base: Path, expect_log: Callable[[str], None]) -> None:
    place = Place(str(base))
    with engine(place.new_socket()) as process:
        end_abandoned(str(base))
        assert is_running(process.pid)  # somebody holds the place
        abandon(place)
        end_abandoned(str(base))
        expect_log(rf"ended the qemu-nbd of an ovafs that was killed \(process {process.pid}\)")
        assert process.wait(20) == -9
    assert list(base.iterdir()) == []


def test_the_next_place_ends_it_too(base: Path, expect_log: Callable[[str], None]) -> None:
    place = Place(str(base))
    with engine(place.new_socket()) as process:
        abandon(place)
        with contextlib.closing(Place(str(base))) as other:
            expect_log("ended the qemu-nbd")
            assert process.wait(20) == -9
            assert [str(path) for path in base.iterdir()] == [other.path]


def test_a_process_that_has_the_number_by_chance(base: Path) -> None:
    place = Place(str(base))
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        stat = Path(f"/proc/{stranger.pid}/stat").read_text(encoding="ascii")
        Path(pid_file(place.new_socket())).write_text(stat, encoding="ascii")
        abandon(place)
        end_abandoned(str(base))
        time.sleep(0.1)
        assert is_running(stranger.pid)
        stranger.kill()
    assert list(base.iterdir()) == []


def test_an_engine_that_began_at_another_time(base: Path) -> None:
    place = Place(str(base))
    socket = place.new_socket()
    with engine(socket) as process:
        stat = Path(pid_file(socket)).read_text(encoding="ascii")
        began = str(start_time(stat))
        Path(pid_file(socket)).write_text(stat.replace(f" {began} ", f" {int(began) - 1} "), encoding="ascii")
        abandon(place)
        end_abandoned(str(base))
        time.sleep(0.1)
        assert is_running(process.pid)


@pytest.mark.parametrize(
    "text", ["", "x", "1", "-1 (x) S", "99999999999999999999 (sh) S 1", "4194304 (sh) S" + " 1" * 40]
)
def test_a_pid_file_that_says_nothing(base: Path, text: str) -> None:
    place = Place(str(base))
    Path(pid_file(place.new_socket())).write_text(text, encoding="ascii")
    abandon(place)
    end_abandoned(str(base))
    assert list(base.iterdir()) == []


def test_what_is_no_place_stays(base: Path) -> None:
    (base / "file").touch()
    (base / "link").symlink_to("/")
    end_abandoned(str(base))
    end_abandoned(str(base / "missing"))
    assert sorted(path.name for path in base.iterdir()) == ["file", "link"]


def test_the_time_when_a_process_began() -> None:
    assert start_time("7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 1234 20 21") == 1234
