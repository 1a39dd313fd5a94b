"""``--disk``, ``--nic`` and more: a value, then ``key=value`` parts. A comma within a value is ``,,``, as in qemu."""

from __future__ import annotations

import enum
from typing import NamedTuple, TypeVar

import click

from ovafs.errors import InvalidDefinition
from ovafs.inventory.define import NicChoice
from ovafs.inventory.rules import parse_mac
from ovafs.model import DiskFormat, DiskInterface, NicModel
from ovafs.transfer.ingest.choices import DiskChoices
from ovafs.transfer.ingest.target import TargetFormat

E = TypeVar("E", bound=enum.StrEnum)


class DiskArgument(NamedTuple):
    """What ``--disk`` said; without ``format`` it is to be detected; ``secret`` may be empty."""

    path: str
    format: DiskFormat | None
    interface: DiskInterface
    secret: str


def parse_disk(text: str) -> DiskArgument:
    """PATH[,format=…][,interface=…][,secret=…]. Raises click.BadParameter."""
    path, parts = _split(text, ("format", "interface", "secret"))
    if not path:
        raise click.BadParameter("the path is missing")
    return DiskArgument(
        path,
        _choice(DiskFormat, "format", parts["format"]) if "format" in parts else None,
        _choice(DiskInterface, "interface", parts.get("interface", DiskInterface.VIRTIO)),
        parts.get("secret", ""),
    )


def parse_disk_choices(text: str) -> tuple[str, DiskChoices]:
    """DISK[,format=…][,interface=…] of a package. Raises click.BadParameter."""
    name, parts = _split(text, ("format", "interface"))
    if not name or not parts:
        raise click.BadParameter(f"{text!r} does not name a disk and say its format=… or interface=…")
    return name, DiskChoices(
        format=_choice(TargetFormat, "format", parts["format"]) if "format" in parts else None,
        interface=_choice(DiskInterface, "interface", parts["interface"]) if "interface" in parts else None,
    )


def parse_network_pair(text: str) -> tuple[str, str]:
    """OLD=NEW. Raises click.BadParameter."""
    old, equals, new = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not of the form OLD=NEW")
    return old, new


def parse_nic(text: str) -> NicChoice:
    """NETWORK[,model=…][,mac=…]. Raises click.BadParameter."""
    network, parts = _split(text, ("model", "mac"))
    model = _choice(NicModel, "model", parts.get("model", NicModel.VIRTIO))
    try:
        return NicChoice(network, model, parse_mac(parts["mac"]) if "mac" in parts else None)
    except InvalidDefinition as error:
        raise click.BadParameter(str(error)) from error


def _split(text: str, keys: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    # No argument of a program can contain NUL, so it can stand for a comma meanwhile.
    first, *rest = (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))
    parts: dict[str, str] = {}
    for part in rest:
        key, equals, value = part.partition("=")
        if not equals or key not in keys:
            known = " or ".join(f"{known}=…" for known in keys)
            raise click.BadParameter(f"{part!r} is not {known} (a comma within a name is written ',,')")
        if key in parts:
            raise click.BadParameter(f"{key}= is given twice")
        parts[key] = value
    return first, parts


def _choice(choices: type[E], key: str, value: str) -> E:
    try:
        return choices(value)
    except ValueError:
        raise click.BadParameter(f"{key}={value} is not one of {', '.join(choices)}") from None
