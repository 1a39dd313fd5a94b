"""The file systems under test, each one process that is mounted while a ``with`` block runs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.bench.measure import run
from tests.bench.minimal_fs import set_read_ahead

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PATIENCE = 60.0  # seconds for a mount to answer or to end
C_EXAMPLE_SOURCE = Path("/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c")
C_EXAMPLE_HELPERS = C_EXAMPLE_SOURCE.with_name("passthrough_helpers.h")


class Served(NamedTuple):
    """A mount that answers: where, by which process, and the seconds from its start to its first answer."""

    root: Path
    pid: int
    start_seconds: float


@contextlib.contextmanager
def ovafs(source: Path | str, mount_point: Path, *, under: Sequence[str] = (), options: str = "rw") -> Iterator[Served]:
    """The file system under test; ``under`` is a command that runs it (a tracer)."""
    command = [*under, sys.executable, "-m", "ovafs", "mount", str(source), str(mount_point), "-f", "-o", options]
    with _mounted(command, mount_point) as served:
        yield served


@contextlib.contextmanager
def minimal(plain_file: Path, mount_point: Path) -> Iterator[Served]:
    """``minimal_fs`` showing ``plain_file``; it sets the same read-ahead as ovafs."""
    command = [sys.executable, "-m", "tests.bench.minimal_fs", str(plain_file), str(mount_point)]
    with _mounted(command, mount_point) as served:
        yield served


@contextlib.contextmanager
def c_example(program: Path, folder: Path, mount_point: Path, read_ahead_kib: int | None = None) -> Iterator[Served]:
    """libfuse's ``passthrough_ll`` showing ``folder``, with its defaults, or with another read-ahead."""
    with _mounted([str(program), "-f", "-o", f"source={folder}", str(mount_point)], mount_point) as served:
        if read_ahead_kib is not None:
            set_read_ahead(mount_point, read_ahead_kib)
        yield served


def build_c_example(folder: Path) -> Path:
    """Compile Debian's copy of the example in ``folder``."""
    program = folder / "passthrough_ll"
    flags = run("pkg-config", "--cflags", "--libs", "fuse3").split()
    run("gcc", "-O2", f"-I{C_EXAMPLE_HELPERS.parent}", str(C_EXAMPLE_SOURCE), *flags, "-o", str(program))
    return program


@contextlib.contextmanager
def _mounted(command: list[str], mount_point: Path) -> Iterator[Served]:
    mount_point.mkdir(exist_ok=True)
    log = mount_point.with_name(f"{mount_point.name}.log")
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        _wait_until_it_answers(process, mount_point, log)
        yield Served(mount_point, process.pid, time.perf_counter() - started)
    finally:
        _unmount(mount_point)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_answers(process: subprocess.Popen[bytes], mount_point: Path, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not os.path.ismount(mount_point):  # asks the file system itself, so it answers
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} does not serve {mount_point}:\n{log.read_text('utf-8', 'replace')}")
        time.sleep(0.005)


def _unmount(mount_point: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while f" {mount_point} " in Path("/proc/self/mounts").read_text("utf-8"):  # also one whose process died
        result = subprocess.run(["umount", mount_point], check=False, capture_output=True, text=True)
        if result.returncode and time.monotonic() > deadline:
            raise RuntimeError(result.stderr)
        time.sleep(0.02)
