"""``ovafs export``: one machine's .ova in a file, without a mount."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import click
import trio

from ovafs.cli.completion import complete_machine
from ovafs.cli.output import print_json
from ovafs.cli.path_argument import PathArgument
from ovafs.cli.progress import progress_bar
from ovafs.errors import ExportFailed, OvafsError, VolumeChanged
from ovafs.inventory.inventory import BackupSettings, Freeze
from ovafs.inventory.source import is_uri, open_inventory, selection_for
from ovafs.model import MachineKind
from ovafs.storage.engine.engines import Engines
from ovafs.storage.map_cache import MapCache
from ovafs.storage.opener import AnyOpener
from ovafs.transfer.export_file import Exported, begin_export, export_file
from ovafs.transfer.packager import Packager
from ovafs.units import format_size
from ovafs.vfs.names import file_names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from ovafs.inventory.inventory import Inventory
    from ovafs.model import Machine
    from ovafs.transfer.open_package import OpenPackage
    from ovafs.transfer.partial_file import PartialFile

# The shell's convention for a program that a signal ended.
_EXIT_SIGNAL = 128

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Arguments(NamedTuple):
    """The command line."""

    source: str
    name: str
    destination: str
    resume: bool
    force: bool
    template: bool
    freeze: str
    quiet: bool
    as_json: bool


@click.command()
@click.argument("source", type=PathArgument(file_okay=False))
@click.argument("name", shell_complete=complete_machine)
@click.argument("destination", metavar="DEST.ova|DIR", type=PathArgument())
@click.option("--resume", is_flag=True, help="Go on with an interrupted export, if there is one.")
@click.option("--force", is_flag=True, help="Replace DEST.ova if it exists, once the export is complete.")
@click.option("--template", is_flag=True, help="NAME is a template.")
@click.option(
    "--freeze",
    type=click.Choice([one.value for one in Freeze]),
    default=Freeze.AUTO.value,
    show_default=True,
    help="File systems of a guest that runs, while its backup begins: if its agent can, never, or not without.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress and no result.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(**arguments: object) -> None:
    """Write the machine NAME (or UUID) of SOURCE to DEST.ova, or under its own name into DIR.

    These are the bytes that a mount shows, and the same time of modification; no mount is needed. They are written to
    DEST.ova.tmp, which gets its final name once all of it is on the disk. The free space is checked first. Disk data
    is not copied but shared (reflink) where the images lie on the same file system and it can do that.

    Ctrl-C (and SIGTERM, or a full disk) leaves a DEST.ova.tmp that --resume goes on with, as long as the machine and
    its images do not change. Images that change during the export end it with an error.

    With --json: an object with path, name, uuid, generation, size, copied, cloned, resumed_at (bytes) and seconds.

    Exit codes: 0 done, 1 an error, 2 wrong usage, 130 interrupted by Ctrl-C, 143 by SIGTERM.
    """
    wanted = _Arguments(**arguments)  # type: ignore[arg-type]  # click passes exactly these
    with contextlib.ExitStack() as stack:
        selection, backups = selection_for(wanted.source, wanted.name), BackupSettings(freeze=Freeze(wanted.freeze))
        if backups != BackupSettings() and not is_uri(wanted.source):
            raise click.UsageError("--freeze is for running machines, which libvirt has")
        inventory = stack.enter_context(contextlib.closing(open_inventory(wanted.source, selection, backups)))
        machine = inventory.find(wanted.name, MachineKind.TEMPLATE if wanted.template else None)
        destination = _destination(wanted.destination, inventory, machine)
        cache = MapCache(os.path.join(inventory.cache_dir, "maps.sqlite") if inventory.cache_dir else None)
        stack.callback(cache.close)
        engines = stack.enter_context(contextlib.closing(Engines()))
        packager = Packager(cache, inventory, opener=AnyOpener(engines))
        package = packager.open_present(machine)
        stack.callback(package.close)
        began = time.monotonic()
        partial = begin_export(package, destination, resume=wanted.resume, replace=wanted.force)
        outcome = _run(wanted, machine, package, partial)
        seconds = time.monotonic() - began
    if isinstance(outcome, signal.Signals):
        sys.exit(_EXIT_SIGNAL + outcome)
    if wanted.as_json:
        print_json(
            {
                "path": destination,
                "name": machine.name,
                "uuid": machine.uuid,
                "generation": package.description.generation,
                "size": package.size,
                "copied": outcome.copied,
                "cloned": outcome.cloned,
                "resumed_at": outcome.resumed_at,
                "seconds": round(seconds, 3),
            }
        )
    elif not wanted.quiet:
        click.echo(_summary(destination, package, outcome, seconds))


def _destination(given: str, inventory: Inventory, machine: Machine) -> str:
    """DEST.ova itself, or the machine's file name, as a mount shows it, in the directory."""
    if os.path.isdir(given):
        machines = [(one.uuid, one.name) for one in inventory.machines() if one.kind == machine.kind]
        name = next(name for name, uuid in file_names(machines).items() if uuid == machine.uuid)
        return os.path.join(given, os.fsdecode(name))
    if given.endswith("/"):
        raise ExportFailed(f"{given} is no directory", "make it first")
    if not given.lower().endswith(".ova"):
        raise ExportFailed(f"{given} is no directory, and as a file it would need a name that ends in .ova")
    return given


