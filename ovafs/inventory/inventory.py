"""What every source of machines offers, whatever stands behind it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ovafs.units import GIB

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from ovafs.formats.nbd import Export
    from ovafs.model import Machine, MachineKind, StateKind


class DamagedMachine(NamedTuple):
    """A machine that is there but whose definition cannot be used, with the reason in words.

    ``name`` is as safe to print as the source allows: characters that are not printable are escaped. ``uuid`` is
    whatever the source has in its place; it tells this machine from all others. ``hint`` says what to do, or "".
    """

    name: str
    reason: str
    uuid: str
    kind: MachineKind
    hint: str = ""


class Snapshot(NamedTuple):
    """All machines at one moment: VMs before templates, each kind by name in code point order."""

    machines: list[Machine]
    damaged: list[DamagedMachine]


class Freeze(enum.StrEnum):
    """Whether the file systems of a guest are frozen while its backup begins: if its agent can do that, or must."""

    AUTO = "auto"
    NEVER = "never"
    REQUIRE = "require"


class BackupSettings(NamedTuple):
    """How running machines are backed up.

    ``scratch`` is the directory for what guests overwrite meanwhile (None: the source's own choice); ``reserve`` bytes
    of its file system stay free: a backup is given up before a guest could be harmed.
    """

    scratch: str | None = None
    reserve: int = GIB
    freeze: Freeze = Freeze.AUTO


class Backup(Protocol):
    """All disks of a running machine as they were at one moment, for as long as nobody ends it."""

    @property
    def exports(self) -> tuple[Export, ...]:
        """Where the disks are served, in the machine's order."""
        ...

    @property
    def failure(self) -> str:
        """Why it has ended; "" while it has not."""
        ...

    @property
    def began(self) -> float:
        """The moment, in seconds since 1970."""
        ...

    @property
    def is_frozen(self) -> bool:
        """Whether the guest's file systems stood still at that moment: else it is what a power cut would have left."""
        ...

    @property
    def scratch_used(self) -> int:
        """Bytes that the guest has overwritten since, as known last."""
        ...

    def look(self) -> str:
        """Find out at once whether it has ended; returns ``failure``. Blocks."""
        ...

    def end(self) -> None:
        """Let the machine go; idempotent."""
        ...


class Inventory(Protocol):
    """A source of machines. Every method may block and may be called from any thread.

    Open it in the process that uses it: an inventory does not survive ``fork``.
    """

    @property
    def source_id(self) -> str:
        """The UUID of the source itself: the same after a restart, a move or on another host."""
        ...

    @property
    def statvfs_path(self) -> str:
        """A directory in the file system whose free space is the source's."""
        ...

    @property
    def cache_dir(self) -> str | None:
        """A private writable directory for what can be computed again, or None if there is none."""
        ...

    def revision(self) -> Hashable:
        """A value that differs from all earlier ones once ``snapshot()`` may have changed, whoever changed it.

        Cheap. Ask for it before the snapshot: then a change in between is seen next time.
        """
        ...

    def snapshot(self) -> Snapshot:
        """Everything in one consistent read. Raises SourceError if the source itself cannot be read."""
        ...

    def machines(self) -> list[Machine]:
        """The usable machines of ``snapshot()``."""
        ...

    def find(self, name_or_uuid: str, kind: MachineKind | None = None) -> Machine:
        """One machine by its name or UUID. Raises MachineNotFound, InvalidDefinition (two of that name, damaged)."""
        ...

    def tags(self, uuid: str) -> frozenset[str]:
        """Words that group machines, for the one with this UUID, as it was in the last ``snapshot()``."""
        ...

    def left_out(self, machine: Machine) -> Sequence[str]:
        """What the machine has that the model, and so its package, does not: in words, for people."""
        ...

    def read_state(self, machine: Machine, kind: StateKind) -> bytes:
        """The text of a state that the machine has. Raises MachineNotFound if it has changed, InvalidDefinition."""
        ...

    def read_descriptor(self, machine: Machine) -> bytes | None:
        """The descriptor that the machine was imported from, byte for byte; None if there is none."""
        ...

    def can_back_up(self, machine: Machine) -> bool:
        """Whether the machine runs, and a backup of its disks can be made; then they are not to be read themselves."""
        ...

    def begin_backup(self, machine: Machine) -> Backup:
        """Begin a backup of a machine that runs. Raises StaleHandle (it was stopped), VolumeBusy, NoSpace, SourceError.

        There is one at a time of a machine: who wants it shared has to share it.
        """
        ...

    def close(self) -> None:
        """Release everything; idempotent."""
        ...
