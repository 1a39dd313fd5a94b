"""Real mounts: one ``ovafs mount -f`` process each, watched while it starts, its log shown when it fails."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import run, started

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

# How long a mount may take to answer and to end; generous, because a loaded machine is not an error.
PATIENCE = 60.0

# A file that was closed is released later, and the kernel no longer waits for the answer once the mount is gone.
_NO_COMPLAINT = "fuse_release(): fuse_reply_* failed with No such file or directory"

_COMPLAINT = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b|^Traceback|^<[0-4]>", re.MULTILINE)


@dataclass
class Mount:
    """A mount that answers. ``path`` is the mount point, ``process`` the daemon."""

    path: Path
    process: subprocess.Popen[bytes]
    log_file: Path
    expected: list[str] = field(default_factory=list)
    killed: bool = False

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        return self.process.pid

    def log(self) -> str:
        """Everything that the daemon has said so far."""
        return self.log_file.read_text(encoding="utf-8", errors="backslashreplace")

    def expect_log(self, pattern: str) -> None:
        """The daemon is to log a warning or an error that contains the regular expression ``pattern``."""
        self.expected.append(pattern)

    def kill(self) -> None:
        """End the daemon by SIGKILL, as a crash would; the mount point must be dead, not empty."""
        self.process.kill()
        self.process.wait(PATIENCE)
        self.killed = True
        assert_dead(self.path)

    def terminate(self) -> None:
        """End the daemon by SIGTERM, as a service manager does, and wait for it."""
        self.process.terminate()
        self.process.wait(PATIENCE)


def assert_dead(mount_point: Path) -> None:
    """The mount point answers every request with ENOTCONN: never an empty or the underlying directory."""
    for request in (os.listdir, os.stat):
        with pytest.raises(OSError) as caught:
            request(mount_point)
        assert caught.value.errno == errno.ENOTCONN, f"{mount_point}: {caught.value}"


def is_mounted(mount_point: Path) -> bool:
    """Something is mounted there, dead or alive (``os.path.ismount`` is False for a dead one)."""
    return str(mount_point) in mount_points()


def mount_points() -> set[str]:
    """Every FUSE mount point that this process sees."""
    with open("/proc/self/mounts", encoding="utf-8") as table:
        fields = [line.split() for line in table]
    return {_unescape(line[1]) for line in fields if line[2].startswith("fuse.") or line[2] == "fuse"}


def _unescape(name: str) -> str:
    """The kernel writes blanks and backslashes in octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), name)


@contextlib.contextmanager
def mounted(source: str | Path, folder: Path, *options: str, program: Sequence[str] = ("ovafs",)) -> Iterator[Mount]:
    """Mount ``source`` at ``folder/mnt`` and unmount it at the end.

    ``options`` are mount options ("ro", "uid=1000"). At the end the daemon must exit with 0 and must not have
    logged a warning or an error but those that the test expects. When the test itself fails, the
    daemon's log is attached to the failure. A second mount in one folder is the same mount point again.
    ``program``: the module to run as ovafs, and its own arguments.
    """
    mount_point = folder / "mnt"
    mount_point.mkdir(exist_ok=True)
    log_file = folder / "ovafs.log"
    log_file.unlink(missing_ok=True)
    command: list[str | Path] = [
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        *program,
        "mount",
        source,
        mount_point,
        "-f",
    ]
    if options:
        command += ["-o", ",".join(options)]
    with started(*command, log=log_file) as process:
        mount = Mount(mount_point, process, log_file)
        try:
            _wait_until_it_answers(mount)
            yield mount
        except BaseException as problem:
            problem.add_note(f"--- log of ovafs mount ---\n{mount.log()}")
            raise
        else:
            _finish(mount)
        finally:
            detach(mount_point)


def _wait_until_it_answers(mount: Mount) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        status = mount.process.poll()
        if status is not None:
            pytest.fail(f"ovafs mount ended with exit code {status} before the mount answered")
        # The mount answers a moment before its daemon is done with it (the kernel's read-ahead is set in between).
        if is_mounted(mount.path) and "mounted on" in mount.log():
            with contextlib.suppress(OSError):  # the daemon has just died: the next round says so
                list(mount.path.iterdir())
                return
        time.sleep(0.02)
    pytest.fail(f"{mount.path} did not answer within {PATIENCE:.0f} s")


def _finish(mount: Mount) -> None:
    """Unmount as a user would, and judge how the daemon ended."""
    if mount.killed:
        return
    if is_mounted(mount.path):
        unmount(mount.path)
    try:
        status = mount.process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        mount.process.send_signal(signal.SIGABRT)  # says where each thread stands, with faulthandler
        mount.process.wait(PATIENCE)
        pytest.fail(f"the daemon still runs {PATIENCE:.0f} s after the unmount\n{mount.log()}")
    if status != 0:
        pytest.fail(f"ovafs mount ended with exit code {status}\n{mount.log()}")
    _judge_log(mount)


def _judge_log(mount: Mount) -> None:
    log = mount.log()
    complaints = [line for line in log.splitlines() if _COMPLAINT.search(line) and _NO_COMPLAINT not in line]
    unexpected = [line for line in complaints if not any(re.search(pattern, line) for pattern in mount.expected)]
    missing = [pattern for pattern in mount.expected if not any(re.search(pattern, line) for line in complaints)]
    if unexpected or missing:
        pytest.fail(f"log: unexpected {unexpected}, missing {missing}\n{log}")


def unmount(mount_point: Path) -> None:
    """``fusermount3 -u``; a mount that is still in use for a moment (a reader is just closing) is tried again."""
    deadline = time.monotonic() + PATIENCE
    while (result := run("fusermount3", "-u", mount_point, status=None)).returncode != 0:
        if time.monotonic() > deadline or "busy" not in result.stderr:
            pytest.fail(f"fusermount3 -u: {result.stderr}")
        time.sleep(0.1)


def detach(mount_point: Path) -> None:
    """Take a mount away that is dead or in use, without waiting for anybody."""
    while is_mounted(mount_point):
        run("fusermount3", "-u", "-z", mount_point)
