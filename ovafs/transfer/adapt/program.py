"""Programs that run for long: with a time limit, ended with all that they have started, their output in a file.

Each has a mark in its environment, and so has what it starts: after a crash they are found by it, and ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ovafs.errors import AdaptationFailed
from ovafs.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from threading import Event

MAX_OUTPUT = 16 << 20
"""Bytes that a program may say."""

_MARK = "OVAFS_WORKPLACE"

_LOOK_SECONDS = 0.2

_END_SECONDS = 10.0
"""How long a program may take to end that was asked to."""


class Stopped(Exception):
    """What a program was to do is not wanted any more; it has ended."""


class Program:
    """How programs of one workplace are run; ``mark`` is what nothing else on the host has, a path of its own."""

    def __init__(self, mark: str, stop: Event) -> None:
        """``stop``, once set, ends what runs."""
        self._mark = mark
        self._stop = stop

    def run(self, words: Sequence[str], output: str, limit: float, environment: Mapping[str, str]) -> int:
        """Run a program with its output in the file ``output``; returns its exit code. Blocks.

        ``limit`` is in seconds; ``environment`` is added to that of this process. Raises AdaptationFailed when it
        cannot be started, takes longer or says too much, and Stopped; it has ended then, with all that it has started.
        """
        with open(output, "wb") as file:
            try:
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment, _MARK: self._mark},
                    start_new_session=True,
                )
            except OSError as error:
                raise AdaptationFailed(f"{words[0]} cannot be started: {error.strerror}") from error
        try:
            self._watch(process.pid, words[0], output, limit)
        finally:
            _end_group(process.pid)
            status = process.wait()
            self.end_orphans()
        return status

    def _watch(self, pid: int, name: str, output: str, limit: float) -> None:
        """Wait until it has ended, or is to be ended."""
        deadline = time.monotonic() + limit
        while not _has_ended(pid):
            if self._stop.wait(_LOOK_SECONDS):
                raise Stopped
            if time.monotonic() > deadline:
                raise AdaptationFailed(f"{name} was ended: it took more than {format_duration(limit)}")
            if os.stat(output).st_size > MAX_OUTPUT:
                raise AdaptationFailed(f"{name} was ended: it said more than {format_size(MAX_OUTPUT)}")

    def end_orphans(self) -> None:
        """End what has the mark: programs of a process that was killed, or what they have left behind."""
        mark = f"{_MARK}={self._mark}".encode()
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if mark in (place / "environ").read_bytes().split(b"\0"):
                    os.kill(int(place.name), signal.SIGKILL)


def _has_ended(pid: int) -> bool:
    """Its number stays its own until it is waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end_group(pid: int) -> None:
    """With QEMU, which libguestfs starts; ``pid`` was not waited for yet."""
    deadline = time.monotonic() + _END_SECONDS
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGTERM)
        while not _has_ended(pid) and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS / 10)
        os.killpg(pid, signal.SIGKILL)
