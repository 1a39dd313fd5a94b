"""``ovafs import``: a package into a pool or a hypervisor, without a mount."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from ovafs.cli.disk_option import parse_disk_choices, parse_network_pair
from ovafs.cli.machine_options import parse_bytes, parse_seconds, topology
from ovafs.cli.output import machine_document, print_json, warn
from ovafs.cli.path_argument import PathArgument
from ovafs.cli.progress import progress_bar
from ovafs.cli.signals import Interrupted, Signals
from ovafs.errors import ImageUnavailable, OvafsError, SourceError
from ovafs.inventory.source import open_destination, open_inventory
from ovafs.model import Firmware, MachineKind
from ovafs.printable import printable
from ovafs.transfer.adapt.adapter import Adapter
from ovafs.transfer.adapt.policy import Adapt
from ovafs.transfer.adapt.program import Stopped
from ovafs.transfer.ingest.choices import Clash, Identity, ImportChoices
from ovafs.transfer.ingest.package import Imported, import_package
from ovafs.transfer.ingest.signature import CertificatePolicy, load_trust
from ovafs.transfer.ingest.target import TargetFormat
from ovafs.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ovafs.inventory.destination import Destination
    from ovafs.inventory.pending import PendingImport
    from ovafs.transfer.ingest.choices import DiskChoices

_PIECE = MIB

_SHOW_SECONDS = 0.5

# The shell's convention for a program that a signal ended.
_EXIT_SIGNAL = 128


class _Arguments(NamedTuple):
    """The command line."""

    source: str
    package: str
    pool: str | None
    name: str | None
    description: str | None
    os_id: str | None
    memory: int | None
    cpus: int | None
    sockets: int | None
    cores: int | None
    threads: int | None
    firmware: str | None
    template: bool | None
    disk_format: str
    disks: tuple[tuple[str, DiskChoices], ...]
    networks: tuple[tuple[str, str], ...]
    network: str | None
    mac: str
    uuid: str
    on_clash: str
    adapt: str
    adapt_limit: float
    certificate: str
    ca_file: str | None
    spool_limit: int
    dry_run: bool
    quiet: bool
    as_json: bool


@click.command("import")
@click.argument("source", type=PathArgument(readable=False))
@click.argument("package", metavar="FILE.ova|-", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--name", help="Name of the machine; default: as in the package.")
@click.option("--description", metavar="TEXT", help="Instead of the package's.")
@click.option("--os", "os_id", metavar="ID", help="Operating system, as in libosinfo: debian12, win2k22.")
@click.option("--memory", metavar="SIZE", type=parse_bytes, help="Memory of the machine, such as 4GiB.")
@click.option("--cpus", type=int, metavar="N", help="N cores in one socket.")
@click.option("--sockets", type=int, metavar="N", help="Instead of --cpus.")
@click.option("--cores", type=int, metavar="N", help="For each socket.")
@click.option("--threads", type=int, metavar="N", help="For each core.")
@click.option("--firmware", type=click.Choice([one.value for one in Firmware]), help="Instead of the package's.")
@click.option(
    "--template/--vm", "template", default=None, help="Register a template, or a VM, whatever the package says."
)
@click.option(
    "--format",
    "disk_format",
    type=click.Choice([one.value for one in TargetFormat]),
    default=TargetFormat.QCOW2.value,
    show_default=True,
    help="Format of the new volumes; keep: qcow2 disks stay byte for byte as they came, others become qcow2.",
)
@click.option(
    "--disk",
    "disks",
    metavar="DISK[,format=qcow2|raw|keep][,interface=virtio|virtio-scsi|sata|ide]",
    multiple=True,
    type=parse_disk_choices,
    help="For one disk: its file in the package, its alias, or its number from 1 on; repeat for more.",
)
@click.option(
    "--map-network",
    "networks",
    metavar="OLD=NEW",
    multiple=True,
    type=parse_network_pair,
    help="Connect to NEW what was on OLD; repeat for more.",
)
@click.option("--network", metavar="NAME", help="Connect to NAME what no --map-network names.")
@click.option(
    "--mac",
    type=click.Choice([one.value for one in Identity]),
    default=Identity.KEEP.value,
    show_default=True,
    help="Keep the MAC addresses that are free, or make new ones.",
)
@click.option(
    "--uuid",
    type=click.Choice([one.value for one in Identity]),
    default=Identity.KEEP.value,
    show_default=True,
    help="Keep the UUID of the machine if it is free, or make a new one.",
)
@click.option(
    "--on-clash",
    type=click.Choice([one.value for one in Clash]),
    default=Clash.SUFFIX.value,
    show_default=True,
    help="If the name is taken: import as NAME-2, or refuse.",
)
@click.option(
    "--adapt",
    type=click.Choice([one.value for one in Adapt]),
    default=Adapt.AUTO.value,
    show_default=True,
    help="Guests of other hypervisors, into libvirt: have them adapted by virt-v2v if possible, never, or in any case.",
)
@click.option(
    "--adapt-limit",
    metavar="DURATION",
    type=parse_seconds,
    default="2h",
    show_default=True,
    help="How long the adaptation of one guest may take.",
)
@click.option(
    "--certificate",
    type=click.Choice([one.value for one in CertificatePolicy]),
    default=CertificatePolicy.WARN.value,
    show_default=True,
    help="Of a signature: ignore it, warn of what is wrong with it, or require that there is one and all is right.",
)
@click.option(
    "--ca-file",
    metavar="FILE.pem",
    type=click.Path(dir_okay=False),
    help="Certificates of those whose signatures are trusted.",
)
@click.option(
    "--spool-limit",
    metavar="SIZE",
    type=parse_bytes,
    default="1GiB",
    show_default=True,
    help="How much may wait in a spool file for a descriptor that comes behind it.",
)
@click.option(
    "--pool", metavar="NAME", help="Storage pool of libvirt for the new volumes; default: the one called default."
)
@click.option("--dry-run", is_flag=True, help="Verify everything, store nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def import_command(**arguments: object) -> None:
    """Take the package FILE.ova (or standard input) apart and register its machines in SOURCE.

    SOURCE is a pool, or the URI of a libvirt connection: there every machine becomes a domain, on hardware that the
    host has. The disks are written to new volumes while the package is read, from a file or a pipe; nothing is
    staged. Packages of oVirt, VMware, VirtualBox and others are read; their disks may be raw, qcow2, VMDK, VDI or VHD,
    also in gzip or in chunks. Digests of a manifest are checked in the same pass. The machines appear together and
    complete when everything is verified and on stable storage, or not at all.

    Without options the machine is what the package says; an option holds for every machine of the package. In DISK a
    comma is written ",,". --dry-run reads the whole package, too, and fails where the import would.

    What cannot be kept as it was (a name that is taken, a device that has no place) is said on stderr.

    A package of another hypervisor brings a guest without the drivers that it needs here. Where virt-v2v is
    installed, it adapts the guest on the new volumes before the machine is there (minutes); where it is not, or when
    it fails, the machine gets hardware that most guests boot from. With --adapt v2v that is an error.

    Ctrl-C (and SIGTERM) while the package is read, or adapted, leaves nothing behind.

    With --json: an object with machines (as in 'vm show --json') and warnings (a list of texts).

    Exit codes: 0 done, 1 an error, 2 wrong usage, 130 interrupted by Ctrl-C, 143 by SIGTERM.
    """
    wanted = _Arguments(**arguments)  # type: ignore[arg-type]  # click passes exactly these
    try:
        with (
            contextlib.closing(open_inventory(wanted.source)) as inventory,
            contextlib.closing(open_destination(wanted.source, inventory, wanted.pool)) as destination,
        ):
            imported = _run(destination, wanted)
    except Interrupted as interrupted:
        click.echo("ovafs: interrupted: nothing is imported, nothing is left", err=True)
        sys.exit(_EXIT_SIGNAL + interrupted.number)
    for warning in imported.warnings:
        warn(printable(warning))
    _print(imported, wanted)


def _run(destination: Destination, wanted: _Arguments) -> Imported:
    choices = _choices(wanted)
    default_name = "imported" if wanted.package == "-" else Path(wanted.package).stem
    with _opened(wanted.package) as descriptor, Signals() as signals:
        size = os.fstat(descriptor).st_size
        with progress_bar(os.path.basename(wanted.package), size, quiet=wanted.quiet) as show:
            pieces = _pieces(descriptor, wanted.package, signals, show)
            imported = import_package(destination, pieces, default_name, choices, dry=wanted.dry_run)
        return imported if imported.pending is None else _adapt(destination, imported.pending, wanted, signals)


def _adapt(destination: Destination, pending: PendingImport, wanted: _Arguments, signals: Signals) -> Imported:
    """Adapt the guests and register the machines; what fails leaves nothing: nobody relies on it yet."""
    adapter = Adapter(destination, wanted.adapt_limit)
    say = (lambda step: click.echo(f"adapting the guest: {step}", err=True)) if not wanted.quiet else None
    try:
        with ThreadPoolExecutor(1) as threads:
            future = threads.submit(adapter.carry_out, pending.uuid, signals.stop)
            said = ""
            while not future.done():
                concurrent.futures.wait([future], _SHOW_SECONDS)
                if say is not None and (step := adapter.step) not in {"", said}:
                    say(said := step)
            adapted = future.result()
    except Stopped:
        adapter.discard(pending.uuid)
        raise Interrupted(signals.received) from None
    except OvafsError:
        adapter.discard(pending.uuid)
        raise
    if adapted is None:
        raise SourceError(
            "another process of ovafs has taken the import over", "'ovafs status' shows what became of it"
        )
    return Imported(list(adapted.machines), list(adapted.warnings))


def _choices(wanted: _Arguments) -> ImportChoices:
    for option, pairs in (("--disk", wanted.disks), ("--map-network", wanted.networks)):
        names = [name for name, _ in pairs]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise click.UsageError(f"{option} {twice} is given twice")
    kind = None if wanted.template is None else MachineKind.TEMPLATE if wanted.template else MachineKind.VM
    return ImportChoices(
        name=wanted.name,
        description=wanted.description,
        os=wanted.os_id,
        memory=wanted.memory,
        cpu=topology(wanted.cpus, wanted.sockets, wanted.cores, wanted.threads),
        firmware=None if wanted.firmware is None else Firmware(wanted.firmware),
        kind=kind,
        network=wanted.network,
        networks=dict(wanted.networks),
        mac=Identity(wanted.mac),
        uuid=Identity(wanted.uuid),
        on_clash=Clash(wanted.on_clash),
        format=TargetFormat(wanted.disk_format),
        disks=dict(wanted.disks),
        adapt=Adapt(wanted.adapt),
        spool_limit=wanted.spool_limit,
        trust=load_trust(CertificatePolicy(wanted.certificate), wanted.ca_file),
    )


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    if path == "-":
        if sys.stdin is None:  # closed; by now the descriptor may be another file's
            raise ImageUnavailable("-", "standard input is closed", "give the name of a file, or a pipe")
        yield sys.stdin.fileno()
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ImageUnavailable(path, f"cannot be opened: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _pieces(descriptor: int, path: str, signals: Signals, show: Callable[[int], object]) -> Iterator[memoryview]:
    """The package, piece by piece, in one buffer."""
    buffer = memoryview(bytearray(_PIECE))
    position = 0
    while True:
        try:
            with signals.raised():
                count = os.readv(descriptor, [buffer])
        except OSError as error:
            raise SourceError(f"{path}: reading failed at {position}: {error.strerror}") from error
        if not count:
            return
        position += count
        yield buffer[:count]
        show(position)


def _print(imported: Imported, wanted: _Arguments) -> None:
    if wanted.as_json:
        machines = [machine_document(machine) for machine in imported.machines]
        print_json({"machines": machines, "warnings": imported.warnings})
        return
    done = "would import" if wanted.dry_run else "imported"
    for machine in imported.machines:
        click.echo(f"{done} {machine.kind} {machine.name} ({machine.uuid})")
