"""Small file systems for tests, where this machine can make them: as root, and with loop devices."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterator

# XFS wants 300 MiB at least.
_MAKE = {"xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"), "btrfs": ("mkfs.btrfs", "-q"), "ext4": ("mkfs.ext4", "-q")}
_SIZE = 320 << 20


@contextlib.contextmanager
def in_memory(folder: Path, kind: str, options: str = "rw") -> Iterator[Path]:
    """A new tmpfs ("size=4M") or ramfs, which has no extended attributes, mounted in ``folder``."""
    _need_root()
    with _mounted(folder / kind, "-t", kind, "-o", options, kind) as path:
        yield path


@contextlib.contextmanager
def on_loop(folder: Path, kind: str, *options: str) -> Iterator[Path]:
    """A new file system of 320 MiB in a file, made with more ``options``, mounted in ``folder``."""
    _need_root()
    command = _MAKE[kind]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    _need_loop_device()
    image = folder / f"{kind}.img"
    with image.open("wb") as file:
        file.truncate(_SIZE)
    run(*command, *options, image)
    with _mounted(folder / kind, "-o", "loop", image) as path:
        yield path


@contextlib.contextmanager
def loop_device(image: Path) -> Iterator[Path]:
    """A block device with the content of a file."""
    _need_root()
    _need_loop_device()
    device = Path(run("losetup", "--find", "--show", image).stdout.strip())
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


def _need_loop_device() -> None:
    if run("losetup", "--find", status=None).returncode != 0:
        pytest.skip("no loop device is free")


def _need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount file systems")


@contextlib.contextmanager
def _mounted(path: Path, *arguments: str | Path) -> Iterator[Path]:
    path.mkdir()
    run("mount", *arguments, path)
    try:
        yield path
    finally:
        run("umount", path)
