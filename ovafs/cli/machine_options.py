"""Options for a machine's processors and memory, as several commands take them, and types of options."""

from __future__ import annotations

import click

from ovafs.model import CpuTopology
from ovafs.units import parse_duration, parse_size


def parse_bytes(text: str) -> int:
    """A size. Raises click.BadParameter."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def parse_seconds(text: str) -> float:
    """A duration. Raises click.BadParameter."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def topology(cpus: int | None, sockets: int | None, cores: int | None, threads: int | None) -> CpuTopology | None:
    """What --cpus, or --sockets, --cores and --threads, say; None if they say nothing. Raises click.UsageError."""
    if cpus is not None:
        if (sockets, cores, threads) != (None, None, None):
            raise click.UsageError("give either --cpus or --sockets, --cores and --threads")
        # One socket, because some guests use no more sockets than their licence has.
        return CpuTopology(cores=cpus)
    given = {"sockets": sockets, "cores": cores, "threads": threads}
    said = {key: number for key, number in given.items() if number is not None}
    return CpuTopology(**said) if said else None
