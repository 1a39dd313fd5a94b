"""Definitions of machines with made-up images, for tests that never open an image."""

from __future__ import annotations

import uuid
from typing import Any

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

THEN = 1_700_000_000


def number(*words: object) -> str:
    """The same UUID for the same words."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, " ".join(map(str, words))))


def disk(name: str, position: int) -> Disk:
    return Disk(
        uuid=number(name, "disk", position),
        alias=f"{name}_Disk{position + 1}",
        volume=Volume(
            uuid=number(name, "volume", position), path=f"/images/{name}-{position}", format=DiskFormat.QCOW2
        ),
        boot=position == 0,
    )


def nic(name: str, position: int, mac: str) -> Nic:
    return Nic(uuid=number(name, "nic", position), name=f"nic{position + 1}", network="lan", mac=mac)


def machine(name: str, **fields: Any) -> Machine:
    """A VM with one disk, unless ``fields`` say otherwise."""
    defaults = {
        "uuid": number(fields.get("kind", MachineKind.VM), name),
        "name": name,
        "memory": 1 << 30,
        "created": THEN,
        "modified": THEN,
        "disks": (disk(name, 0),),
    }
    return Machine(**{**defaults, **fields})


def rich_machine(name: str = 'Zürich <&> "数据" 🐧') -> Machine:
    """Every field differs from its default."""
    return machine(
        name,
        kind=MachineKind.TEMPLATE,
        description="two\nlines\tand 'quotes'",
        memory=3 << 20,
        cpu=CpuTopology(sockets=2, cores=3, threads=4),
        firmware=Firmware.UEFI_SECURE,
        os="debian12",
        modified=THEN + 5,
        disks=(
            disk(name, 0),
            Disk(
                uuid=number(name, "second"),
                alias="",
                volume=Volume(uuid=number(name, "raw"), path="/dev/disk/by-id/ü,x", format=DiskFormat.RAW),
                interface=DiskInterface.IDE,
            ),
        ),
        nics=(
            Nic(uuid=number(name, "nic"), name="ens3", network="", mac="52:54:00:ff:00:01", model=NicModel.E1000E),
            nic(name, 1, "52:54:00:ff:00:02"),
        ),
    )
