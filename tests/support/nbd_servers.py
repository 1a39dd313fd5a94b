"""NBD servers of other projects: qemu-nbd, qemu-storage-daemon and nbdkit, on sockets of a test's own."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ovafs.formats.nbd import Export
from tests.support.processes import started

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

PATIENCE = 20.0


@contextlib.contextmanager
def qemu_nbd(image: Path, form: str, *options: str) -> Iterator[Export]:
    """A process that serves an image, also one that is in use."""
    with _serving("qemu-nbd", "-r", "-t", "-e", "8", "-f", form, *options, "-k", "SOCKET", str(image)) as (socket, _):
        yield Export(socket, "")


@contextlib.contextmanager
def writable_disk(image: Path) -> Iterator[Export]:
    """A raw disk that a machine can run on."""
    with _serving("qemu-nbd", "-t", "-e", "8", "-f", "raw", "-k", "SOCKET", str(image)) as (socket, _):
        yield Export(socket, "")


@contextlib.contextmanager
def storage_daemon(image: Path, form: str, name: str) -> Iterator[Export]:
    """QEMU's block layer without a machine; its server has names for exports."""
    words = (
        *("qemu-storage-daemon", "--blockdev", f"driver=file,node-name=file,filename={image},read-only=on"),
        *("--blockdev", f"driver={form},node-name=disk,file=file,read-only=on"),
        *("--nbd-server", "addr.type=unix,addr.path=SOCKET"),
        *("--export", f"type=nbd,id=export,node-name=disk,name={name}"),
    )
    with _serving(*words) as (socket, _):
        yield Export(socket, name)


@contextlib.contextmanager
def nbdkit(*words: str) -> Iterator[tuple[Export, subprocess.Popen[bytes]]]:
    """nbdkit with a plugin and filters; also its process."""
    with _serving("nbdkit", "-r", "-f", "-U", "SOCKET", *words) as (socket, process):
        yield Export(socket, ""), process


@contextlib.contextmanager
def _serving(*words: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    # Paths of sockets are short; pytest's are not.
    with tempfile.TemporaryDirectory(prefix="nbd-") as folder:
        socket = os.path.join(folder, "s")
        log = Path(folder, "log")
        with started(*(word.replace("SOCKET", socket) for word in words), log=log) as process:
            deadline = time.monotonic() + PATIENCE
            while not os.path.exists(socket):
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"{words[0]} does not serve: {log.read_text()}")
                time.sleep(0.01)
            yield socket, process
