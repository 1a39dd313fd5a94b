"""``python -m tests.fuzz MINUTES [--target NAME]... [--seed N]``: damage until the time is over.

Every try has a number, and ``--seed N --tries 1`` repeats it. What takes longer than ``_LONGEST`` seconds is a finding.
"""

from __future__ import annotations

import collections
import random
import resource
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING

import click

from tests.fuzz.targets import TARGETS

if TYPE_CHECKING:
    from types import FrameType

_LONGEST = 30
_MOST_MEMORY = 1 << 30
_SAY_EVERY = 30.0


class _TooLong(Exception):
    """A try that does not end."""


def _raise(_number: int, _frame: FrameType | None) -> None:
    raise _TooLong(f"longer than {_LONGEST} s")


@click.command()
@click.argument("minutes", type=float)
@click.option("--target", "names", multiple=True, type=click.Choice(list(TARGETS)), help="Default: all, in turns.")
@click.option("--seed", type=int, help="Number of the first try; default: from the clock.")
@click.option("--tries", type=int, help="At most so many.")
def fuzz(minutes: float, names: tuple[str, ...], seed: int | None, tries: int | None) -> None:
    """Damage packages for so many MINUTES. Exit code 1: something was found."""
    signal.signal(signal.SIGALRM, _raise)
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    first = int(time.time()) * 1000 if seed is None else seed
    end = time.monotonic() + minutes * 60
    counts: collections.Counter[str] = collections.Counter()
    findings = 0
    said = time.monotonic()
    number = first
    while time.monotonic() < end and (tries is None or number < first + tries):
        for name in names or TARGETS:
            counts[name] += 1
            findings += not _try(name, number)
        number += 1
        if time.monotonic() - said > _SAY_EVERY:
            said = time.monotonic()
            click.echo(f"{', '.join(f'{name} {count}' for name, count in counts.items())}; {findings} found")
    click.echo(f"tries: {dict(counts)}; found: {findings}")
    sys.exit(1 if findings else 0)


def _try(name: str, number: int) -> bool:
    """Whether nothing was found."""
    signal.alarm(_LONGEST)
    try:
        TARGETS[name](random.Random(number))
    except Exception:  # noqa: BLE001  # that is what it is for
        click.echo(f"FOUND: --target {name} --seed {number} --tries 1\n{traceback.format_exc()}")
        return False
    finally:
        signal.alarm(0)
    return True


if __name__ == "__main__":
    fuzz()
