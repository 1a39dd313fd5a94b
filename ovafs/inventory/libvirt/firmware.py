"""Firmware of this host for imported variables, and the files that those get."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ovafs.errors import NoSpace, WriteFailed
from ovafs.formats.domain.firmware import MAX_DESCRIPTION, FirmwareBuild, read_firmware

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DIRECTORIES = ("/etc/qemu/firmware", "/usr/share/qemu/firmware")
"""As QEMU's firmware.json has it: a file in the former replaces the one of its name in the latter."""

_MACHINE = "pc-q35-0.0"
"""Of the board that domains with UEFI get; descriptions have patterns like "pc-q35-*"."""


def firmware_builds(arch: str, directories: Sequence[str] = _DIRECTORIES) -> tuple[FirmwareBuild, ...]:
    """All that can take variables, the first choice first. None of other architectures than x86_64. Blocks."""
    if arch != "x86_64":
        return ()
    paths: dict[str, Path] = {}
    for directory in reversed(directories):
        paths |= {path.name: path for path in Path(directory).glob("*.json")}
    builds = (_build(paths[name], arch) for name in sorted(paths))
    return tuple(build for build in builds if build is not None)


def _build(path: Path, arch: str) -> FirmwareBuild | None:
    try:
        with path.open("rb") as file:
            build = read_firmware(file.read(MAX_DESCRIPTION), arch, _MACHINE)
        return None if build is None else build._replace(size=os.stat(build.template).st_size)
    except OSError:
        return None


@contextlib.contextmanager
def new_variables(path: str, data: bytes) -> Iterator[None]:
    """A new file with a firmware's variables: on stable storage in the block, and removed if that fails.

    It is locked (flock(2)) meanwhile, so that nobody takes it for a leftover. Raises NoSpace, WriteFailed.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _write_error(path, error) from error
    try:
        try:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
            _sync_directory(os.path.dirname(path))
        except OSError as error:
            raise _write_error(path, error) from error
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_error(path: str, error: OSError) -> NoSpace | WriteFailed:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return NoSpace(f"{path}: cannot be written: {error.strerror}", "make room on its file system")
    return WriteFailed(path, f"cannot be written: {error.strerror}")
