"""``ovafs check``: what is wrong with the machines of a source, in words."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING, NamedTuple

import click
import trio

from ovafs.cli.completion import complete_machine
from ovafs.cli.output import print_json
from ovafs.cli.path_argument import PathArgument
from ovafs.cli.progress import progress_bar
from ovafs.errors import OvafsError
from ovafs.inventory.pool import Pool
from ovafs.inventory.source import open_inventory, selection_for
from ovafs.model import MachineKind
from ovafs.storage.engine.engines import Engines
from ovafs.storage.map_cache import MapCache
from ovafs.storage.opener import AnyOpener
from ovafs.transfer.ingest.landing import PoolLanding
from ovafs.transfer.ingest.leftovers import find_leftovers
from ovafs.transfer.packager import Packager
from ovafs.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ovafs.inventory.inventory import Inventory
    from ovafs.model import Machine
    from ovafs.transfer.open_package import OpenPackage

log = logging.getLogger(__name__)

_READ_SIZE = 4 << 20


class Finding(NamedTuple):
    """What was found out about a machine; the JSON object of ``ovafs check --json``.

    ``uuid`` and ``kind`` are empty for a machine whose row in the catalog is damaged. ``reason`` and ``hint`` are
    empty for one that is ok, ``size`` and ``stored`` (bytes) are 0 for one that is broken.
    """

    name: str
    uuid: str
    kind: str
    ok: bool
    reason: str = ""
    hint: str = ""
    warning: str = ""
    size: int = 0
    stored: int = 0


@click.command()
@click.argument("source", type=PathArgument(file_okay=False))
@click.argument("name", required=False, shell_complete=complete_machine)
@click.option("--template", is_flag=True, help="NAME is a template.")
@click.option("--read", is_flag=True, help="Read every byte of every disk, too.")
@click.option("--repair", is_flag=True, help="Remove what interrupted imports left.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(source: str, name: str | None, *, template: bool, read: bool, repair: bool, as_json: bool) -> None:
    """Say what is wrong with the machines of SOURCE, or with the machine NAME (or UUID).

    Opens the images of each machine in turn, with their backing files, reads their tables and plans the .ova, as
    reading it would. Finds images that are missing, in use, broken or not supported. With --read also
    data that the storage does not give, or that does not inflate; that takes as long as reading all disks.

    Without NAME also the files in the pool that are no machine's: what an interrupted import left, which the next
    import or --repair removes, and volumes that no machine uses, which nobody removes but you. Neither is an error.

    With --json: an array of objects with name, uuid, kind, ok, reason, hint, warning, size and stored (bytes); a file
    that is no machine's has its path as name and "file" as kind.

    Exit codes: 0 nothing is wrong, 1 a machine is broken, or SOURCE cannot be read, 2 wrong usage.
    """
    if template and name is None:
        raise click.UsageError("--template needs a NAME")
    if repair and name is not None:
        raise click.UsageError("--repair is for a whole pool")
    findings = []
    with contextlib.closing(open_inventory(source, selection_for(source, name))) as inventory:
        if repair and isinstance(inventory, Pool):
            PoolLanding(inventory).close()
        for finding in _findings(inventory, name, MachineKind.TEMPLATE if template else None, read=read):
            findings.append(finding)
            if not as_json:
                click.echo(_line(finding))
    if as_json:
        print_json([finding._asdict() for finding in findings])
    if not all(finding.ok for finding in findings):
        sys.exit(1)


def _findings(inventory: Inventory, name: str | None, kind: MachineKind | None, *, read: bool) -> Iterator[Finding]:
    """One finding for each machine; damaged rows of the catalog come last."""
    machines, damaged = inventory.snapshot() if name is None else ([inventory.find(name, kind)], [])
    # No cache: what is checked are the images, not what was once found in them.
    with contextlib.closing(MapCache(None)) as cache, contextlib.closing(Engines()) as engines:
        packager = Packager(cache, inventory, opener=AnyOpener(engines))
        for machine in machines:
            yield _check(packager, machine, inventory.left_out(machine), read=read)
    if name is None and isinstance(inventory, Pool):
        yield from _files(inventory)
    for row in damaged:
        yield Finding(row.name, "", "", ok=False, reason=f"its definition is damaged: {row.reason}", hint=row.hint)


def _files(pool: Pool) -> Iterator[Finding]:
    """What is in the pool's directory for volumes and is no machine's."""
    found = find_leftovers(pool)
    if found is None:
        click.echo("ovafs: an import runs, so unused files were not looked for", err=True)
    for path, allocated, is_ours in found or ():
        warning = "left by an interrupted import; --repair removes it" if is_ours else "no machine uses it"
        yield Finding(path, "", "file", ok=True, warning=warning, size=allocated, stored=allocated)


def _check(packager: Packager, machine: Machine, left_out: Sequence[str], *, read: bool) -> Finding:
    """Plan a machine's package, and with ``read`` read it; its images are locked, or a backup is open, meanwhile."""
    try:
        if read:
            with contextlib.closing(packager.open_present(machine)) as package:
                description = package.description
                _read(package, machine.name)
        else:
            description = packager.describe(machine)
    except OvafsError as error:
        return Finding(machine.name, machine.uuid, machine.kind, ok=False, reason=error.summary, hint=error.hint)
    except Exception as error:  # one broken machine must not hide the others
        log.exception("%s: unexpected failure", machine.name)
        return Finding(machine.name, machine.uuid, machine.kind, ok=False, reason=f"unexpected failure: {error!r}")
    warnings = [f"not in the .ova: {one}" for one in left_out]
    if description.volatile:
        warnings.append("a block device or a disk on the network can change unnoticed; keep the machine stopped")
    return Finding(
        machine.name,
        machine.uuid,
        machine.kind,
        ok=True,
        warning="; ".join(warnings),
        size=description.size,
        stored=description.stored,
    )


def _read(package: OpenPackage, name: str) -> None:
    """Read the whole package, with a progress bar on a terminal."""
    buffer = memoryview(bytearray(_READ_SIZE))

    async def read_all() -> None:
        for offset in range(0, package.size, _READ_SIZE):
            await trio.lowlevel.checkpoint()  # so that Ctrl-C works; reading what is in memory has none
            on_progress(offset + await package.read_into(offset, buffer))

    with progress_bar(name, package.size) as on_progress:
        trio.run(read_all)


def _line(finding: Finding) -> str:
    if not finding.ok:
        hint = f"; {finding.hint}" if finding.hint else ""
        return f"{finding.name}: broken: {finding.reason}{hint}"
    warning = f"; warning: {finding.warning}" if finding.warning else ""
    state = "" if finding.kind == "file" else "ok, "
    return f"{finding.name}: {state}{format_size(finding.size)}{warning}"
