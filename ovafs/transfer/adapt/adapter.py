"""A pending import on its way to registered machines: its guests are adapted, the changes brought home, all registered.

| crash | what the next one finds and does |
|---|---|
| while a guest is adapted | volumes as they came; overlays are thrown away, it begins again |
| while changes are brought home | a note that they are complete; what is left of them is brought home |
| behind the registration | machines on the volumes, which may run by now: nothing but the note is taken away |

Blocking.
"""

from __future__ import annotations

import contextlib
import logging
import os
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ovafs.errors import AdaptationFailed, OvafsError
from ovafs.inventory.attachments import Attachments
from ovafs.transfer.adapt.program import Stopped
from ovafs.transfer.adapt.virt_v2v import convert, said_by_now, step
from ovafs.transfer.adapt.workplace import Workplace

if TYPE_CHECKING:
    from ovafs.inventory.destination import Destination
    from ovafs.inventory.pending import PendingImport
    from ovafs.model import Machine

log = logging.getLogger(__name__)

LONGEST_CONVERSION = 2 * 3600.0
"""Seconds for one machine. A guest whose boot image is built anew in emulation takes five minutes."""


class Adapted(NamedTuple):
    """Machines as they were registered, what is to be said about them, and what the converter said."""

    machines: tuple[Machine, ...]
    warnings: tuple[str, ...]
    output: str


class Adapter:
    """Carries out pending imports, one at a time."""

    def __init__(self, destination: Destination, limit: float = LONGEST_CONVERSION) -> None:
        """``limit`` is how long the adaptation of one machine may take, in seconds."""
        self._destination = destination
        self._limit = limit
        self._place: Workplace | None = None

    @property
    def step(self) -> str:
        """What is done at the moment, in words; "" for nothing. Another thread may be at work."""
        place = self._place
        return "" if place is None else step(place)

    def carry_out(self, uuid: str, stop: Event, *, adapts: bool = True) -> Adapted | None:
        """Adapt the guests, unless not ``adapts``, and register the machines.

        None if another process is at it, or has done it. Raises Stopped once ``stop`` is set, and what stands against
        it: AdaptationFailed, NameTaken, InvalidDefinition, NoSpace, WriteFailed, SourceError; the import remembers
        that, and can be carried out again.
        """
        place = Workplace.enter(self._destination.volumes_path, uuid, stop)
        if place is None:
            return None
        self._place = place
        try:
            with contextlib.closing(place):
                found = [one for one in self._destination.pending_imports() if one.uuid == uuid]
                if not found:
                    place.remove()
                    return None
                return self._carry_out(found[0], place, adapts=adapts)
        finally:
            self._place = None

    def discard(self, uuid: str) -> bool:
        """Take an import away, with its volumes; False if another process is at work on it. Raises SourceError.

        Machines that are there already stay, with theirs.
        """
        place = Workplace.enter(self._destination.volumes_path, uuid, Event())
        if place is None:
            return False
        with contextlib.closing(place):
            for pending in [one for one in self._destination.pending_imports() if one.uuid == uuid]:
                if self._is_registered(pending):
                    self._destination.settle(pending.volumes, None, None)
                    continue
                self._destination.give_up_pending(uuid)
                for path in pending.paths:
                    with contextlib.suppress(OSError):  # the next import removes it, then
                        os.unlink(path)
                self._destination.forget_volumes(pending.volumes)
            place.remove()
        return True

    def _carry_out(self, pending: PendingImport, place: Workplace, *, adapts: bool) -> Adapted:
        output = ""
        try:
            if self._is_registered(pending):
                log.info("the machines of a pending import are there already")
                self._destination.settle(pending.volumes, None, None)
                place.remove()
                return Adapted(pending.machines, pending.warnings, output)
            if adapts and not pending.is_adapted:
                pending, output = self._adapt(pending, place)
                place.sync()
                self._destination.keep_pending(pending)
            if pending.is_adapted:
                place.bring_home(pending)
            self._register(pending)
        except OvafsError as error:
            if not pending.is_adapted:
                place.remove()
            self._destination.keep_pending(msgspec.structs.replace(pending, failure=str(error)))
            raise
        except Stopped:
            if not pending.is_adapted:
                place.remove()
            raise
        place.remove()
        return Adapted(pending.machines, pending.warnings, output)

    def _adapt(self, pending: PendingImport, place: Workplace) -> tuple[PendingImport, str]:
        machines: list[Machine] = []
        warnings, outputs = list(pending.warnings), []
        first = 0
        for machine in pending.machines:
            count = len(machine.disks)
            try:
                overlaid = convert(place.overlaid(machine, first), place, self._limit) if count else machine
            except AdaptationFailed as error:
                if pending.is_required:
                    raise
                place.drop_overlays(first, count)
                warnings.append(f"{machine.name}: its guest was not adapted, its hardware stays: {error}")
                overlaid = machine
            else:
                warnings.append(f"{machine.name}: its guest was adapted, its disks are on {_interfaces(overlaid)}")
            fitted = self._destination.fit(_on_its_volumes(overlaid, machine), pending.states)
            machines.append(fitted.machine)
            warnings += fitted.warnings
            outputs.append(said_by_now(place).decode("utf-8", "replace"))
            first += count
        changed = msgspec.structs.replace(
            pending, machines=tuple(machines), warnings=tuple(warnings), is_adapted=True, failure=""
        )
        return changed, "".join(outputs)

    def _is_registered(self, pending: PendingImport) -> bool:
        """Whether machines are on its volumes: a crash came between their registration and the journal."""
        return bool(self._destination.registered_volumes(pending.volumes))

    def _register(self, pending: PendingImport) -> None:
        self._destination.published(pending.paths)
        kept = Attachments(pending.states, pending.descriptor)
        self._destination.register(pending.machines, pending.volumes, kept)


def _on_its_volumes(overlaid: Machine, machine: Machine) -> Machine:
    disks = [
        msgspec.structs.replace(disk, volume=before.volume)
        for disk, before in zip(overlaid.disks, machine.disks, strict=True)
    ]
    return msgspec.structs.replace(overlaid, disks=tuple(disks))


def _interfaces(machine: Machine) -> str:
    return " and ".join(sorted({str(disk.interface) for disk in machine.disks})) or "no bus"
