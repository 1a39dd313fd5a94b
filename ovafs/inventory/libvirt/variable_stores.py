"""Files with the variables of domains' firmware (NVRAM): libvirt names them, and they are read here.

They are small, so each text is kept, and made anew only when its file has changed. QEMU writes to the file of a guest
that runs; its firmware can go on after any interrupted write (edk2's fault tolerant write), so what is there at one
look is as good as after a power cut, like the disks of such a guest.
"""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING, NamedTuple

from ovafs.formats.ovf.ovirt_state import write_variables
from ovafs.model import state_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from ovafs.model import State

MAX_FILE = 8 << 20
"""Bytes of a file that is read; those of x86 have 128 or 528 KiB, and making a text of 64 MiB takes seconds."""

MAX_TEXT = 128 << 10
"""Bytes of a text that is kept: more than that oVirt cannot take (Linux's MAX_ARG_STRLEN)."""

_SETTLED_NS = 2 * 10**9
"""A file that changed less than this ago may change again without another time."""


class _Look(NamedTuple):
    """What a file was, and what became of it: a text, or a reason why there is none."""

    identity: tuple[int, ...]
    text: bytes = b""
    reason: str = ""
    before: bytes = b""  # a reader may still have the definition that goes with it


class VariableStores:
    """The texts of the variables of many domains, by their UUIDs. Blocks; not for several threads at once."""

    def __init__(self) -> None:
        self._looks: dict[str, _Look] = {}

    def look(self, uuid: str, path: str) -> tuple[State | None, str]:
        """The state that the file holds now, or why it cannot be shown; neither where there is no file yet."""
        last = self._looks.get(uuid)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:  # libvirt makes it at the first start
            self._looks.pop(uuid, None)
            return None, ""
        except OSError as error:
            self._looks.pop(uuid, None)
            return None, f"{path} cannot be read: {error.strerror}"
        try:
            found = os.fstat(descriptor)
            identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if last is None or last.identity != identity:
                text, reason = _read(descriptor, path, found)
                is_settled = time.time_ns() - found.st_ctime_ns > _SETTLED_NS
                before = last.text if last is not None and last.text != text else b""
                last = self._looks[uuid] = _Look(identity if is_settled else (), text, reason, before)
        finally:
            os.close(descriptor)
        return (state_of(last.text) if last.text else None), last.reason

    def text(self, uuid: str, wanted: State) -> bytes | None:
        """The text of a state that :meth:`look` gave; None if the file changed more than once since then."""
        look = self._looks.get(uuid)
        texts = () if look is None else (look.text, look.before)
        return next((text for text in texts if text and state_of(text) == wanted), None)

    def retain(self, uuids: Collection[str]) -> None:
        """Forget all others."""
        self._looks = {uuid: look for uuid, look in self._looks.items() if uuid in uuids}


def _read(descriptor: int, path: str, found: os.stat_result) -> tuple[bytes, str]:
    if not stat.S_ISREG(found.st_mode):
        return b"", f"{path} is no file"
    if not 0 < found.st_size <= MAX_FILE:
        return b"", f"{path} has {found.st_size} bytes; those with 1 to {MAX_FILE} are read"
    try:
        data = os.pread(descriptor, found.st_size, 0)
    except OSError as error:
        return b"", f"{path} cannot be read: {error.strerror}"
    if len(data) != found.st_size:
        return b"", f"{path} ends before its size"
    text = write_variables(data)
    if len(text) > MAX_TEXT:
        return b"", f"{path} takes {len(text)} bytes as text; at most {MAX_TEXT} can be packed"
    return text, ""
