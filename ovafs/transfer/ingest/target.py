"""What an import makes of the disks that it reads: not the format of a volume, but the way to it."""

from __future__ import annotations

import enum

from ovafs.model import DiskFormat


class TargetFormat(enum.StrEnum):
    """What is asked for.

    | | raw, VMDK | qcow2 |
    |---|---|---|
    | ``qcow2`` | becomes qcow2 | is written anew |
    | ``raw`` | becomes raw | becomes raw |
    | ``keep`` | becomes qcow2 | stays byte for byte as it came |
    """

    QCOW2 = "qcow2"
    RAW = "raw"
    KEEP = "keep"

    @property
    def converted(self) -> DiskFormat:
        """The format of a volume whose content was decoded."""
        return DiskFormat.RAW if self is TargetFormat.RAW else DiskFormat.QCOW2

    @property
    def keeps_qcow2(self) -> bool:
        """Whether qcow2 files stay as they are."""
        return self is TargetFormat.KEEP
