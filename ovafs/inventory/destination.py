"""What imports need of the place that takes them in: a pool, or a hypervisor."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ovafs.inventory.attachments import Attachments
    from ovafs.inventory.pending import PendingImport
    from ovafs.inventory.receipts import Receipt
    from ovafs.model import Machine, Volume


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What a destination has already, and a new machine cannot have too. ``names`` are of (kind, name)."""

    uuids: set[str]
    names: set[tuple[str, str]]
    macs: set[str]


class Fitted(NamedTuple):
    """A machine as the destination will have it, and what is not as it was, in words."""

    machine: Machine
    warnings: list[str]


class Destination(Protocol):
    """Every method may block and may be called from any thread; all raise SourceError, those that write NoSpace.

    A volume is noted before it is written, and registered with the machines on it; what is noted and not registered
    is nobody's once no import is at work on it.
    """

    @property
    def runs_guests(self) -> bool:
        """Whether the machines run there: then guests of other hypervisors may have to be adapted to it."""
        ...

    @property
    def volumes_path(self) -> str:
        """The directory that new volumes are written to."""
        ...

    def taken(self) -> Taken:
        """Names, UUIDs and MAC addresses that are not free."""
        ...

    def fit(self, machine: Machine, states: Mapping[str, bytes]) -> Fitted:
        """The machine on the hardware that there is; ``states`` are the texts of its states by their digests.

        Raises InvalidDefinition if it cannot be.
        """
        ...

    def published(self, paths: Sequence[str]) -> None:
        """New volumes have got their names, and are on stable storage; no machine is on them yet."""
        ...

    def register(
        self,
        machines: Sequence[Machine],
        volumes: Sequence[str],
        kept: Attachments,
        receipt: Receipt | None = None,
        archive: bytes | None = None,
    ) -> None:
        """All of ``machines`` are there, ``volumes`` are no longer noted, and the receipt is kept; or nothing is.

        Durable when this returns. ``kept`` belongs to the machines; ``archive`` is what the receipt's package can be
        read from. Raises NameTaken, InvalidDefinition.
        """
        ...

    def settle(self, volumes: Sequence[str], receipt: Receipt | None, archive: bytes | None) -> None:
        """The second half of :meth:`register`, for machines that are there already."""
        ...

    def keep_pending(self, pending: PendingImport, receipt: Receipt | None = None) -> None:
        """Keep an import that is to be registered later, whose volumes are noted; or what is new about it.

        Durable when this returns. What its machines are going to take is taken from now on.
        """
        ...

    def give_up_pending(self, uuid: str) -> None:
        """Forget it; its volumes are nobody's then."""
        ...

    def pending_imports(self) -> list[PendingImport]:
        """All of them, the oldest first."""
        ...

    def note_volume(self, uuid: str) -> None:
        """Note a volume that is going to be written."""
        ...

    def forget_volumes(self, uuids: Sequence[str]) -> None:
        """Take notes away whose volumes are gone."""
        ...

    def unfinished_volumes(self) -> set[str]:
        """UUIDs of the volumes that are noted, and not those of a pending import."""
        ...

    def registered_volumes(self, among: Collection[str]) -> set[str]:
        """Which of these volumes, by UUID, machines are on: whoever is not named here may be removed."""
        ...

    def volumes(self) -> Mapping[str, Volume]:
        """The volumes of registered machines by UUID, for reading packages back."""
        ...

    def new_entry_number(self) -> int:
        """A number for an entry of the drop directory; none is ever given twice."""
        ...

    def keep_receipt(self, receipt: Receipt, archive: bytes | None = None) -> None:
        """Keep a receipt, in the place of one with the same number or name; ``archive`` None leaves what there is."""
        ...

    def forget_receipt(self, number: int) -> None:
        """Forget a receipt; whether there is one does not matter."""
        ...

    def receipts(self) -> list[Receipt]:
        """All receipts."""
        ...

    def receipt_archive(self, number: int) -> bytes | None:
        """What the package of a receipt can be read from; None if it cannot be."""
        ...

    def close(self) -> None:
        """Release everything; idempotent."""
        ...
