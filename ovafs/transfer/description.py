"""What is known of a machine's package without opening anything: enough for ``stat``."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import msgspec

from ovafs.model import Machine, definition_digest
from ovafs.storage.volume import FileIdentity

if TYPE_CHECKING:
    from collections.abc import Sequence

DIALECT = "ovirt"

# Part of every generation: to be raised when a new version of ovafs writes other bytes for the same machine.
LAYOUT_VERSION = 1

Files = tuple[tuple[str, FileIdentity], ...]


class Description(msgspec.Struct, frozen=True):
    """What ``stat`` needs to know of a machine's package; enough to see whether it still holds.

    ``generation`` is a hex digest; ``size`` and ``stored`` (what is not known to be zero) are in bytes;
    ``files`` are all files of all chains. ``volatile`` says that some content can change without a trace
    (block devices), so that nothing derived from it may be kept.

    ``announced`` are the sizes of the disk files of a machine that runs, with room for what the guest writes until a
    backup is opened; its generation stands for one backup then. Of a machine that is at rest there are none.
    """

    generation: str
    size: int
    stored: int
    mtime_ns: int
    files: Files
    volatile: bool = False
    announced: tuple[int, ...] | None = None

    @property
    def is_live(self) -> bool:
        """Whether the machine runs, so that only a backup of it can be read."""
        return self.announced is not None


def still_holds(files: Files) -> bool:
    """True when every file is what it was; a file that is missing now is for the caller to find out about."""
    for path, identity in files:
        try:
            now = os.stat(path)
        except OSError:
            return False
        if (now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns) != identity:
            return False
    return True


def generation(machine: Machine, files: Files, contents: Sequence[bytes]) -> str:
    """What the package's bytes are a function of; ``contents`` are its descriptor and the layouts of its disks.

    The layouts follow from the files, but not from their identities alone: what a file system reports as a hole can
    change while the file does not (tmpfs, once somebody maps the file and reads it), and a block device has no
    identity that is worth much. Another layout is another generation then, never other bytes of the same.

    Paths are not part of it beyond what the definition names: a moved mount point changes no byte.
    """
    identities = [identity for _, identity in files]
    return digest([LAYOUT_VERSION, DIALECT, definition_digest(machine), identities, contents]).hex()


def newest(machine: Machine, files: Files) -> int:
    """The time of the last change of anything in the package, in nanoseconds.

    ``ctime`` counts, not ``mtime``: a tool that compares only size and time (rsync) must see every new generation,
    also one whose images got an old ``mtime`` back, and ``mtime`` can be set to the future.
    """
    return max([machine.modified * 1_000_000_000, *(identity.ctime_ns for _, identity in files)])


def digest(value: object) -> bytes:
    """SHA-256 of a value of plain types."""
    return hashlib.sha256(msgspec.msgpack.encode(value)).digest()
