"""A progress bar on the terminal, with rate and remaining time."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Never

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(name: str, size: int, start: int = 0, *, quiet: bool = False) -> Iterator[Callable[[int], object]]:
    """A function that takes the offset reached, from ``start`` up to ``size``, and shows it.

    The bar stands on stderr; nothing is shown when that is no terminal, or with ``quiet``.
    """
    tqdm.monitor_interval = 0  # no thread that redraws a bar which does not move
    bar: tqdm[Never]
    with tqdm(
        desc=name,
        total=size,
        initial=start,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        dynamic_ncols=True,
        file=sys.stderr,
        disable=quiet or not sys.stderr.isatty(),
    ) as bar:
        yield lambda offset: bar.update(offset - bar.n)
