"""Access control lists and the mode that they mean."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import pytest

from ovafs.fuse.posix_acl import ACCESS, mode_of_acl
from tests.support.processes import run

if TYPE_CHECKING:
    from pathlib import Path


def acl(*entries: tuple[int, int], version: int = 2) -> bytes:
    return struct.pack("<I", version) + b"".join(struct.pack("<HHI", tag, bits, 0xFFFFFFFF) for tag, bits in entries)


@pytest.mark.parametrize(
    ("value", "mode"),
    [
        (acl((1, 6), (4, 4), (0x20, 4)), 0o644),
        (acl((1, 7), (4, 0), (0x20, 0)), 0o700),
        (acl((1, 6), (4, 6), (0x10, 4), (0x20, 0)), 0o640),  # the mask takes away
        (acl((1, 6), (4, 0), (8, 7), (0x10, 7), (0x20, 0)), 0o600),  # and gives nothing
    ],
)
def test_modes(value: bytes, mode: int) -> None:
    assert mode_of_acl(value) == mode


@pytest.mark.parametrize(
    "value", [b"", b"\2\0\0", acl((1, 6), (4, 4), (0x20, 4), version=1), acl((1, 6), (4, 4)), acl((1, 6))[:-1]]
)
def test_what_is_no_list(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"not|no entry"):
        mode_of_acl(value)


@pytest.mark.parametrize("entries", ["u::rw-,g::r--,o::r--,u:7:rw-,m::rw-", "u::rwx,g::rw-,o::---,g:7:rwx,m::r--"])
def test_lists_that_linux_makes(tmp_path: Path, entries: str) -> None:
    """The kernel's own mode has the mask in the place of the group: never fewer permissions than ours."""
    file = tmp_path / "file"
    file.touch()
    run("setfacl", "--set", entries, file)
    theirs, ours = file.stat().st_mode & 0o777, mode_of_acl(os.getxattr(file, ACCESS))
    assert ours & 0o707 == theirs & 0o707
    assert ours & theirs == ours
