"""What a test must not leave behind: open files, child processes, threads, mounts."""

from __future__ import annotations

import contextlib
import gc
import threading
from pathlib import Path

from tests.support.mount import mount_points


def resources(folder: Path) -> set[str]:
    """What this process holds now, and what is mounted below ``folder`` (other test runs mount elsewhere)."""
    mounts = {f"mount point {name}" for name in mount_points() if Path(name).is_relative_to(folder)}
    return _open_files() | _children() | _threads() | mounts


def left_over(folder: Path, before: set[str]) -> set[str]:
    """What is held now and was not held ``before``; unreachable objects are collected before they are blamed."""
    if resources(folder) - before:
        gc.collect()
    return resources(folder) - before


def _open_files() -> set[str]:
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor of this listing itself
            found.add(f"file descriptor {link.name} -> {link.readlink()}")
    return found


def _children() -> set[str]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            found |= {f"child process {pid}" for pid in (task / "children").read_text().split()}
    return found


def _threads() -> set[str]:
    """Threads that would keep the process alive; trio's idle workers are daemons and end by themselves."""
    return {f"thread {thread.name}" for thread in threading.enumerate() if not thread.daemon}
