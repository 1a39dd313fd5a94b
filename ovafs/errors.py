"""Every failure that ovafs foresees: one class for each cause, under one base.

A message says what happened and where; ``hint`` says what to do about it. The errno of each class stands in
one table, ``ovafs.fuse.errnos``; nothing below the FUSE layer knows errnos.
"""

from __future__ import annotations

from typing import ClassVar


class OvafsError(Exception):
    """Base of all foreseen failures.

    ``summary`` says what happened and where, ``hint`` what the administrator can do (may be empty).
    ``str()`` of an error is both, ready to be shown.
    """

    default_hint: ClassVar[str] = ""

    def __init__(self, summary: str, hint: str = "") -> None:
        super().__init__(summary)
        self.summary = summary
        self.hint = hint or self.default_hint

    def __str__(self) -> str:
        return f"{self.summary}; {self.hint}" if self.hint else self.summary


# -- images and volumes -------------------------------------------------------------------------------


class ImageError(OvafsError):
    """Something is wrong with one disk image; ``path`` names it."""

    def __init__(self, path: str, reason: str, hint: str = "") -> None:
        super().__init__(f"{path}: {reason}", hint)
        self.path = path
        self.reason = reason


class InvalidImage(ImageError):
    """The image breaks its format: truncated, corrupt tables, offsets beyond the file, backing loop."""

    default_hint = "check it with 'qemu-img check'"


class UnsupportedFeature(ImageError):
    """The image uses ``feature``, which ovafs refuses by name instead of guessing."""

    def __init__(self, path: str, feature: str, hint: str = "") -> None:
        super().__init__(path, f"unsupported: {feature}", hint)
        self.feature = feature


class OnlyByQemu(UnsupportedFeature):
    """The image uses ``feature``, which ovafs itself does not read, and QEMU does."""


class ImageUnavailable(ImageError):
    """The image (or a file of its chain) is missing, not readable or not a file that can hold a disk."""

    default_hint = "check that the path exists and that the user of ovafs may read it"


class VolumeBusy(ImageError):
    """Another process (usually a running virtual machine) writes to the image or wants it for itself."""

    default_hint = "shut the machine down, or wait until the other program has finished"


class VolumeChanged(ImageError):
    """The image's content changed (or may have) since its extents were read; reads of it would mix two states."""

    default_hint = "open the .ova again to get its new content"


class ReadFailed(ImageError):
    """The storage returned an error or too few bytes, or did not answer in time."""

    default_hint = "see the kernel's log for the storage below this path"


class WriteFailed(ImageError):
    """The storage refused to take a new volume's bytes, to keep them or to name them; the volume cannot be used.

    Too little room is NoSpace instead.
    """

    default_hint = "see the kernel's log for the storage below this path"


# -- machines, inventories, the catalog ----------------------------------------------------------------


class MachineNotFound(OvafsError):
    """No machine has this name or UUID (it may have been removed a moment ago)."""


class InvalidDefinition(OvafsError):
    """A machine's definition cannot be: a value out of range, a duplicate, text that XML cannot carry."""


class InvalidChoices(InvalidDefinition):
    """What a user chose about an import cannot be, or does not fit the package."""


class MachineRefused(InvalidDefinition):
    """A machine as a package has it cannot be in the place that the package is imported into."""


class AdaptationFailed(OvafsError):
    """A guest cannot be adapted to the hypervisor that its machine was imported into."""


class NameTaken(OvafsError):
    """A machine of this name exists already."""


class SourceError(OvafsError):
    """SOURCE is not a pool, or its catalog cannot be read, is locked, damaged or of a newer version."""


class CatalogFull(SourceError):
    """The catalog cannot be written: its file system has no room left."""


# -- packages that are read -----------------------------------------------------------------------------


class InvalidPackage(OvafsError):
    """An OVA, or a part of it, that cannot be what it claims to be, or holds what ovafs refuses by name.

    ``member`` names the member of the archive and ``offset`` is the byte in the archive, as far as they are known.
    """

    default_hint = "copy the package again, or have it made again"

    def __init__(self, reason: str, *, member: str = "", offset: int | None = None, hint: str = "") -> None:
        place = " ".join(([repr(member)] if member else []) + ([f"at byte {offset}"] if offset is not None else []))
        super().__init__(f"{place}: {reason}" if place else reason, hint)
        self.reason = reason
        self.member = member
        self.offset = offset


class IncompletePackage(InvalidPackage):
    """An OVA of which more has to come: ``missing`` bytes at the least."""

    def __init__(self, reason: str, *, missing: int = 1, member: str = "") -> None:
        super().__init__(reason, member=member)
        self.missing = missing


# -- uploads --------------------------------------------------------------------------------------------


class NameRefused(OvafsError):
    """A name in ``drop/`` under which nothing could ever be imported."""


class UploadBusy(OvafsError):
    """Somebody else is writing this file."""


class NotReadable(OvafsError):
    """Bytes of an upload or a receipt that nothing holds as they came: its disks were converted, or have changed."""


class WrittenTwice(OvafsError):
    """Bytes of an upload that were taken in already, and shall now be others."""

    default_hint = "a package is written from its beginning to its end: truncate the file and write it again"


class NotEmpty(OvafsError):
    """A directory that shall go, and has entries."""


# -- files ----------------------------------------------------------------------------------------------


class ReadOnly(OvafsError):
    """An attempt to change something under ``vms/`` or ``templates/``."""


class StaleHandle(OvafsError):
    """An inode or a generation that no longer exists under its name."""


class ExportFailed(OvafsError):
    """An export to a path cannot begin or go on; what was written so far may be kept for ``--resume``."""


class NoSpace(ExportFailed):
    """The destination's file system has too little room."""


class MountFailed(OvafsError):
    """The mount cannot be made: no /dev/fuse, no permission, a bad mount point or option."""
