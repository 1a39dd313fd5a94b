"""``ovafs vm``: the machines of a source."""

from __future__ import annotations

import contextlib
import datetime as dt

import click

from ovafs.cli.completion import complete_machine
from ovafs.cli.lazy import LazyGroup
from ovafs.cli.output import machine_document, print_fields, print_json, print_table, warn
from ovafs.cli.path_argument import PathArgument
from ovafs.errors import MachineNotFound
from ovafs.inventory.source import open_inventory, open_pool, selection_for
from ovafs.model import CpuTopology, Disk, Machine, MachineKind, Nic, StateKind
from ovafs.units import format_size

COMMANDS = {
    "add": "ovafs.cli.vm_add:add",
    "list": "ovafs.cli.vm:list_machines",
    "show": "ovafs.cli.vm:show",
    "remove": "ovafs.cli.vm:remove",
}

_STATES = {StateKind.TPM: "TPM state", StateKind.NVRAM: "Firmware variables"}

source_argument = click.argument("source", type=PathArgument(file_okay=False))
name_argument = click.argument("name", shell_complete=complete_machine)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
template_option = click.option("--template", is_flag=True, help="NAME is a template.")


@click.group(cls=LazyGroup, lazy_commands=COMMANDS)
def vm() -> None:
    """Add, list, show and remove machines (VMs and templates)."""


@click.command("list")
@source_argument
@json_option
def list_machines(source: str, *, as_json: bool) -> None:
    """List the machines of SOURCE.

    With --json: an array of the objects that "show --json" prints. Machines whose definition in the catalog is
    damaged are named on stderr.
    """
    with contextlib.closing(open_inventory(source)) as inventory:
        machines, damaged = inventory.snapshot()
    if as_json:
        print_json([machine_document(machine) for machine in machines])
    else:
        print_table(
            ("NAME", "KIND", "CPUS", "MEMORY", "DISKS", "NICS", "UUID"), [_row(machine) for machine in machines]
        )
    for machine in damaged:
        warn(f"{machine.name} is damaged: {machine.reason}")


@click.command()
@source_argument
@name_argument
@json_option
@template_option
@click.option("--descriptor", is_flag=True, help="Print the descriptor (OVF) that it was imported from.")
def show(source: str, name: str, *, as_json: bool, template: bool, descriptor: bool) -> None:
    """Show the machine NAME (or UUID) of SOURCE.

    With --descriptor: only the descriptor of the package that the machine was imported from, byte for byte. It has
    also what the pool has no place for. Exit code 1 if there is none.

    With --json: an object with uuid, name, kind ("vm", "template"), description, memory (bytes), cpu (sockets,
    cores, threads), firmware ("bios", "uefi", "uefi-secure"), os, created and modified (seconds since 1970, UTC),
    disks (uuid, alias, interface, boot, volume: uuid, path, format, and secret where the image is encrypted: the path
    of the file with its passphrase), nics (uuid, name, network, mac, model), and nvram and tpm (null, or size in bytes
    and digest of the firmware's variables and of the TPM's state).
    """
    if descriptor and as_json:
        raise click.UsageError("--descriptor and --json exclude each other")
    with contextlib.closing(open_inventory(source, selection_for(source, name))) as inventory:
        machine = inventory.find(name, MachineKind.TEMPLATE if template else None)
        source_text = None if as_json else inventory.read_descriptor(machine)
    if descriptor:
        if source_text is None:
            raise MachineNotFound(f"{machine.name} was not imported: there is no descriptor of it")
        click.echo(source_text, nl=False)
    elif as_json:
        print_json(machine_document(machine))
    else:
        print_fields(_fields(machine, source_text))


@click.command()
@click.argument("source", metavar="POOL", type=PathArgument(file_okay=False))
@name_argument
@template_option
@click.option("--keep-disks", is_flag=True, help="Keep the volumes that an import made, too.")
def remove(source: str, name: str, *, template: bool, keep_disks: bool) -> None:
    """Remove the machine NAME (or UUID) from POOL, and the volumes that an import made for it.

    Images that were registered with 'vm add' stay as they are, and so does a volume that another machine's image is
    based on. Nothing happens while a program writes to one of the volumes.
    """
    # Imported here: listing machines needs none of it.
    from ovafs.transfer.removal import remove_machine  # noqa: PLC0415

    with contextlib.closing(open_pool(source)) as pool:
        removed, volumes = remove_machine(
            pool, name, MachineKind.TEMPLATE if template else None, keep_volumes=keep_disks
        )
    click.echo(f"removed {removed.kind} {removed.name} ({removed.uuid})")
    for volume in volumes:
        click.echo(f"removed volume {volume}")
    for image in removed.images:
        click.echo(f"kept image {image}")


def _row(machine: Machine) -> tuple[str, ...]:
    return (
        *(machine.name, machine.kind, str(machine.cpu.total), format_size(machine.memory)),
        *(str(len(machine.disks)), str(len(machine.nics)), machine.uuid),
    )


def _fields(machine: Machine, descriptor: bytes | None) -> list[tuple[str, str]]:
    fields = [
        ("Name", machine.name),
        ("UUID", machine.uuid),
        ("Kind", machine.kind),
        ("Description", machine.description),
        ("Memory", format_size(machine.memory)),
        ("CPUs", _cpus(machine.cpu)),
        ("Firmware", machine.firmware),
        ("Operating system", machine.os),
        ("Created", _time(machine.created)),
        ("Modified", _time(machine.modified)),
        *((f"Disk {number}", _disk(disk)) for number, disk in enumerate(machine.disks, 1)),
        *((f"NIC {number}", _nic(nic)) for number, nic in enumerate(machine.nics, 1)),
        *((_STATES[kind], f"kept, {format_size(state.size)}") for kind, state in machine.states.items()),
    ]
    if descriptor is not None:
        fields.append(("Descriptor", f"kept, {format_size(len(descriptor))}; --descriptor prints it"))
    return fields


def _cpus(cpu: CpuTopology) -> str:
    return f"{cpu.total} (sockets {cpu.sockets}, cores {cpu.cores}, threads {cpu.threads})"


def _time(seconds: int) -> str:
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%d %H:%M:%S} UTC"


def _disk(disk: Disk) -> str:
    volume = disk.volume
    return f"{volume.path} ({volume.format}, {disk.interface}{', boot' if disk.boot else ''})\nvolume {volume.uuid}"


def _nic(nic: Nic) -> str:
    return f"{nic.mac} on {nic.network} ({nic.model})" if nic.network else f"{nic.mac} not connected ({nic.model})"
