"""``ovafs pool``."""

from __future__ import annotations

import click

from ovafs.cli.path_argument import PathArgument
from ovafs.inventory.pool import create_pool


@click.group()
def pool() -> None:
    """Make pools: directories with a catalog of machines."""


@pool.command()
@click.argument("pool", metavar="POOL", type=PathArgument(file_okay=False))
def create(pool: str) -> None:
    """Make a pool in the new or empty directory POOL.

    A new directory gets mode 0700, for its owner alone: other users see machines through a mount.
    """
    click.echo(f"created pool {pool} ({create_pool(pool)})")
