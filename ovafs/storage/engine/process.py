"""One process of qemu-nbd, from its start to its end."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from ovafs.errors import ImageUnavailable, InvalidImage
from ovafs.formats.nbd import Export
from ovafs.printable import printable
from ovafs.storage.engine.command import PROGRAM, serve, with_pid_file
from ovafs.storage.engine.place import pid_file, ready_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from ovafs.storage.engine.command import Options

log = logging.getLogger(__name__)

START_SECONDS = 20.0
"""For a process to open its image and to listen; it needs some hundredths of one."""

_END_SECONDS = 5.0
"""After SIGKILL: only a process that waits for storage takes longer, and may take for ever."""

_POLL_SECONDS = 0.003

_PASSED_ON = ("PATH", "SSH_AUTH_SOCK")
"""Of the environment: where the program is, and who has the keys for disks by ssh."""

_MOST_TEXT = 500

# "qemu-nbd: Failed to blk_new_open 'json:{…}': Image is corrupt": what it was told is no news.
_PREFIX = re.compile(r"^qemu-nbd: (?:Failed to blk_new_open '.*?\}': )?", re.DOTALL)


class EngineProcess:
    """A process that serves ``options`` on ``socket_path``, to be ended by its owner."""

    def __init__(
        self,
        name: str,
        options: Options,
        socket_path: str,
        starter: Executor,
        descriptors: Sequence[int],
        secret: int | None,
    ) -> None:
        """Start it and wait until it serves. Blocks.

        ``name`` is the path of the image, for messages. The process ends with the thread of ``starter``. It gets the
        ``descriptors``, one of which may be a ``secret``.
        Raises InvalidImage when QEMU does not take the image, ImageUnavailable when there is no QEMU or it hangs.
        """
        if shutil.which(PROGRAM) is None:
            raise ImageUnavailable(name, f"is read by {PROGRAM}, which is not installed", "install qemu-utils")
        self.name = name
        self.export = Export(socket_path, "")
        self._messages, messages = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # one that nobody reads blocks nobody
        self._said = ""
        command = with_pid_file(serve(options, socket_path, ready_file(socket_path), secret), pid_file(socket_path))
        try:
            self._process = starter.submit(_spawn, command, descriptors, messages).result()
        except BaseException:
            os.close(self._messages)
            raise
        finally:
            os.close(messages)
        try:
            self._wait_until_it_serves()
        except BaseException:
            self.end()
            raise
        log.debug("%s: served by %s, process %d", name, PROGRAM, self.pid)

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def has_ended(self, patience: float = 0.0) -> bool:
        """Whether it has ended, or does so within some seconds. Blocks for that long at the most."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        return self._process.returncode is not None

    @property
    def messages(self) -> str:
        """What it said last on stderr, on one line; may be empty."""
        with contextlib.suppress(OSError):  # nothing there, or closed
            while piece := os.read(self._messages, 1 << 16):
                self._said = (self._said + piece.decode("utf-8", "replace"))[-4 * _MOST_TEXT :]
        text = " ".join(_PREFIX.sub("", self._said).split())
        return printable(text)[-_MOST_TEXT:]

    @property
    def obituary(self) -> str:
        """How it ended, in words."""
        code = self._process.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        said = self.messages
        return f"{PROGRAM} {how}" + (f": {said}" if said else "")

    def end(self) -> None:
        """End it, and remove its files. It only reads, so nothing needs to be finished. Idempotent."""
        self._process.kill()
        if self.has_ended(_END_SECONDS):
            socket = self.export.path
            for path in (socket, pid_file(socket), ready_file(socket)):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
        else:
            log.warning("%s: %s (process %d) waits for storage and cannot be ended", self.name, PROGRAM, self.pid)
        if self._messages >= 0:
            os.close(self._messages)
            self._messages = -1

    def _wait_until_it_serves(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not os.path.exists(ready_file(self.export.path)):
            if self.has_ended(_POLL_SECONDS):
                said = self.messages
                raise InvalidImage(self.name, f"QEMU cannot read it: {said}" if said else self.obituary)
            if time.monotonic() > deadline:
                said = self.messages
                raise ImageUnavailable(
                    self.name,
                    f"{PROGRAM} did not open it within {START_SECONDS:.0f} s" + (f": {said}" if said else ""),
                    "see the kernel's log for the storage below this path",
                )


def _spawn(command: list[str], descriptors: Sequence[int], messages: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=messages,
        pass_fds=descriptors,
        cwd="/",
        env={"PATH": os.defpath, **{key: os.environ[key] for key in _PASSED_ON if key in os.environ}, "LC_ALL": "C"},
        start_new_session=True,  # Ctrl-C is for ovafs, which may want to read on
    )
