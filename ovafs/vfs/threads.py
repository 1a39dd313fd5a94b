"""Blocking calls in threads, with a limit to the wait: storage that hangs harms the machines on it only.

A thread in a system call that hangs cannot be ended. It is left behind, and until it comes back no further one is
started for the same machine: each attempt of a user would leave one more behind. Nor do those left behind count
against the others, as they would with trio's own limit of 40 threads; requests are limited by the kernel and pyfuse3.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import trio

from ovafs.errors import ReadFailed
from ovafs.storage.chain import ANSWER_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

log = logging.getLogger(__name__)

T = TypeVar("T")


class Threads:
    """The threads of one mount, by what they work for; used from its event loop only.

    ``seconds`` is how long a call may take.
    """

    def __init__(self, seconds: float = ANSWER_SECONDS) -> None:
        self.seconds = seconds
        self._limiter = trio.CapacityLimiter(math.inf)
        self._hanging: dict[Hashable, _Job[Any]] = {}

    async def answer(self, key: Hashable, name: str, function: Callable[..., T], *arguments: object) -> T:
        """The result of a blocking call for ``key``, which people know as ``name``.

        Raises what the call raises, and ReadFailed when it takes too long or when an earlier one for ``key`` hangs.
        """
        if self.is_hanging(key):
            raise no_answer(name)
        try:
            return await self.run(lambda: function(*arguments), lambda: key)
        except trio.TooSlowError:
            raise no_answer(name) from None

    async def run(self, function: Callable[[], T], key: Callable[[], Hashable], patience: float = 1.0) -> T:
        """The result of a blocking call. When it takes too long it hangs, for what ``key`` gives at that time.

        ``patience`` is the part of ``seconds`` to wait. Raises what the call raises, and trio.TooSlowError.
        """
        job = _Job(function)
        with trio.move_on_after(self.seconds * patience):
            return await trio.to_thread.run_sync(job.run, abandon_on_cancel=True, limiter=self._limiter)
        if job.is_running:  # it may not have begun at all
            self._hanging[key()] = job
        raise trio.TooSlowError

    def is_hanging(self, key: Hashable) -> bool:
        """True while a call for ``key`` has not come back."""
        job = self._hanging.get(key)
        if job is not None and not job.is_running:
            del self._hanging[key]
            return False
        return job is not None


class _Job(Generic[T]):
    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self.is_running = False

    def run(self) -> T:
        self.is_running = True
        try:
            return self._function()
        finally:
            self.is_running = False


class Closable(Protocol):
    """Something that holds files."""

    def close(self) -> None:
        """Release them."""
        ...


def close_later(held: Closable, then: Callable[[], object] = lambda: None) -> None:
    """Close in a thread, for which nobody waits: NFS may, and after an unmount there is nobody to answer.

    ``then`` is called on the event loop when that is done.
    """
    trio.lowlevel.spawn_system_task(_close, held, then)


async def _close(held: Closable, then: Callable[[], object]) -> None:
    try:
        await trio.to_thread.run_sync(held.close, abandon_on_cancel=True)
    except Exception:  # nothing may leave a system task: that would end the program
        log.exception("closing failed unexpectedly")
    then()


def no_answer(name: str) -> ReadFailed:
    """The error for storage, known to people as ``name``, that hangs."""
    return ReadFailed(name, "the storage does not answer")
