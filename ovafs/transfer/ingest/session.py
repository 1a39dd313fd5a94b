"""One import: the bytes of a package in their order, and at the end its machines, or nothing at all.

| member | what happens |
|---|---|
| the descriptor (``*.ovf``, exactly one) | parsed when it is complete; disks can come from then on |
| the manifest (``*.mf``) | digests are checked from then on, and of the members before it |
| a file that the descriptor names as a disk | decoded and written to a new volume while it arrives |
| any file before the descriptor | kept in a spool, up to a limit, until the descriptor says what it is |
| anything else | hashed, otherwise ignored, and said so |

Blocking: runs in one worker thread. Nothing is registered before :meth:`Ingest.finish`, and everything that was
written is taken away by :meth:`Ingest.close` unless that succeeded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import InvalidPackage
from ovafs.formats.manifest import parse_manifest
from ovafs.formats.ovf.read import read_descriptor
from ovafs.formats.tar_events import NEED_DATA, Ignored, MemberData, MemberEnd, MemberStart
from ovafs.formats.tar_reader import TarReader
from ovafs.transfer.ingest.digests import Hashers, MemberDigests
from ovafs.transfer.ingest.disk import IncomingDisk
from ovafs.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovafs.formats.ovf.read_model import Descriptor
    from ovafs.formats.tar_events import Event
    from ovafs.transfer.ingest.landing import Landing, Spool

_MAX_TEXT = 8 << 20
_PIECE = 1 << 20


class Contents(NamedTuple):
    """A complete, verified package: its descriptor, and the disks that were written, by their id in it."""

    descriptor: Descriptor
    disks: dict[str, IncomingDisk]
    warnings: list[str]


class Ingest:
    """Takes one package apart; see the module."""

    def __init__(self, landing: Landing, spool_limit: int) -> None:
        """``spool_limit`` is how many bytes may wait for a descriptor that comes behind them."""
        self._landing = landing
        self._spool_limit = spool_limit
        self._waiting: dict[str, tuple[Spool, int]] = {}
        self._spool: Spool | None = None
        self._tar = TarReader()
        self._digests = MemberDigests()
        self._warnings: list[str] = []
        self._descriptor: Descriptor | None = None
        self._disks: dict[str, IncomingDisk] = {}
        self._member = MemberStart("", 0, 0, 0)
        self._hashers = Hashers(())
        self._disk: IncomingDisk | None = None
        self._text: bytearray | None = None

    def receive_data(self, data: bytes | memoryview) -> None:
        """The next bytes of the archive. Raises InvalidPackage and other errors; then the import is over."""
        self._tar.receive_data(data)
        while (event := self._tar.next_event()) is not NEED_DATA:
            self._handle(event)

    def finish(self) -> Contents:
        """The archive has ended: check that nothing is missing, and complete all volumes.

        Raises InvalidPackage when the package is not whole.
        """
        ending = self._tar.ending()
        if not ending.complete:
            raise InvalidPackage(
                f"the archive is cut off: at least {ending.missing} bytes are missing", member=ending.member
            )
        if self._descriptor is None:
            raise InvalidPackage("there is no descriptor (*.ovf) in the archive")
        for disk in self._disks.values():
            disk.finish()
            self._warnings += disk.warnings
        for name in self._digests.missing():
            self._warnings.append(f"{name}: in the manifest, not in the package")
        for name in self._digests.unlisted():
            if not name.lower().endswith((".mf", ".cert")):
                self._warnings.append(f"{name}: not in the manifest, so not verified")
        return Contents(self._descriptor, self._disks, [*self._descriptor.warnings, *self._warnings])

    def hand_over(self) -> None:
        """The volumes are registered: they are no longer this import's to take away."""
        self._disks.clear()

    def close(self) -> None:
        """Take away every volume that was not handed over; idempotent."""
        for disk in self._disks.values():
            disk.close()
        for spool, _ in self._waiting.values():
            spool.close()
        self._waiting.clear()

    def _handle(self, event: Event) -> None:
        if isinstance(event, MemberData):
            self._hashers.update(event.data)
            if self._disk is not None:
                self._disk.receive_data(event.data)
            elif self._text is not None:
                self._text += event.data
            elif self._spool is not None:
                self._spool.write(event.offset, event.data)
        elif isinstance(event, MemberStart):
            self._begin(event)
        elif isinstance(event, MemberEnd):
            self._end()
        elif isinstance(event, Ignored) and event.what in {"directory", "AppleDouble file"}:
            self._warnings.append(f"{event.name}: a {event.what}, ignored")

    def _begin(self, member: MemberStart) -> None:
        self._member = member
        self._hashers = self._digests.begin(member.name)
        self._disk = next((disk for disk in self._disks.values() if disk.takes(member.name)), None)
        self._text = self._spool = None
        if self._disk is not None:
            self._disk.begin(member.name, member.size)
        elif self._text_parser(member.name) is not None:
            if member.size > _MAX_TEXT:
                raise InvalidPackage(f"is {member.size} bytes long, more than {_MAX_TEXT}", member=member.name)
            self._text = bytearray()
        elif self._descriptor is None:
            self._spool = self._wait_for_descriptor(member)
        elif all(file.href != member.name for file in self._descriptor.files):
            self._warnings.append(f"{member.name}: not in the descriptor, ignored")

    def _wait_for_descriptor(self, member: MemberStart) -> Spool:
        """A spool for a member of which nothing is known yet."""
        waiting = sum(size for _, size in self._waiting.values())
        if waiting + member.size > self._spool_limit:
            raise InvalidPackage(
                f"comes before the descriptor, and {format_size(self._spool_limit)} at the most can wait for it",
                member=member.name,
                hint="pack the .ovf file first: tar cf NEW.ova NAME.ovf and then all other files",
            )
        self._warnings.append(f"{member.name}: comes before the descriptor; it was stored twice")
        spool = self._landing.new_spool()
        self._waiting[member.name] = spool, member.size
        return spool

    def _take_waiting(self) -> None:
        """Give every disk what came before the descriptor."""
        for name, (spool, size) in self._waiting.items():
            disk = next((disk for disk in self._disks.values() if disk.takes(name)), None)
            if disk is not None:
                disk.begin(name, size)
                for offset in range(0, size, _PIECE):
                    disk.receive_data(memoryview(spool.read(offset, min(_PIECE, size - offset))))
                disk.end()
            spool.close()
        self._waiting.clear()

    def _end(self) -> None:
        self._digests.end(self._member.name, self._hashers)
        if self._disk is not None:
            self._disk.end()
        elif self._text is not None:
            parse = self._text_parser(self._member.name)
            if parse is not None:
                parse(bytes(self._text))
        self._disk = self._text = self._spool = None

    def _text_parser(self, name: str) -> Callable[[bytes], None] | None:
        lower = name.lower()
        if lower.endswith(".ovf"):
            return self._take_descriptor
        return self._take_manifest if lower.endswith(".mf") else None

    def _take_descriptor(self, data: bytes) -> None:
        if self._descriptor is not None:
            raise InvalidPackage("is a second descriptor", member=self._member.name)
        self._descriptor = read_descriptor(data, self._member.name)
        # oVirt's own packages have no manifest: nothing needs to be hashed (its engine tells them by this text, too).
        self._digests.expects_manifest = b"xmlns:ovirt" not in data
        for system in self._descriptor.systems:
            for slot in system.disks:
                if slot.disk.file is None:
                    raise InvalidPackage(f"the disk {slot.disk.id!r} has no file", member=self._member.name)
                if slot.disk.id in self._disks:
                    raise InvalidPackage(f"the disk {slot.disk.id!r} belongs to two machines", member=self._member.name)
                self._disks[slot.disk.id] = IncomingDisk(slot.disk, slot.disk.file, self._landing)
        if self._descriptor.disks and not self._disks:
            raise InvalidPackage("lists disks that no machine has", member=self._member.name)
        self._take_waiting()

    def _take_manifest(self, data: bytes) -> None:
        self._digests.use(parse_manifest(data, self._member.name))
