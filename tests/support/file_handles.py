"""File handles, as NFS servers use them: name_to_handle_at(2) and open_by_handle_at(2), which Python lacks."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

_AT_FDCWD = -100
_MAX_HANDLE = 128

_libc = ctypes.CDLL(None, use_errno=True)


class _Handle(ctypes.Structure):
    _fields_ = [
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("f_handle", ctypes.c_ubyte * _MAX_HANDLE),
    ]


class FileHandle(NamedTuple):
    """What an NFS client keeps of a file for days."""

    type: int
    data: bytes


def handle_of(path: Path) -> FileHandle:
    """The handle of a file. Raises OSError."""
    handle = _Handle(handle_bytes=_MAX_HANDLE)
    mount_id = ctypes.c_int()
    name = os.fsencode(path)
    if _libc.name_to_handle_at(_AT_FDCWD, name, ctypes.byref(handle), ctypes.byref(mount_id), 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return FileHandle(handle.handle_type, bytes(handle.f_handle[: handle.handle_bytes]))


def open_handle(mount_point: Path, handle: FileHandle) -> int:
    """Open a file of a mounted file system by its handle; returns a descriptor. Needs root. Raises OSError."""
    wanted = _Handle(handle_bytes=len(handle.data), handle_type=handle.type)
    wanted.f_handle[: len(handle.data)] = handle.data
    mount = os.open(mount_point, os.O_RDONLY | os.O_DIRECTORY)
    try:
        descriptor = _libc.open_by_handle_at(mount, ctypes.byref(wanted), os.O_RDONLY)
    finally:
        os.close(mount)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(descriptor)
