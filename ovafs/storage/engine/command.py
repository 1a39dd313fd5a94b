"""What qemu-nbd is told: QEMU's own block device options (QEMU docs/interop/qapi, ``BlockdevOptions``), as JSON.

Nothing is left to QEMU's judgement: the format is given, never probed; files are given by their descriptors, so that
what is opened is what was locked and looked at, whatever the path leads to by now; and ``backing`` is null, so that no
file is opened because an image names it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovafs.model import DiskFormat

PROGRAM = "qemu-nbd"

Options: TypeAlias = "Mapping[str, str | bool | Options | None]"

# The shell writes what the process is into its pid file before it becomes the program, so that there is no moment in
# which the program runs and nothing tells of it. The kernel ends the program with the thread that started it.
_SCRIPT = 'read -r stat </proc/$$/stat && echo "$stat" >"$0" && exec setpriv --pdeathsig KILL -- "$@"'


def open_file(descriptor: int) -> Options:
    """A file that the process has as an open descriptor. QEMU's locks are left out: they are taken already."""
    return {"driver": "file", "filename": f"/proc/self/fd/{descriptor}", "locking": "off"}


def image(form: DiskFormat, file: Options) -> Options:
    """An image in a file, without any other file that it may name."""
    return {"driver": form.value, "file": file, "backing": None}


def serve(options: Options, socket: str, ready: str) -> list[str]:
    """The command that serves a disk, to any number of clients, on a UNIX socket.

    It listens before it has opened the disk; when it has done that, it makes the file ``ready``.
    """
    node = json.dumps({**options, "read-only": True})
    places = [f"--socket={socket}", f"--pid-file={ready}"]
    return [PROGRAM, "--read-only", "--persistent", "--shared=0", *places, f"json:{node}"]


def with_pid_file(command: list[str], path: str) -> list[str]:
    """The command, which leaves the line of ``/proc/PID/stat`` of its process in ``path`` first."""
    return ["/bin/sh", "-c", _SCRIPT, path, *command]
