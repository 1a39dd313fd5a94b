"""The ``ovafs`` command: its subcommands, and the one place where a foreseen error ends it."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys

import click

from ovafs import __version__
from ovafs.cli.lazy import LazyGroup
from ovafs.errors import OvafsError
from ovafs.printable import printable

COMMANDS = {
    "pool": "ovafs.cli.pool:pool",
    "vm": "ovafs.cli.vm:vm",
    "mount": "ovafs.cli.mount:mount",
    "umount": "ovafs.cli.mount:umount",
    "status": "ovafs.cli.status:status",
    "export": "ovafs.cli.export:export",
    "check": "ovafs.cli.check:check",
    "import": "ovafs.cli.import_package:import_command",
    "completion": "ovafs.cli.completion:completion",
}


class Failure(click.ClickException):
    """A foreseen error as it reaches the terminal: one line on stderr, exit code 1."""

    exit_code = 1

    def show(self, file: object = None) -> None:  # noqa: ARG002 - click's interface
        """Print "ovafs: error: what happened; what to do"."""
        click.echo(f"ovafs: error: {printable(self.message)}", err=True)


class Commands(LazyGroup):
    """The top group; click itself ends wrong usage with exit code 2 and a closed pipe quietly."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the subcommand."""
        try:
            return super().invoke(ctx)
        except OvafsError as error:
            raise Failure(str(error)) from error
        except OSError as error:
            # Standard output is a full disk, for example. What ovafs itself opens has its own errors.
            if error.errno == errno.EPIPE:
                raise
            _drop_output()
            raise Failure(str(error)) from error


def _drop_output() -> None:
    """Let what standard output did not take go nowhere: at exit Python would try again, and exit with its own code."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), sys.stdout.fileno())


@click.group(
    cls=Commands,
    lazy_commands=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="ovafs", message="%(prog)s %(version)s")
def cli() -> None:
    """Virtual machines as .ova files.

    SOURCE is where the machines are: the directory of a pool, or a libvirt URI such as qemu:///system.

    Exit codes: 0 done, 1 an error (said on stderr), 2 wrong usage, 3 a mount that could not be made; an export that
    was interrupted by a signal exits with 128 and the signal's number.
    """


def main() -> None:
    """Entry point of the program."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal's character set lacks is shown escaped.
        sys.stdout.reconfigure(errors="backslashreplace")
    cli(prog_name="ovafs")
