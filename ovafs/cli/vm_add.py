"""``ovafs vm add``: a machine on images that exist."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from ovafs.cli.disk_option import DiskArgument, parse_disk, parse_nic
from ovafs.cli.machine_options import parse_bytes, topology
from ovafs.cli.output import machine_document, print_json, warn
from ovafs.cli.path_argument import PathArgument
from ovafs.cli.vm import json_option
from ovafs.formats.network_disk import is_location
from ovafs.formats.ovf.os_ids import OTHER, guest_os
from ovafs.inventory.define import DiskChoice, NicChoice, define_machine, image_path
from ovafs.inventory.source import open_pool
from ovafs.model import CpuTopology, DiskFormat, Firmware, Machine, MachineKind, Volume
from ovafs.storage.backing import choose_format
from ovafs.storage.engine.engines import Engines
from ovafs.storage.opener import AnyOpener

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovafs.storage.opener import Opener


@click.command()
@click.argument("pool", type=PathArgument(file_okay=False))
@click.argument("name")
@click.option(
    "--disk",
    "disks",
    type=parse_disk,
    multiple=True,
    metavar=f"PATH[,format={'|'.join(DiskFormat)}][,interface=virtio|virtio-scsi|sata|ide][,secret=FILE]",
    help="A disk on an existing image; raw and qcow2 are detected; FILE has the passphrase of one that is encrypted."
    " Repeat for more. The first one boots.",
)
@click.option(
    "--memory", type=parse_bytes, default="1GiB", show_default=True, metavar="SIZE", help="A multiple of 1 MiB."
)
@click.option("--cpus", type=int, metavar="N", help="N cores in one socket. [default: 1]")
@click.option("--sockets", type=int, metavar="N", help="Instead of --cpus.")
@click.option("--cores", type=int, metavar="N", help="For each socket.")
@click.option("--threads", type=int, metavar="N", help="For each core.")
@click.option(
    "--nic",
    "nics",
    type=parse_nic,
    multiple=True,
    metavar="NETWORK[,model=virtio|e1000|e1000e|rtl8139][,mac=…]",
    help="A network adapter; repeat for more. An empty NETWORK: not connected.",
)
@click.option("--firmware", type=click.Choice([one.value for one in Firmware]), default="bios", show_default=True)
@click.option(
    "--os", "os_id", default="other", show_default=True, metavar="ID", help="As in libosinfo: debian12, win2k22."
)
@click.option("--description", default="", metavar="TEXT")
@click.option("--template", is_flag=True, help="Add a template.")
@json_option
def add(
    pool: str,
    name: str,
    *,
    disks: tuple[DiskArgument, ...],
    memory: int,
    cpus: int | None,
    sockets: int | None,
    cores: int | None,
    threads: int | None,
    nics: tuple[NicChoice, ...],
    firmware: str,
    os_id: str,
    description: str,
    template: bool,
    as_json: bool,
) -> None:
    """Add a machine called NAME to POOL, on images that exist.

    The images stay where they are, and nothing is copied. PATH is a file, a block device, or the URI of a raw disk on
    the network (nbd, http, https, iscsi, ssh). Each is opened and checked through its whole chain now, so that a broken
    one is refused here. In PATH, FILE and NETWORK a comma is written ",,".

    With --json: the object that "ovafs vm show --json" prints.
    """
    cpu = topology(cpus, sockets, cores, threads) or CpuTopology()
    with contextlib.closing(open_pool(pool)) as opened, contextlib.closing(Engines()) as engines:
        machine = define_machine(
            name,
            kind=MachineKind.TEMPLATE if template else MachineKind.VM,
            memory=memory,
            cpu=cpu,
            firmware=Firmware(firmware),
            os_id=os_id,
            description=description,
            disks=[_check_image(disk, AnyOpener(engines)) for disk in disks],
            nics=nics,
            used_macs=opened.macs(),
        )
        shared = [(disk.volume.path, users) for disk in machine.disks if (users := opened.users_of(disk.volume.path))]
        opened.add(machine)
    _report(machine, shared, as_json=as_json)


def _check_image(disk: DiskArgument, opener: Opener) -> DiskChoice:
    path = image_path(disk.path)
    # On the network all disks are raw, so that is no guess.
    image_format = (disk.format or DiskFormat.RAW) if is_location(path) else choose_format(path, disk.format)
    secret = image_path(disk.secret) if disk.secret else ""
    with contextlib.closing(opener.open(Volume(uuid="", path=path, format=image_format, secret=secret))) as volume:
        volume.read_extents()
    return DiskChoice(path, image_format, disk.interface, secret)


def _report(machine: Machine, shared: Sequence[tuple[str, list[str]]], *, as_json: bool) -> None:
    if machine.os != "other" and guest_os(machine.os) is OTHER:
        warn(f"the operating system {machine.os!r} is not known; the .ova will say that it is another one")
    for path, users in shared:
        warn(f"the image {path} is a disk of {', '.join(users)} too")
    if as_json:
        print_json(machine_document(machine))
    else:
        click.echo(f"added {machine.kind} {machine.name} ({machine.uuid})")
