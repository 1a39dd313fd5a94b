"""A whole import, from the first byte of a package to registered machines; or a look at whether it would succeed."""

from __future__ import annotations

import contextlib
import copy
import time
import uuid
from typing import TYPE_CHECKING, NamedTuple

import trio

from ovafs.errors import InvalidDefinition, MachineRefused, NameTaken, NotReadable
from ovafs.inventory.attachments import Attachments
from ovafs.inventory.pending import PendingImport
from ovafs.model import state_of
from ovafs.storage.writer.image import ImageWriter
from ovafs.storage.writer.new_volume import NewVolume
from ovafs.transfer.adapt.policy import Adapt, check_adapt, is_adapted
from ovafs.transfer.archive import StoredSource, encode_archive
from ovafs.transfer.ingest.choices import (
    ImportChoices,
    check_against,
    check_choices,
    choices_of_disks,
    disk_label,
    formats_of_disks,
)
from ovafs.transfer.ingest.landing import DryLanding, PoolLanding, definition
from ovafs.transfer.ingest.machines import Landed, make_machine, without_place
from ovafs.transfer.ingest.recorder import NOT_KEPT, ONLY_CHECKED
from ovafs.transfer.ingest.session import Ingest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ovafs.errors import IncompletePackage
    from ovafs.formats.ovf.read_model import Descriptor, PackageDisk
    from ovafs.inventory.destination import Destination, Taken
    from ovafs.inventory.receipts import Receipt
    from ovafs.model import Machine, Volume
    from ovafs.storage.writer.volume_writer import VolumeWriter
    from ovafs.streams.segment import Segment
    from ovafs.transfer.ingest.landing import Landing
    from ovafs.transfer.ingest.session import Contents
    from ovafs.transfer.ingest.target import TargetFormat


# To register machines, when others are registered at the same time.
_MOST_ATTEMPTS = 5


class Imported(NamedTuple):
    """The machines of a package as they were registered, or would be, and what could not be kept as it was.

    With ``pending`` they are going to be registered, once ``transfer.adapt`` has adapted their guests.
    """

    machines: list[Machine]
    warnings: list[str]
    pending: PendingImport | None = None


def import_package(
    destination: Destination,
    pieces: Iterable[memoryview],
    default_name: str,
    choices: ImportChoices,
    *,
    dry: bool = False,
) -> Imported:
    """Import the package that ``pieces`` are, one behind the other, into ``destination``: all of it, or nothing.

    ``default_name`` is for a machine that has no name. ``dry``: verify everything, store and register nothing.
    Blocks. Raises InvalidPackage, UnsupportedFeature, InvalidDefinition, NameTaken, NoSpace, WriteFailed,
    SourceError; and what ``pieces`` raises.
    """
    with contextlib.closing(PackageImport(destination, default_name, choices, dry=dry)) as running:
        for piece in pieces:
            running.receive_data(piece)
        return running.commit(default_name)


class Progress(NamedTuple):
    """``expected``: bytes of the package as far as its descriptor says; ``spooled``: bytes of members that wait."""

    expected: int | None
    spooled: int


class WrittenBytes:
    """A volume that is being written, as what plans are executed on; None: nothing has the bytes."""

    def __init__(self, writer: VolumeWriter | None) -> None:
        self._writer = writer

    async def read_into(self, guest_offset: int, buffer: memoryview) -> None:
        """Fill ``buffer``; what lies behind the end of the volume was zeros. Raises NotReadable, WriteFailed."""
        writer = self._writer
        if writer is None:
            raise NotReadable(NOT_KEPT)
        inside = max(0, min(len(buffer), writer.virtual_size - guest_offset))
        data = await trio.to_thread.run_sync(writer.read_at, guest_offset, inside) if inside else b""
        buffer[:] = data.ljust(len(buffer), b"\0")


