"""``NAME.ova.toml``: what a user chose about the import of NAME.ova, as a file.

| key | value |
|---|---|
| name, description, os | text |
| memory | a size, such as "4GiB" |
| cpus; or sockets, cores, threads | numbers |
| firmware | bios, uefi, uefi-secure |
| template | true or false |
| format | qcow2, raw, keep |
| disks.DISK | a table with format and interface; DISK is a file, an alias or a number |
| networks | a table: OLD = "NEW" |
| network | for all networks that are not in it |
| mac, uuid | keep, new |
| on_clash | suffix, refuse |
| adapt | auto, never, v2v |

Everything is optional and means what the options of ``ovafs import`` mean.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from ovafs.errors import InvalidChoices
from ovafs.inventory.rules import MAX_CPUS
from ovafs.model import CpuTopology, DiskInterface, Firmware, MachineKind
from ovafs.transfer.adapt.policy import Adapt
from ovafs.transfer.ingest.choices import Clash, DiskChoices, Identity, ImportChoices, check_choices
from ovafs.transfer.ingest.target import TargetFormat
from ovafs.units import parse_size

if TYPE_CHECKING:
    import enum
    from collections.abc import Iterable

MAX_SIZE = 64 << 10
"""Of a file with choices, in bytes."""

# A key of many parts takes tomllib quadratic time: 32,000 of them took 18 s, while nothing else ran.
_MOST_DOTS = 200

_WORDS = {"`str": "text", "`int": "a number", "`bool": "true or false", "`object": "a table"}

_ENUMERATIONS: dict[str, type[enum.StrEnum]] = {
    "firmware": Firmware,
    "format": TargetFormat,
    "interface": DiskInterface,
    "mac": Identity,
    "uuid": Identity,
    "on_clash": Clash,
    "adapt": Adapt,
}


_Count = Annotated[int, msgspec.Meta(ge=1, le=MAX_CPUS)]


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    name: str | None = None
    description: str | None = None
    os: str | None = None
    memory: str | None = None
    cpus: _Count | None = None
    sockets: _Count | None = None
    cores: _Count | None = None
    threads: _Count | None = None
    firmware: Firmware | None = None
    template: bool | None = None
    format: TargetFormat | None = None
    disks: dict[str, DiskChoices] | None = None
    networks: dict[str, str] | None = None
    network: str | None = None
    mac: Identity | None = None
    uuid: Identity | None = None
    on_clash: Clash | None = None
    adapt: Adapt | None = None


def parse_choices(data: bytes, base: ImportChoices) -> ImportChoices:
    """The choices that a file holds; what it does not say is as in ``base``. Raises InvalidChoices."""
    if len(data) > MAX_SIZE:
        raise InvalidChoices(f"{len(data)} bytes are too many for choices", f"the limit is {MAX_SIZE}")
    known = _convert(_parse(data))
    kept = (
        "name",
        "description",
        "os",
        "firmware",
        "format",
        "disks",
        "networks",
        "network",
        "mac",
        "uuid",
        "on_clash",
        "adapt",
    )
    said: dict[str, Any] = {key: value for key in kept if (value := getattr(known, key)) is not None}
    if known.memory is not None:
        said["memory"] = _size(known.memory)
    if (cpu := _topology(known)) is not None:
        said["cpu"] = cpu
    if known.template is not None:
        said["kind"] = MachineKind.TEMPLATE if known.template else MachineKind.VM
    choices = msgspec.structs.replace(base, **said)
    check_choices(choices)
    return choices


def _parse(data: bytes) -> dict[str, Any]:
    try:
        text = data.decode("utf-8-sig")
        dots = next((n for n, line in enumerate(text.split("\n"), 1) if line.count(".") > _MOST_DOTS), None)
        if dots is not None:
            raise InvalidChoices(f"line {dots} has more than {_MOST_DOTS} dots", "write it on several lines")
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise InvalidChoices(f"byte {error.start} is not UTF-8", "save the file as UTF-8") from error
    except RecursionError:
        raise InvalidChoices("the values are nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, and what int() says of a number of thousands of digits
        raise InvalidChoices(f"this is not TOML: {error}", 'write for example: name = "web"') from error


def _convert(document: dict[str, Any]) -> _Document:
    _check_keys(document, _Document.__struct_fields__, "")
    disks = document.get("disks")
    for name, disk in disks.items() if isinstance(disks, dict) else ():
        if isinstance(disk, dict):
            _check_keys(disk, DiskChoices.__struct_fields__, f" for the disk {name!r}")
    try:
        return msgspec.convert(document, _Document)
    except msgspec.ValidationError as error:
        raise _bad_value(*str(error).partition(" - at `$.")[::2]) from error


def _bad_value(reason: str, path: str) -> InvalidChoices:
    """What msgspec says of the value at a path, in words that people know who write TOML."""
    key = path.rstrip("`")
    if allowed := _ENUMERATIONS.get(key.rpartition(".")[2]):
        return InvalidChoices(f"{key}: this value cannot be", f"write one of {', '.join(allowed)}")
    expected = reason.removeprefix("Expected ").partition(",")[0].replace(" | null", "")
    for word, said in _WORDS.items():
        expected = expected.replace(f"{word}`", said)
    hint = 'such as memory = "4GiB"' if key == "memory" else ""
    return InvalidChoices(f"{key}: this must be {expected}", hint)


def _check_keys(table: dict[str, Any], known: Iterable[str], where: str) -> None:
    unknown = [key for key in table if key not in known]
    if unknown:
        raise InvalidChoices(f"the key {unknown[0]!r} is not known{where}", f"known are {', '.join(known)}")


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise InvalidChoices(f"memory: {error}") from error


def _topology(known: _Document) -> CpuTopology | None:
    given = {"sockets": known.sockets, "cores": known.cores, "threads": known.threads}
    said = {key: number for key, number in given.items() if number is not None}
    if known.cpus is None:
        return CpuTopology(**said) if said else None
    if said:
        raise InvalidChoices(f"cpus and {next(iter(said))} are both given", "give either cpus or the topology")
    return CpuTopology(cores=known.cpus)
