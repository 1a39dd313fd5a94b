"""What commands print: aligned columns for people, JSON for programs."""

from __future__ import annotations

import json
import unicodedata
from typing import TYPE_CHECKING

import click
import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovafs.model import Machine


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns that are aligned also for wide characters; nothing but the header if there are no rows."""
    table = [header, *rows]
    widths = [max(map(_width, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(_pad(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table)
    click.echo("\n".join(lines))


def print_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Print "Label:  value" lines with the values aligned; further lines of a value are indented as far."""
    indent = max(len(label) for label, _ in fields) + 3
    lines = (f"{label + ':':<{indent}}{value}".rstrip().replace("\n", "\n" + " " * indent) for label, value in fields)
    click.echo("\n".join(lines))


def print_json(document: object) -> None:
    """Print an indented JSON document, in UTF-8 whatever the locale."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False).encode())


def machine_document(machine: Machine) -> object:
    """The JSON object of a machine: the fields of ``ovafs.model.Machine`` under their own names.

    Memory is in bytes, times are whole seconds since the epoch (UTC). Fields may be added, never renamed.
    """
    return msgspec.to_builtins(machine)


def warn(message: str) -> None:
    """Say something on stderr that does not end the command."""
    click.echo(f"ovafs: warning: {message}", err=True)


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
