"""One thread that works beside the event loop, one job at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

T = TypeVar("T")


class Worker(Generic[T]):
    """Starts a job without waiting for it, and waits for its result later; all from one task."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._job: Future[T] | None = None

    @property
    def is_idle(self) -> bool:
        """True when no job runs; its result may not have been asked for yet."""
        return self._job is None or self._job.done()

    def start(self, function: Callable[..., T], *arguments: object) -> None:
        """Let the thread call ``function``; the result of the job before must have been taken."""
        if self._job is not None:
            raise AssertionError("the last job's result was not taken")
        self._job = self._pool.submit(function, *arguments)

    async def result(self) -> T | None:
        """Wait for the job and take its result, or raise what it raised; None without a job.

        When it is cancelled the job goes on, and its result can still be taken.
        """
        if self._job is None:
            return None
        if not self._job.done():
            done = trio.Event()
            token = trio.lowlevel.current_trio_token()
            self._job.add_done_callback(lambda _: token.run_sync_soon(done.set))
            await done.wait()
        job, self._job = self._job, None
        return job.result()

    async def close(self) -> None:
        """Wait for the job, whatever becomes of it, and end the thread."""
        if self._job is not None:
            await trio.to_thread.run_sync(wait, [self._job])
        self._pool.shutdown()
