"""What a guest says on its serial port, when it starts."""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import TYPE_CHECKING

from tests.support.mount import PATIENCE

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterator

    from tests.support.libvirtd import Libvirt


@contextlib.contextmanager
def listen(libvirt: Libvirt, name: str, patience: float = PATIENCE) -> Iterator[Callable[[re.Pattern[bytes]], bytes]]:
    """Start a domain and wait for what it says, ``patience`` seconds; it is destroyed at the end.

    QEMU drops what nobody is there to read, so: listen first.
    """
    libvirt.virsh("start", name, "--paused")
    port = os.open(libvirt.virsh("ttyconsole", name).strip(), os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    said = bytearray()

    def wait_for(pattern: re.Pattern[bytes]) -> bytes:
        deadline = time.monotonic() + patience
        while not (found := pattern.search(said)):
            assert time.monotonic() < deadline, f"not on the serial port of {name}: {bytes(said)!r}"
            if select.select([port], [], [], 1.0)[0]:
                with contextlib.suppress(BlockingIOError):
                    said.extend(os.read(port, 4096))
        return found[0]

    try:
        libvirt.virsh("resume", name)
        yield wait_for
    finally:
        os.close(port)
        libvirt.virsh("destroy", name)