class PackageImport:
    """An import whose bytes come from outside, one piece behind the other. All of it blocks.

    Raises as :func:`import_package`; after an error, but one of :meth:`shortfall`, it can only be closed.
    """

    def __init__(
        self, destination: Destination, default_name: str | None, choices: ImportChoices, *, dry: bool = False
    ) -> None:
        """``default_name`` is what a machine without a name is going to be called, if that is known by now."""
        check_choices(choices)
        check_adapt(choices.adapt, destination)
        self._destination = destination
        self._default_name = default_name
        self._choices = choices
        self._formats: Mapping[PackageDisk, TargetFormat] = {}
        self._landing: Landing = DryLanding(destination.volumes_path) if dry else PoolLanding(destination)
        self._ingest = Ingest(self._landing, choices.spool_limit, choices.trust, self._accept)

    def receive_data(self, data: bytes | memoryview) -> None:
        """The next bytes of the package."""
        self._ingest.receive_data(data)

    @property
    def progress(self) -> Progress:
        """What is known of it by now; may be asked for while another thread is at work, and does not block."""
        return Progress(self._ingest.expected, self._ingest.spooled)

    @property
    def allocated(self) -> int:
        """Bytes that its volumes take in the pool by now. Another thread may be at work; blocks."""
        return self._landing.allocated

    def shortfall(self) -> IncompletePackage | None:
        """What is missing if the package ended here; None if it can be committed. Changes nothing."""
        return self._ingest.shortfall()

    @property
    def has_ended(self) -> bool:
        """Whether the end of the archive has come."""
        return self._ingest.has_ended

    def commit(
        self, default_name: str, choices: ImportChoices | None = None, receipt: Receipt | None = None
    ) -> Imported:
        """The package has ended: verify it, and register its machines; durable when this returns.

        ``choices`` are to be used instead of the first ones; for formats it is too late, and that becomes a warning.
        ``receipt`` is kept in the same transaction, with what ``transfer.archive`` reads the package again from.
        Machines whose guests are to be adapted are not registered yet, see :class:`Imported`; they cannot be lost.
        """
        contents = self._ingest.finish()
        if choices is not None:
            check_choices(choices)
            check_adapt(choices.adapt, self._destination)
            contents.warnings.extend(self._too_late(contents.descriptor, choices))
            self._choices = choices
        volumes = {disk: self._landing.volume_of(writer) for disk, writer in contents.disks.items()}
        self._landing.publish()
        return self._register(contents, volumes, default_name, receipt)

    def plan(self, offset: int, length: int) -> tuple[list[Segment], list[WrittenBytes]]:
        """Bytes that were received, as segments and what they are ranges of. Raises NotReadable."""
        if self._landing.is_dry:
            raise NotReadable(ONLY_CHECKED)
        recorder = self._ingest.recorder
        return recorder.plan(offset, length), [WrittenBytes(volume) for volume in recorder.volumes()]

    def _archive(self, disks: list[tuple[VolumeWriter, Volume]]) -> bytes | None:
        skeleton = self._ingest.recorder.stored([writer for writer, _ in disks])
        if skeleton is None:
            return None
        sources = []
        for writer, volume in disks:
            identity = self._landing.identity_of(writer)
            if identity is None or identity.is_coarse:
                return None  # the latter: another change within the same second might not be seen
            sources.append(StoredSource(volume.uuid, isinstance(writer, ImageWriter), identity))
        return encode_archive(skeleton, sources)

    def close(self) -> None:
        """Take away what was not committed; idempotent."""
        try:
            self._ingest.close()
        finally:
            self._landing.close()

    def _accept(self, descriptor: Descriptor) -> Mapping[PackageDisk, TargetFormat]:
        """Make the machines as they would be, to refuse what cannot be before any disk has come."""
        self._formats = formats_of_disks(descriptor, self._choices)
        directory = self._destination.volumes_path
        volumes = {disk: definition(NewVolume.name(directory, form.converted)) for disk, form in self._formats.items()}
        self._make_machines(descriptor, volumes, {}, self._destination.taken(), self._default_name)
        self._landing.check_space(_least_size(descriptor))
        return self._formats

    def _too_late(self, descriptor: Descriptor, choices: ImportChoices) -> list[str]:
        wanted = formats_of_disks(descriptor, choices)
        return [
            f"{disk_label(disk)}: the format {wanted[disk]} was chosen too late; it was taken in as {form}"
            for disk, form in self._formats.items()
            if wanted[disk] != form
        ]

    def _register(
        self,
        contents: Contents,
        volumes: Mapping[PackageDisk, Volume],
        default_name: str,
        receipt: Receipt | None,
    ) -> Imported:
        """Make and register the machines; again if another process took one of their names in between."""
        descriptor, states = contents.descriptor, contents.states
        kept = Attachments(_by_digest(states), contents.source)
        archive = None
        attempts = _MOST_ATTEMPTS
        while True:
            attempts -= 1
            taken = self._destination.taken()
            machines, said, _ = self._make_machines(descriptor, volumes, states, copy.deepcopy(taken), default_name)
            warnings = contents.warnings + said
            if is_adapted(self._choices.adapt, machines, contents.source, self._destination):
                return self._postpone(machines, warnings, kept, receipt)
            if receipt is not None and archive is None:
                archive = self._archive([(writer, volumes[disk]) for disk, writer in contents.disks.items()])
            try:
                with _refusals():
                    self._landing.register(machines, kept, receipt, archive)
            except (NameTaken, InvalidDefinition):
                if not attempts or self._destination.taken() == taken:
                    raise
            else:
                return Imported(machines, warnings)

    def _postpone(
        self, machines: list[Machine], warnings: list[str], kept: Attachments, receipt: Receipt | None
    ) -> Imported:
        """What is written is safe, and its guests are adapted before the machines are there."""
        if self._landing.is_dry:
            return Imported(machines, [*warnings, "its guest would be adapted first (virt-v2v-in-place)"])
        pending = PendingImport(
            uuid=str(uuid.uuid4()),
            machines=tuple(machines),
            states=dict(kept.states),
            descriptor=kept.descriptor,
            begun=time.time(),
            entry=None if receipt is None else receipt.number,
            is_required=self._choices.adapt is Adapt.V2V,
            warnings=tuple(warnings),
        )
        self._landing.postpone(pending, receipt)
        return Imported(machines, warnings, pending)

    def _make_machines(
        self,
        descriptor: Descriptor,
        volumes: Mapping[PackageDisk, Volume],
        states: Mapping[str, bytes],
        taken: Taken,
        default_name: str | None,
    ) -> Imported:
        machines, warnings = [], check_against(descriptor, self._choices)
        landed = Landed(volumes=volumes, chosen=choices_of_disks(descriptor, self._choices), states=states)
        texts = _by_digest(states)
        for system in descriptor.systems:
            with _refusals():
                machine, said = make_machine(system, landed, self._choices, taken, default_name)
                fitted = self._destination.fit(machine, texts)
            machines.append(fitted.machine)
            warnings += said + fitted.warnings
        return Imported(machines, warnings + without_place(descriptor.unknown))


def _by_digest(states: Mapping[str, bytes]) -> dict[str, bytes]:
    return {state_of(text).digest: text for text in states.values()}


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """What cannot be is the package's fault here, and not damage of what is stored."""
    try:
        yield
    except InvalidDefinition as error:
        raise MachineRefused(error.summary, error.hint) from error


def _least_size(descriptor: Descriptor) -> int:
    """Bytes that the disks certainly take: of a raw disk nobody knows how much of it is zeros."""
    return sum(_least_disk_size(slot.disk) for system in descriptor.systems for slot in system.disks)


def _least_disk_size(disk: PackageDisk) -> int:
    if disk.file is None:
        return 0
    if disk.populated_size is not None:
        return min(disk.populated_size, disk.capacity or disk.populated_size)
    is_compressed = disk.file.gzip or "streamoptimized" in disk.format.lower()
    return disk.file.size or 0 if is_compressed else 0
