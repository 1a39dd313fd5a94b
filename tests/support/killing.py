"""ovafs, killed as by SIGKILL at a named moment of an import: ``python -m tests.support.killing MOMENT mount ...``."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from ovafs.cli.main import main
from ovafs.inventory.catalog import Catalog
from ovafs.storage.writer.new_volume import NewVolume
from ovafs.storage.writer.qcow2 import Qcow2Writer
from ovafs.transfer.ingest.landing import PoolLanding
from ovafs.vfs.drop.reporter import Reporter

if TYPE_CHECKING:
    from collections.abc import Callable

# Name: whose method it is, which one, and whether the method has done its work when the process ends.
MOMENTS: dict[str, tuple[type, str, bool]] = {
    "before the volume is noted": (Catalog, "note_volume", False),
    "when the volume is noted": (Catalog, "note_volume", True),
    "in the middle of the data": (Qcow2Writer, "write_at", True),
    "before the volume is complete": (Qcow2Writer, "finish", False),
    "when the volume is complete": (Qcow2Writer, "finish", True),
    "when the volume has its name": (NewVolume, "publish", True),
    "when the directory is on stable storage": (PoolLanding, "publish", True),
    "when the machine is registered": (Catalog, "register", True),
    "before the writer hears of it": (Reporter, "imported", False),
}


def _kill_at(owner: type, name: str, *, is_done: bool) -> None:
    method: Callable[..., Any] = getattr(owner, name)

    def replacement(*arguments: Any, **named: Any) -> None:
        if is_done:
            method(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, replacement)


if __name__ == "__main__":
    moment = MOMENTS[sys.argv.pop(1)]
    _kill_at(moment[0], moment[1], is_done=moment[2])
    main()
