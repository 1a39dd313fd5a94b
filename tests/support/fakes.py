"""Small stand-ins for what lies below the vfs: an inventory in memory and a packager that can be told to fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ovafs.inventory.inventory import DamagedMachine, Snapshot
from ovafs.model import Machine, MachineKind, definition_digest
from ovafs.transfer.description import Description

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from ovafs.errors import OvafsError
    from ovafs.inventory.inventory import Backup
    from ovafs.model import StateKind

UUID = "00000000-0000-4000-8000-{:012d}"


def machine(
    number: int, name: str = "", *, kind: MachineKind = MachineKind.VM, modified: int = 1_700_000_000
) -> Machine:
    return Machine(
        uuid=UUID.format(number),
        name=name or f"vm{number}",
        memory=1 << 30,
        created=1_600_000_000,
        modified=modified,
        kind=kind,
    )


class MemoryInventory:
    """An inventory whose machines a test sets."""

    source_id = "memory"
    statvfs_path = "/"
    cache_dir: str | None = None

    def __init__(self, machines: Iterable[Machine] = ()) -> None:
        self._machines = list(machines)
        self._revision = 0
        self.damaged: list[DamagedMachine] = []
        self.reads = 0
        self.tagged: dict[str, frozenset[str]] = {}

    def set(self, *machines: Machine) -> None:
        self._machines = list(machines)
        self._revision += 1

    def revision(self) -> Hashable:
        return self._revision

    def snapshot(self) -> Snapshot:
        self.reads += 1
        return Snapshot(self._machines, self.damaged)

    def machines(self) -> list[Machine]:
        return self.snapshot().machines

    def find(self, name_or_uuid: str, kind: MachineKind | None = None) -> Machine:
        found = [machine for machine in self._machines if kind in {None, machine.kind}]
        return next(machine for machine in found if name_or_uuid in {machine.name, machine.uuid})

    def tags(self, uuid: str) -> frozenset[str]:
        return self.tagged.get(uuid, frozenset())

    def left_out(self, machine: Machine) -> Sequence[str]:
        return ()

    def read_state(self, machine: Machine, kind: StateKind) -> bytes:
        raise AssertionError(f"{machine.name} has no state of its {kind}")

    def read_descriptor(self, machine: Machine) -> bytes | None:
        return None

    def can_back_up(self, machine: Machine) -> bool:
        return False

    def begin_backup(self, machine: Machine) -> Backup:
        raise AssertionError(f"{machine.name} does not run")

    def close(self) -> None:
        pass


class FakeBackup:
    """A backup that a test lets fail."""

    exports = ()
    began = 0.0
    scratch_used = 0

    def __init__(self) -> None:
        self.failure = ""

    def look(self) -> str:
        return self.failure

    def end(self) -> None:
        """The package is closed."""


class FakePackage:
    """The package of a machine: its generation's name, repeated."""

    def __init__(self, description: Description) -> None:
        self.description = description
        self.size = description.size
        self.content = (description.generation.encode() * (self.size // 8 + 1))[: self.size]
        self.package = self
        self.is_open = True
        self.failure: Exception | None = None
        self.backup = FakeBackup() if description.is_live else None

    async def read_into(self, offset: int, buffer: memoryview) -> int:
        if self.failure is not None:
            raise self.failure
        piece = self.content[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)

    def label(self, offset: int) -> str:
        return "content"

    def check_unchanged(self) -> None:
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        self.is_open = False

    async def closed(self) -> None:
        """Wait until it is closed, which happens in a thread."""
        with trio.fail_after(20):
            while self.is_open:  # noqa: ASYNC110 - a thread closes it, which cannot set an event
                await trio.sleep(0.01)


class FakePackager:
    """Describes machines by their definition, ``salt`` (as if a volume changed) and the failures set by a test."""

    def __init__(self) -> None:
        self.salt: dict[str, int] = {}
        self.failures: dict[str, OvafsError | Exception] = {}
        self.described: list[str] = []
        self.opened: list[FakePackage] = []
        self.volatile = False
        self.announced: tuple[int, ...] | None = None

    def preload(self, machines: Iterable[Machine]) -> None:
        pass

    def describe(self, machine: Machine) -> Description:
        self.described.append(machine.name)
        if machine.name in self.failures:
            raise self.failures[machine.name]
        salt = self.salt.get(machine.name, 0)
        return Description(
            generation=f"{definition_digest(machine).hex()[:8]}-{salt}",
            size=10_000 + salt,
            stored=8192,
            mtime_ns=(1_700_000_000 + salt) * 10**9,
            files=(),
            volatile=self.volatile,
            announced=self.announced,
        )

    def open(self, machine: Machine, wanted: Description) -> FakePackage:
        from ovafs.errors import StaleHandle

        description = self.describe(machine)
        if description.generation != wanted.generation:
            raise StaleHandle(f"{machine.name} changed")
        package = FakePackage(description)
        self.opened.append(package)
        return package
