"""One import: the bytes of a package in their order, and at the end its machines, or nothing at all.

| member | what happens |
|---|---|
| the descriptor (``*.ovf``, exactly one) | parsed when it is complete; disks can come from then on |
| the manifest (``*.mf``) | digests are checked from then on, and of the members before it |
| a file that the descriptor names as a disk | decoded and written to a new volume while it arrives |
| a file that the descriptor names as state of firmware or TPM | read, and handed over as text |
| the certificate (``*.cert``) | its signature is checked against the manifest |
| any file before the descriptor | kept in a spool, up to a limit, until the descriptor says what it is |
| anything else | hashed, otherwise ignored, and said so |

An archive that just stops behind a member, as VirtualBox's do, may have been cut off there: it has to have every file
that the descriptor and the manifest list.

Blocking. Nothing is registered here; :meth:`Ingest.close` takes away what was written and not handed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import IncompletePackage, InvalidPackage, UnsupportedFeature
from ovafs.formats.manifest import parse_manifest
from ovafs.formats.ovf.read import read_descriptor
from ovafs.formats.tar import BLOCK
from ovafs.formats.tar_events import NEED_DATA, Ignored, MemberData, MemberEnd, MemberStart
from ovafs.formats.tar_reader import TarReader
from ovafs.streams.qcow2 import MAX_VIRTUAL_SIZE
from ovafs.transfer.ingest.digests import Hashers, MemberDigests
from ovafs.transfer.ingest.disk import IncomingDisk
from ovafs.transfer.ingest.recorder import Recorder
from ovafs.transfer.ingest.signature import Signature, is_certificate
from ovafs.transfer.ingest.spool import SpoolRoom
from ovafs.transfer.ingest.states import IncomingStates
from ovafs.units import SECTOR, align_up

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ovafs.formats.ovf.read_model import Descriptor, PackageDisk
    from ovafs.formats.tar_events import Event
    from ovafs.storage.writer.volume_writer import VolumeWriter
    from ovafs.transfer.ingest.landing import Landing
    from ovafs.transfer.ingest.signature import Trust
    from ovafs.transfer.ingest.spool import Spool
    from ovafs.transfer.ingest.target import TargetFormat

_MAX_TEXT = 8 << 20
_PIECE = 1 << 20


class Contents(NamedTuple):
    """A complete, verified package: its descriptor, and the disks of its machines, as finished volumes.

    ``source`` is the descriptor as it came; ``states`` are the texts of state files, by their names.
    """

    descriptor: Descriptor
    source: bytes
    states: dict[str, bytes]
    disks: dict[PackageDisk, VolumeWriter]
    warnings: list[str]


class _Waiting(NamedTuple):
    """A member before the descriptor: its range of the spool, and its number for the recorder."""

    start: int
    end: int
    number: int


class Ingest:
    """Takes one package apart; see the module."""

    def __init__(
        self,
        landing: Landing,
        spool_limit: int,
        trust: Trust,
        accept: Callable[[Descriptor], Mapping[PackageDisk, TargetFormat]],
    ) -> None:
        """``spool_limit`` is how many bytes may wait for something that comes behind them.

        ``accept`` is called with the descriptor before any disk is written. It returns what becomes of each disk of a
        machine, and raises what speaks against the package.
        """
        self._landing = landing
        self._accept = accept
        self._formats: Mapping[PackageDisk, TargetFormat] = {}
        self._tar = TarReader()
        self._digests = MemberDigests()
        self._signature = Signature(trust)
        self.recorder = Recorder()
        self._warnings: list[str] = []
        self._descriptor: Descriptor | None = None
        self._source = b""
        self._states = IncomingStates()
        self._disks: dict[PackageDisk, IncomingDisk] = {}
        self._empty_disks: dict[PackageDisk, VolumeWriter] = {}
        self._room = SpoolRoom(spool_limit)
        self._spool: Spool | None = None
        self._waiting: dict[str, _Waiting] = {}  # by name
        self._spool_start = 0  # of the member that is being read
        # The member that is being read is one of these, or nobody's.
        self._hashers = Hashers(())
        self._disk: IncomingDisk | None = None
        self._text: bytearray | None = None
        self._waits = False
        self._member_end = 0  # in the archive
        self.expected: int | None = None
        """Bytes of the whole archive as far as the descriptor says: known behind it, if it has all sizes."""

    @property
    def spooled(self) -> int:
        """Bytes of members that wait for something behind them."""
        return self._room.used

    def receive_data(self, data: bytes | memoryview) -> None:
        """The next bytes of the archive. Raises InvalidPackage and other errors; then the import is over."""
        self._tar.receive_data(data)
        self.recorder.begin_piece(memoryview(data))
        while (event := self._tar.next_event()) is not NEED_DATA:
            self._handle(event)
        self.recorder.end_piece()

    def shortfall(self) -> IncompletePackage | None:
        """What is missing if the archive ended right here, as an error; None if nothing is. Changes nothing.

        An archive whose end is not written ends when everything that is listed is there. Raises what
        :meth:`receive_data` has raised.
        """
        ending = self._tar.ending()
        if not ending.complete:
            reason = f"the archive is cut off: at least {ending.missing} bytes are missing"
            return IncompletePackage(reason, missing=ending.missing, member=ending.member)
        if ending.end_blocks:
            return None
        if self._descriptor is None:
            return IncompletePackage("there is no descriptor (*.ovf) in the archive", missing=BLOCK)
        for name in self._absent(self._descriptor):
            reason = "is listed, but the archive stops before it; it may be cut off"
            return IncompletePackage(reason, missing=BLOCK, member=name)
        return None

    @property
    def has_ended(self) -> bool:
        """Whether the end of the archive was written: nothing can come behind it."""
        return self._tar.ending().end_blocks

    def finish(self) -> Contents:
        """The archive has ended: check that nothing is missing, and complete all volumes.

        Raises InvalidPackage when the package is not whole.
        """
        shortfall = self.shortfall()
        if shortfall is not None:
            raise shortfall
        if self._descriptor is None:
            raise InvalidPackage("there is no descriptor (*.ovf) in the archive")
        self._check_members(self._descriptor, has_end=self._tar.ending().end_blocks)
        for disk in self._disks.values():
            disk.finish()
            self._warnings += disk.warnings
        self._make_empty_disks(self._descriptor)
        volumes = {disk: incoming.finish() for disk, incoming in self._disks.items()} | self._empty_disks
        said = self._descriptor.warnings, self._states.warnings, self._signature.warnings, self._warnings
        warnings = [warning for part in said for warning in part]
        return Contents(self._descriptor, self._source, self._states.texts, volumes, warnings)

    def close(self) -> None:
        """Take away every volume and everything that waits; idempotent. Volumes that have their names stay."""
        for disk in self._disks.values():
            disk.close()
        for writer in self._empty_disks.values():
            writer.discard()
        self._drop_spool()
        self._digests.close()

    # -- member by member --------------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        if isinstance(event, MemberData):
            self._digests.update(self._hashers, event.data)
            self.recorder.pass_data(event)
            if self._disk is not None:
                self._disk.receive_data(event.data)
            elif self._text is not None:
                self._text += event.data
            elif self._waits and self._spool is not None:
                self._spool.write(self._spool_start + event.offset, event.data)
        elif isinstance(event, MemberStart):
            self._begin(event)
        elif isinstance(event, MemberEnd):
            self._end(event)
        elif isinstance(event, Ignored) and event.what in {"directory", "AppleDouble file"}:
            self._warnings.append(f"{event.name}: a {event.what}, ignored")

    def _begin(self, member: MemberStart) -> None:
        self._member_end = member.offset + align_up(member.size, BLOCK)
        self._hashers = self._digests.begin(member.name)
        self._disk, self._text, self._waits = self._disk_of(member.name), None, False
        if self._disk is not None:
            self.recorder.begin_disk(member, self._disk, self._disk.received)
            self._disk.begin(member.name, member.size)
        elif _is_descriptor(member.name) or _is_manifest(member.name):
            if member.size > _MAX_TEXT:
                raise InvalidPackage(f"is {member.size} bytes long, more than {_MAX_TEXT}", member=member.name)
            self.recorder.begin_text(member)
            self._text = bytearray()
        elif self._signature.takes(member.name, member.size):
            self.recorder.begin_text(member)
            self._text = bytearray()
        elif self._states.takes(member.name, member.size):
            self.recorder.begin_other(member)
            self._text = bytearray()
        elif self._descriptor is None:
            self._wait_for_descriptor(member)
        else:
            self.recorder.begin_other(member)
            self._ignore(self._descriptor, member.name)

    def _end(self, member: MemberEnd) -> None:
        self._digests.end(member.name, self._hashers)
        if self._disk is not None:
            self._disk.end()
            self._disk = None
        elif self._text is not None:
            text, self._text = bytes(self._text), None
            self._take_text(text, member.name)

    def _take_text(self, text: bytes, name: str) -> None:
        if _is_descriptor(name):
            self._take_descriptor(text, name)
        elif self._states.expects(name):
            self._states.take(name, text)
        elif is_certificate(name):
            self._signature.take_certificate(name, text)
        else:
            self._take_manifest(text, name)

    def _disk_of(self, name: str) -> IncomingDisk | None:
        return next((disk for disk in self._disks.values() if disk.takes(name)), None)

    def _ignore(self, descriptor: Descriptor, name: str) -> None:
        if all(file.href != name for file in descriptor.files):
            self._warnings.append(f"{name}: not in the descriptor, ignored")

    # -- what comes before the descriptor ----------------------------------------------------------------------

    def _wait_for_descriptor(self, member: MemberStart) -> None:
        """Keep a member of which nothing is known yet."""
        hint = "pack the .ovf file first: tar cf NEW.ova NAME.ovf and then all other files"
        self._room.take(member.size, member.name, hint)
        if self._spool is None:
            self._spool = self._landing.new_spool()
        self._spool_start = start = max((waiting.end for waiting in self._waiting.values()), default=0)
        spool = self._spool
        number = self.recorder.begin_waiting(member, lambda offset, length: spool.read(start + offset, length))
        self._waiting[member.name] = _Waiting(start, start + member.size, number)
        self._waits = True

    def _take_waiting(self, descriptor: Descriptor) -> None:
        """Give every disk what came before the descriptor."""
        for name, (start, end, number) in self._waiting.items():
            disk = self._disk_of(name)
            self.recorder.resolve(number, disk, disk.received if disk is not None else 0)
            if self._spool is not None and self._states.takes(name, end - start):
                self._states.take(name, self._spool.read(start, end - start))
                continue
            if disk is None or self._spool is None:
                self._ignore(descriptor, name)
                continue
            self._warnings.append(f"{name}: came before the descriptor; it was stored twice")
            disk.begin(name, end - start)
            for position in range(start, end, _PIECE):
                disk.receive_data(memoryview(self._spool.read(position, min(_PIECE, end - position))))
            disk.end()
        self._drop_spool()

    def _drop_spool(self) -> None:
        self._room.give_back(sum(waiting.end - waiting.start for waiting in self._waiting.values()))
        self._waiting.clear()
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    # -- descriptor and manifest -------------------------------------------------------------------------------

    def _take_descriptor(self, data: bytes, member: str) -> None:
        if self._descriptor is not None:
            raise InvalidPackage("is a second descriptor", member=member)
        self._descriptor = descriptor = read_descriptor(data, member)
        self._source = data
        self._states.expect(descriptor)
        # oVirt's own packages have no manifest: nothing needs to be hashed (its engine tells them by this text, too).
        self._digests.expects_manifest = b"xmlns:ovirt" not in data
        attached = [slot.disk for system in descriptor.systems for slot in system.disks]
        _check_disks(descriptor, attached, member)
        self._formats = self._accept(descriptor)
        for disk in attached:
            if disk.file is not None:
                self._disks[disk] = IncomingDisk(disk, disk.file, self._landing, self._formats[disk], self._room)
        self._take_waiting(descriptor)
        sizes = [file.size for file in descriptor.files if not self._digests.has(file.href)]
        known = [BLOCK + align_up(size, BLOCK) for size in sizes if size is not None]
        if len(known) == len(sizes):
            self.expected = self._member_end + sum(known) + 2 * BLOCK

    def _take_manifest(self, data: bytes, member: str) -> None:
        if self._digests.has_manifest:
            raise InvalidPackage("is a second manifest", member=member)
        self._digests.use(parse_manifest(data, member))
        self._signature.take_manifest(member, data)

    # -- the end -----------------------------------------------------------------------------------------------

    def _check_members(self, descriptor: Descriptor, *, has_end: bool) -> None:
        """Tell what is listed and has not come, and what was not verified."""
        self._warnings += [f"{name}: listed, but not in the package" for name in self._absent(descriptor)]
        if not has_end and not self._digests.has_manifest:
            self._warnings.append("the archive has neither an end nor a manifest: nothing says that it is whole")
        unlisted = self._digests.unlisted()
        self._warnings += [f"{name}: not in the manifest, so not verified" for name in unlisted]
        self._signature.finish(unlisted)

    def _absent(self, descriptor: Descriptor) -> list[str]:
        chunked = {file.href for file in descriptor.files if file.chunk_size}
        listed = dict.fromkeys([file.href for file in descriptor.files] + self._digests.listed())
        return [name for name in listed if name not in chunked and not self._digests.has(name)]

    def _make_empty_disks(self, descriptor: Descriptor) -> None:
        for disk in (slot.disk for system in descriptor.systems for slot in system.disks):
            if disk.file is None and disk.capacity is not None and disk not in self._empty_disks:
                writer = self._landing.new_volume(align_up(disk.capacity, SECTOR), self._formats[disk].converted)
                self._empty_disks[disk] = writer
                writer.finish()


def _is_descriptor(name: str) -> bool:
    return name.lower().endswith(".ovf")


def _is_manifest(name: str) -> bool:
    return name.lower().endswith(".mf")


def _check_disks(descriptor: Descriptor, attached: list[PackageDisk], member: str) -> None:
    """Refuse disks that cannot be imported as what they are."""
    for disk in attached:
        if disk.parent:
            hint = "have the machine exported without snapshots"
            raise UnsupportedFeature(member, f"the disk {disk.id!r} holds changes to the disk {disk.parent!r}", hint)
        if disk.file is None and disk.capacity is None:
            raise InvalidPackage(f"the disk {disk.id!r} has neither a file nor a capacity", member=member)
        if (disk.capacity or 0) > MAX_VIRTUAL_SIZE:
            reason = f"the disk {disk.id!r} has a capacity of {disk.capacity} bytes, more than {MAX_VIRTUAL_SIZE}"
            raise InvalidPackage(reason, member=member)
    if not attached and any(disk.file is not None and not disk.is_iso for disk in descriptor.disks):
        raise InvalidPackage("lists disks that no machine has", member=member)
