"""Mount options: the ``-o`` list of ``ovafs mount`` and mount(8).

| option | meaning |
|---|---|
| allow_other | other users may enter (kernel permission checks are always on) |
| ro | the kernel refuses every change itself |
| uid=, gid= | owner of everything shown; default: who mounts |
| mode= | permission bits of the .ova files, octal; default 0440; directories add search for whoever may read |
| drop_mode= | permission bits of the drop directory, octal; default 0700; 0: there is none |
| drop_format= | what becomes of the disks of uploads: qcow2 (default), raw, or keep (qcow2 stays as it came) |
| drop_network= | network for the adapters of uploads; default: as in the package |
| drop_clash= | uploads whose machine's name is taken: suffix (default: it becomes NAME-2) or refuse |
| drop_certificate= | signatures of uploads: ignore, warn (default: what is wrong with one is said), or require |
| drop_ca_file= | PEM file with the certificates of those whose signatures are trusted; read when mounting |
| adapt= | guests of other hypervisors in uploads: auto (default: virt-v2v adapts them if installed), never, v2v |
| adapt_limit= | how long the adaptation of one guest may take; a duration, default 2h |
| pool= | storage pool of libvirt that uploads land in; default: the one called default |
| pin= | what keeps the images of an open file as they are: lock (default), or reflink, which lets them be written to |
| backup_age= | how long who comes later reads a running machine's backup that is open; a duration, default 1h |
| freeze= | file systems of guests while their backup begins: auto (default: if their agents can), never, or require |
| scratch= | directory for what running machines overwrite while they are copied; default: in the state directory |
| scratch_reserve= | room that always stays free there: copies are given up before; a size, default 1GiB |
| spool_limit= | how much of one upload may wait because bytes before it have not come; a size, default 1GiB |
| keep_partial= | how long an upload that nobody continues is kept; a duration, default 24h |
| read_ahead= | how far the kernel reads ahead, a size; default 1MiB (needs root to take effect) |
| include=, exclude= | show only machines whose name matches, or does not match, a pattern; may be given again |
| tag= | show only domains of libvirt that have this tag; may be given again: one of them is enough |
| snapshots | show snapshots of libvirt's domains, too, as NAME@SNAPSHOT.ova |
| templates= | pattern of the names that are templates (libvirt has none of its own); may be given again |
| log= | file to log to; default: stderr with -f, else syslog, else mount.log in the cache directory |
| debug | log every step |
| nodev, nosuid, noexec, noatime, sync, dirsync | handed to the kernel |
| defaults, rw, auto, noauto, nofail, user, nouser, users, owner, group | of mount(8) and fstab; ignored |
| _netdev, async, relatime, strictatime, x-…, comment=… | of mount(8) and fstab; ignored |

Anything else is refused by name: an option that is silently ignored is a trap.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import msgspec

from ovafs.errors import InvalidChoices, MountFailed
from ovafs.inventory.inventory import Freeze
from ovafs.inventory.selection import Selection
from ovafs.transfer.adapt.adapter import LONGEST_CONVERSION
from ovafs.transfer.adapt.policy import Adapt
from ovafs.transfer.ingest.choices import Clash, ImportChoices, check_choices
from ovafs.transfer.ingest.signature import CertificatePolicy
from ovafs.transfer.ingest.target import TargetFormat
from ovafs.transfer.packager import Pin
from ovafs.units import GIB, MIB, parse_duration, parse_size
from ovafs.vfs.handles import BACKUP_AGE

if TYPE_CHECKING:
    import enum
    from collections.abc import Callable

KERNEL_OPTIONS = frozenset({"nodev", "nosuid", "noexec", "noatime", "sync", "dirsync", "allow_other", "ro"})
IGNORED = frozenset(
    {"defaults", "rw", "auto", "noauto", "nofail", "user", "nouser", "users", "owner", "group", "_netdev", "async"}
    | {"relatime", "strictatime"}
)


_PATTERNS = ("include", "exclude", "templates", "tag")


class MountOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Checked options; see the table above."""

    kernel: frozenset[str] = frozenset()
    uid: int = msgspec.field(default_factory=os.getuid)
    gid: int = msgspec.field(default_factory=os.getgid)
    mode: int = 0o440
    drop_mode: int = 0o700
    drop_format: TargetFormat = TargetFormat.QCOW2
    drop_network: str | None = None
    drop_clash: Clash = Clash.SUFFIX
    drop_certificate: CertificatePolicy = CertificatePolicy.WARN
    drop_ca_file: str | None = None
    adapt: Adapt = Adapt.AUTO
    adapt_limit: float = LONGEST_CONVERSION
    pool: str | None = None
    pin: Pin = Pin.LOCK
    backup_age: float = BACKUP_AGE
    freeze: Freeze = Freeze.AUTO
    scratch: str | None = None
    scratch_reserve: int = GIB
    spool_limit: int = GIB
    keep_partial: float = 24 * 3600.0
    read_ahead: int = MIB
    log: str | None = None
    debug: bool = False
    selection: Selection = Selection()