def _run(wanted: _Arguments, machine: Machine, package: OpenPackage, partial: PartialFile) -> Exported | signal.Signals:
    """Export with a progress bar; the result, or the signal that ended it. Says what an export that failed leaves."""
    try:
        with progress_bar(machine.name, package.size, partial.durable, quiet=wanted.quiet) as on_progress:

            async def run() -> Exported | signal.Signals:
                done: Exported | None = None
                with trio.CancelScope() as scope, _signals_cancel(scope) as received:
                    done = await export_file(package, partial, replace=wanted.force, on_progress=on_progress)
                return done or received[0]

            outcome = trio.run(run)
    except OvafsError as error:
        if partial.is_kept:
            error.hint = "; ".join(filter(None, (error.hint, _what_is_left(wanted, package, partial))))
        elif isinstance(error, VolumeChanged):
            error.hint = "nothing is kept, export again"
        raise
    finally:
        partial.abandon(useful=True)  # when it did not even begin
    if isinstance(outcome, signal.Signals):
        click.echo(f"ovafs: interrupted: {_what_is_left(wanted, package, partial)}", err=True)
    return outcome


@contextlib.contextmanager
def _signals_cancel(scope: trio.CancelScope) -> Iterator[list[signal.Signals]]:
    """Cancel ``scope`` at the first signal, which is put into the list; a second one ends the process.

    A signal that is ignored (nohup, a shell's background job) stays ignored.
    """
    received: list[signal.Signals] = []
    token = trio.lowlevel.current_trio_token()

    def stop(number: int, _: FrameType | None) -> None:
        received.append(signal.Signals(number))
        for one in before:
            signal.signal(one, signal.SIG_DFL)
        token.run_sync_soon(scope.cancel)

    before = {one: signal.signal(one, stop) for one in _SIGNALS if signal.getsignal(one) != signal.SIG_IGN}
    try:
        yield received
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _what_is_left(wanted: _Arguments, package: OpenPackage, partial: PartialFile) -> str:
    """What an unfinished export leaves behind, and the command that goes on with it."""
    if not partial.is_kept:
        if package.description.volatile:
            what = "the machine runs" if package.description.is_live else "a block device may change unnoticed"
            return f"nothing is kept for --resume: {what}"
        return "nothing is kept" + ("" if partial.can_resume else ", the file system has no extended attributes")
    flags = [flag for flag, given in (("--force", wanted.force), ("--template", wanted.template)) if given]
    command = ["ovafs", "export", "--resume", *flags, wanted.source, wanted.name, wanted.destination]
    amount = f"{format_size(partial.durable)} of {format_size(package.size)}"
    return f"{partial.path} holds {amount}, go on with: {shlex.join(command)}"


def _summary(destination: str, package: OpenPackage, done: Exported, seconds: float) -> str:
    rate = format_size(int((done.copied + done.cloned) / max(seconds, 0.001)))
    shared = f", {format_size(done.cloned)} of them shared" if done.cloned else ""
    resumed = f", resumed at {format_size(done.resumed_at)}" if done.resumed_at else ""
    return f"{destination}: {format_size(package.size)}{shared}{resumed}, {seconds:.1f} s, {rate}/s"
