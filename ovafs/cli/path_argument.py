"""Paths on the command line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from os import PathLike


class PathArgument(click.Path):
    """A path that is not empty.

    ``""`` comes from a variable that a script did not set, and would mean the directory in which the command happens
    to run: nobody wants that one covered by a mount, or taken for a pool.
    """

    def convert(
        self, value: str | PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | PathLike[str]:
        """As click, but refuse the empty path."""
        if not os.fspath(value):
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)