def parse_options(lists: tuple[str, ...]) -> MountOptions:
    r"""Parse the arguments of all ``-o``; a comma inside a value is written as ``\,``.

    Raises MountFailed with the name of an unknown option or a bad value.
    """
    kernel: set[str] = set()
    values: dict[str, int | float | str | bool] = {}
    patterns: dict[str, list[str]] = {name: [] for name in _PATTERNS}
    shows_snapshots = False
    for item in (item for text in lists for item in _split(text)):
        name, equals, value = item.partition("=")
        if name in KERNEL_OPTIONS and not equals:
            kernel.add(name)
        elif name in IGNORED or name.startswith("x-") or name == "comment":
            continue
        elif name == "debug" and not equals:
            values["debug"] = True
        elif name == "snapshots" and not equals:
            shows_snapshots = True
        elif name in patterns:
            patterns[name].append(_needed(name, value))
        elif name in _PARSERS:
            values[name] = _parse_value(name, value)
        else:
            raise MountFailed(f"unknown mount option {item!r}", "see 'ovafs mount --help' for all options")
    return msgspec.convert(
        {"kernel": frozenset(kernel), "selection": {**patterns, "snapshots": shows_snapshots}, **values}, MountOptions
    )


def options_document(options: MountOptions) -> dict[str, str | float | bool | list[str] | None]:
    """The options by their names, as JSON has them; permission bits in octal, as they were given."""
    values = {name: getattr(options, name) for name in options.__struct_fields__}
    chosen = msgspec.structs.asdict(values.pop("selection"))
    patterns = {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}
    bits = {name: f"{values[name]:04o}" for name in ("mode", "drop_mode")}
    return {**values, **patterns, **bits, "drop_format": options.drop_format.value, "kernel": sorted(options.kernel)}


def _split(text: str) -> list[str]:
    parts = text.replace("\\,", "\0").split(",")
    return [part.replace("\0", ",") for part in parts if part]


def _mode(text: str) -> int:
    value = _drop_mode(text)
    if not value or value & 0o333:
        raise ValueError("only read permission bits can be given, for example 0444")
    return value


def _drop_mode(text: str) -> int:
    if not re.fullmatch("0*[0-7]{1,3}", text):
        raise ValueError("not permission bits, for example 0770")
    return int(text, 8)


def _one_of(choices: type[enum.StrEnum]) -> Callable[[str], enum.StrEnum]:
    def parse(text: str) -> enum.StrEnum:
        if text not in list(choices):
            raise ValueError(f"not one of {', '.join(choices)}")
        return choices(text)

    return parse


def _network(text: str) -> str:
    try:
        check_choices(ImportChoices(network=text))
    except InvalidChoices as error:
        raise ValueError(str(error)) from None
    return text


def _id(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) >= 2**32 - 1:  # the last one means "unchanged" to chown(2)
        raise ValueError("not a number of a user or group, for example 1000")
    return int(text)


_PARSERS: dict[str, Callable[[str], int | float | str]] = {
    "uid": _id,
    "gid": _id,
    "mode": _mode,
    "drop_mode": _drop_mode,
    "drop_format": _one_of(TargetFormat),
    "drop_network": _network,
    "drop_clash": _one_of(Clash),
    "drop_certificate": _one_of(CertificatePolicy),
    "drop_ca_file": os.path.abspath,
    "adapt": _one_of(Adapt),
    "adapt_limit": parse_duration,
    "pool": str,
    "pin": _one_of(Pin),
    "backup_age": parse_duration,
    "freeze": _one_of(Freeze),
    "scratch": os.path.abspath,
    "scratch_reserve": parse_size,
    "spool_limit": parse_size,
    "keep_partial": parse_duration,
    "read_ahead": parse_size,
    "log": os.path.abspath,
}


def _needed(name: str, value: str) -> str:
    if not value:
        raise MountFailed(f"mount option {name}= needs a value")
    return value


def _parse_value(name: str, value: str) -> int | float | str:
    try:
        return _PARSERS[name](_needed(name, value))
    except ValueError as error:
        raise MountFailed(f"mount option {name}={value}: {error}") from None
