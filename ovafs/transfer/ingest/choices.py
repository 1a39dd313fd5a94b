"""What a user can choose about an import, whichever way the package comes in.

A choice for one disk names the disk: by its file in the package, by its alias, or by its number in the machine, from
1 on. What ``tar tf`` shows is what administrators know, so the file's name counts first, then the alias, then the
number. A name that no disk has, or that several have, is an error that lists the disks.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import msgspec

from ovafs.errors import InvalidChoices, InvalidDefinition
from ovafs.inventory.define import NicChoice, define_machine
from ovafs.model import CpuTopology, DiskInterface, Firmware, MachineKind
from ovafs.transfer.adapt.policy import Adapt
from ovafs.transfer.ingest.signature import Trust
from ovafs.transfer.ingest.target import TargetFormat
from ovafs.units import GIB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ovafs.formats.ovf.read_model import Descriptor, DiskSlot, PackageDisk


class Identity(enum.StrEnum):
    """Whether UUIDs and MAC addresses of the package stay, where they are free, or are made anew."""

    KEEP = "keep"
    NEW = "new"


class Clash(enum.StrEnum):
    """What happens to a machine whose name is taken: it gets "-2" behind it, or the import is refused."""

    SUFFIX = "suffix"
    REFUSE = "refuse"


class DiskChoices(msgspec.Struct, frozen=True, kw_only=True):
    """What the user wants of one disk; None: as of all of them, and as the package says."""

    format: TargetFormat | None = None
    interface: DiskInterface | None = None


class ImportChoices(msgspec.Struct, frozen=True, kw_only=True):
    """What the user wants; None and empty: as the package says. All of it holds for every machine of the package.

    ``format`` is what becomes of the disks; ``disks`` are by file, alias or number, see the module. ``networks`` says
    what becomes of a network, ``network`` what of those that are not in it. ``adapt`` says whether
    guests are adapted. ``spool_limit`` is in bytes. ``trust`` is about signatures; who uploads a package cannot choose
    it.
    """

    name: str | None = None
    description: str | None = None
    os: str | None = None
    memory: int | None = None
    cpu: CpuTopology | None = None
    firmware: Firmware | None = None
    kind: MachineKind | None = None
    network: str | None = None
    networks: Mapping[str, str] = msgspec.field(default_factory=dict)
    mac: Identity = Identity.KEEP
    uuid: Identity = Identity.KEEP
    on_clash: Clash = Clash.SUFFIX
    format: TargetFormat = TargetFormat.QCOW2
    disks: Mapping[str, DiskChoices] = msgspec.field(default_factory=dict)
    adapt: Adapt = Adapt.AUTO
    spool_limit: int = GIB
    trust: Trust = Trust()

    def network_for(self, network: str) -> str:
        """The network that an adapter on ``network`` is connected to; one that is on none stays so unless mapped."""
        default = self.network if network and self.network is not None else network
        return self.networks.get(network, default)


def check_choices(choices: ImportChoices) -> None:
    """Raise InvalidChoices for what no machine can have, whatever is in the package."""
    networks = list(choices.networks.values()) + ([] if choices.network is None else [choices.network])
    try:
        define_machine(
            "any" if choices.name is None else choices.name,
            description=choices.description or "",
            os_id="other" if choices.os is None else choices.os,
            memory=GIB if choices.memory is None else choices.memory,
            cpu=choices.cpu or CpuTopology(),
            nics=[NicChoice(network) for network in networks],
        )
    except InvalidDefinition as error:
        raise InvalidChoices(error.summary, error.hint) from error


def check_against(descriptor: Descriptor, choices: ImportChoices) -> list[str]:
    """Raise InvalidChoices for what cannot be chosen of this package; and return warnings."""
    if choices.name is not None and len(descriptor.systems) > 1:
        raise InvalidChoices(
            f"the package has {len(descriptor.systems)} machines; one name is not enough", "import it without a name"
        )
    choices_of_disks(descriptor, choices)
    there = {nic.network for system in descriptor.systems for nic in system.nics}
    names = ", ".join(sorted(map(repr, there))) or "none"
    absent = [network for network in choices.networks if network not in there]
    return [f"no adapter is on the network {network!r} that is mapped; the package has: {names}" for network in absent]


def choices_of_disks(descriptor: Descriptor, choices: ImportChoices) -> dict[PackageDisk, DiskChoices]:
    """What is chosen for single disks. Raises InvalidChoices for a name that does not mean one disk."""
    slots = [(number, slot) for system in descriptor.systems for number, slot in enumerate(system.disks, 1)]
    found: dict[PackageDisk, tuple[str, DiskChoices]] = {}
    by_name = _disks_by_name(slots) if choices.disks else {}
    for name, chosen in choices.disks.items():
        meant = by_name.get(name, set())
        if len(meant) != 1:
            what = f"there is no disk {name!r}" if not meant else f"{name!r} means {len(meant)} disks"
            raise InvalidChoices(f"{what} in the package; its disks are: {_list(slots)}", "name it as it stands there")
        (disk,) = meant
        if disk in found:
            raise InvalidChoices(f"{found[disk][0]!r} and {name!r} are the same disk", "choose for it once")
        found[disk] = name, chosen
    return {disk: chosen for disk, (_, chosen) in found.items()}


def formats_of_disks(descriptor: Descriptor, choices: ImportChoices) -> dict[PackageDisk, TargetFormat]:
    """What becomes of every disk. Raises as :func:`choices_of_disks`."""
    chosen = choices_of_disks(descriptor, choices)
    disks = [slot.disk for system in descriptor.systems for slot in system.disks]
    return {disk: (disk in chosen and chosen[disk].format) or choices.format for disk in disks}


def disk_label(disk: PackageDisk) -> str:
    """A disk as messages call it."""
    return disk.file.href if disk.file is not None else f"the empty disk {disk.id!r}"


def _disks_by_name(slots: list[tuple[int, DiskSlot]]) -> dict[str, set[PackageDisk]]:
    by_file: dict[str, set[PackageDisk]] = {}
    by_alias: dict[str, set[PackageDisk]] = {}
    by_number: dict[str, set[PackageDisk]] = {}
    for number, slot in slots:
        if slot.disk.file is not None:
            by_file.setdefault(slot.disk.file.href, set()).add(slot.disk)
        if slot.alias:
            by_alias.setdefault(slot.alias, set()).add(slot.disk)
        by_number.setdefault(str(number), set()).add(slot.disk)
    return by_number | by_alias | by_file


def _list(slots: list[tuple[int, DiskSlot]]) -> str:
    parts = [f"{n}: {disk_label(slot.disk)}" + (f" ({slot.alias})" if slot.alias else "") for n, slot in slots]
    more = f" and {len(parts) - 20} more" if len(parts) > 20 else ""
    return ("; ".join(parts[:20]) or "none") + more
