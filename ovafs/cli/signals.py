"""Signals that end a command where it can be ended, and nowhere else."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """A signal came while the package was read."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """Signals end an import only while it waits for the package, so never in the middle of a change there.

    After the first one the next ends the process at once; what it leaves then, the next import removes. A signal
    that is ignored (nohup, a shell's background job) stays ignored.
    """

    def __init__(self) -> None:
        self.received = 0
        self.stop = threading.Event()
        """Set once one has come."""
        self._is_raised = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for number in _NUMBERS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Signals that have come, and those that come in the ``with`` block, are raised as Interrupted."""
        self._is_raised = True
        try:
            if self.received:
                raise Interrupted(self.received)
            yield
        finally:
            self._is_raised = False

    def _receive(self, number: int, _: FrameType | None) -> None:
        for one in self._before:
            signal.signal(one, signal.SIG_DFL)
        self.received = number
        self.stop.set()
        if self._is_raised:
            raise Interrupted(number)
