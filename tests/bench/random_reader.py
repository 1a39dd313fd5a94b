"""Reads blocks of a file at random offsets from several processes; prints the seconds from first to last read.

Run as ``python -m tests.bench.random_reader FILE BLOCK_SIZE READERS READS SEED``; READS is the number for all readers
together. What the kernel has cached of FILE is dropped first and no block is read twice, so every read goes to the
file system. One seed gives one sequence of offsets: peers are read at the same ones.

Pages already read are dropped again every 32 MiB. In a virtual machine whose hypervisor takes free memory back, a page
never touched before costs several times what a read does, and would be measured in its place.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.synchronize import Barrier

DROP_AFTER = 32 << 20


def drop_cached_pages(path: str | os.PathLike[str]) -> None:
    """Make the kernel forget the pages that it holds of this file (of this mount, not of the source below it)."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def read_blocks(path: str, block_size: int, blocks: Sequence[int], drop_every: int, barrier: Barrier) -> None:
    """Read ``blocks``; after each ``drop_every`` reads drop the cached pages of the whole file (0: never)."""
    fd = os.open(path, os.O_RDONLY)
    buffer = bytearray(block_size)
    barrier.wait()
    try:
        for count, block in enumerate(blocks, 1):
            length = os.preadv(fd, [buffer], block * block_size)
            assert length == block_size, f"{path}: block {block} has {length} bytes"
            if drop_every and count % drop_every == 0:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    except BaseException:
        barrier.abort()  # so that nobody waits for this reader
        raise
    barrier.wait()


def main(path: str, block_size: int, readers: int, reads: int, seed: int) -> None:
    blocks = random.Random(seed).sample(range(os.stat(path).st_size // block_size), reads)
    drop_cached_pages(path)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(readers + 1, timeout=600)
    drop_every = [DROP_AFTER // (block_size * readers)] + [0] * (readers - 1)  # the first drops for all
    processes = [
        context.Process(target=read_blocks, args=(path, block_size, blocks[first::readers], drop_every[first], barrier))
        for first in range(readers)
    ]
    for process in processes:
        process.start()
    barrier.wait()
    started = time.perf_counter()
    barrier.wait()
    sys.stdout.write(f"{time.perf_counter() - started}\n")
    for process in processes:
        process.join()
    sys.exit(any(process.exitcode for process in processes))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
