"""A machine's definition from what a user chose, with defaults for what he left open."""

from __future__ import annotations

import os
import secrets
import stat
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import ImageUnavailable, InvalidDefinition
from ovafs.formats.network_disk import is_location, parse_location
from ovafs.inventory.rules import check_machine, check_path, parse_mac
from ovafs.model import (
    CpuTopology,
    Disk,
    DiskFormat,
    DiskInterface,
    Firmware,
    Machine,
    MachineKind,
    Nic,
    NicModel,
    Volume,
)
from ovafs.units import GIB

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

# QEMU's prefix: locally administered, unicast. libvirt and virt-install generate addresses in it too.
_MAC_PREFIX = "52:54:00"


class DiskChoice(NamedTuple):
    """A disk on an existing image; ``path`` as ``image_path`` gives it, ``format`` as it was found or given.

    ``secret``: the file with its passphrase, likewise, or "".
    """

    path: str
    format: DiskFormat
    interface: DiskInterface = DiskInterface.VIRTIO
    secret: str = ""


class NicChoice(NamedTuple):
    """A network adapter; without ``mac`` it gets a new address."""

    network: str
    model: NicModel = NicModel.VIRTIO
    mac: str | None = None


def define_machine(
    name: str,
    *,
    kind: MachineKind = MachineKind.VM,
    memory: int = GIB,
    cpu: CpuTopology = CpuTopology(),  # noqa: B008 - immutable
    firmware: Firmware = Firmware.BIOS,
    os_id: str = "other",
    description: str = "",
    disks: Sequence[DiskChoice] = (),
    nics: Sequence[NicChoice] = (),
    used_macs: Collection[str] = (),
) -> Machine:
    """A new machine with new UUIDs, made now; it boots from its first disk.

    ``used_macs`` are the addresses that a generated one must not be. Raises InvalidDefinition.
    """
    now = int(time.time())
    machine = Machine(
        uuid=_new_uuid(),
        name=name,
        kind=kind,
        description=description.replace("\r\n", "\n"),
        memory=memory,
        cpu=cpu,
        firmware=firmware,
        os=os_id,
        created=now,
        modified=now,
        disks=_define_disks(name, disks),
        nics=_define_nics(nics, used_macs),
    )
    check_machine(machine)
    return machine


def image_path(path: str) -> str:
    """The absolute path that is recorded for an image which the user calls ``path``; a URI as it is written usually.

    Symbolic links are resolved, so that a changed link never puts another image into the machine. Not so the last
    link to a block device: /dev/mapper/x and /dev/disk/by-id/x keep their meaning when the machine restarts,
    /dev/dm-3 and /dev/sdb do not.

    Raises ImageUnavailable if there is nothing, InvalidDefinition for a name that cannot be recorded.
    """
    if is_location(path):
        return parse_location(path).location
    try:
        real = Path(path).resolve(strict=True)
        if stat.S_ISBLK(real.stat().st_mode):
            named = Path(path).absolute()
            real = named.parent.resolve() / named.name
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "symbolic links in a circle"
        raise ImageUnavailable(path, reason) from error
    check_path(str(real))
    return str(real)


def _define_disks(name: str, choices: Sequence[DiskChoice]) -> tuple[Disk, ...]:
    seen: dict[tuple[int, int] | str, str] = {}
    for choice in choices:
        file_id = _file_id(choice.path)
        if file_id in seen:
            raise InvalidDefinition(
                f"{seen[file_id]} and {choice.path} are the same image", "each disk needs an image of its own"
            )
        seen[file_id] = choice.path
    return tuple(
        Disk(
            uuid=_new_uuid(),
            alias=f"{name[:240]}_Disk{number}",
            volume=Volume(uuid=_new_uuid(), path=choice.path, format=choice.format, secret=choice.secret),
            interface=choice.interface,
            boot=number == 1,
        )
        for number, choice in enumerate(choices, 1)
    )


def _define_nics(choices: Sequence[NicChoice], used_macs: Collection[str]) -> tuple[Nic, ...]:
    given = {parse_mac(choice.mac) for choice in choices if choice.mac is not None}
    used = {*used_macs, *given}
    nics = []
    for number, choice in enumerate(choices, 1):
        mac = new_mac(used) if choice.mac is None else parse_mac(choice.mac)
        used.add(mac)
        nics.append(Nic(uuid=_new_uuid(), name=f"nic{number}", network=choice.network, mac=mac, model=choice.model))
    return tuple(nics)


def new_mac(used: Collection[str]) -> str:
    """A random address with QEMU's prefix that is not among ``used``."""
    while True:
        mac = f"{_MAC_PREFIX}:{secrets.token_bytes(3).hex(':')}"
        if mac not in used:
            return mac


def _new_uuid() -> str:
    return str(uuid.uuid4())


def _file_id(path: str) -> tuple[int, int] | str:
    if is_location(path):
        return path
    try:
        status = os.stat(path)
    except OSError as error:
        raise ImageUnavailable(path, error.strerror or "cannot be reached") from error
    # A block device has many names and one number.
    return (0, status.st_rdev) if stat.S_ISBLK(status.st_mode) else (status.st_dev, status.st_ino)
