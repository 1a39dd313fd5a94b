"""The one table from causes to errnos.

A class that is not listed takes the errno of its nearest listed base, so every OvafsError has one.
"""

from __future__ import annotations

import errno

from ovafs import errors

ERRNOS: dict[type[errors.OvafsError], int] = {
    errors.OvafsError: errno.EIO,
    errors.InvalidImage: errno.EIO,
    errors.UnsupportedFeature: errno.EOPNOTSUPP,
    errors.OnlyByQemu: errno.EOPNOTSUPP,
    errors.ImageUnavailable: errno.EIO,  # not ENOENT: the .ova exists, and a mirror must not delete its copy
    errors.VolumeBusy: errno.EBUSY,
    errors.VolumeChanged: errno.ESTALE,
    errors.ReadFailed: errno.EIO,
    errors.WriteFailed: errno.EIO,
    errors.MachineNotFound: errno.ENOENT,
    errors.InvalidDefinition: errno.EIO,
    errors.InvalidChoices: errno.EINVAL,
    errors.MachineRefused: errno.EINVAL,
    errors.AdaptationFailed: errno.EOPNOTSUPP,
    errors.InvalidPackage: errno.EINVAL,
    errors.IncompletePackage: errno.EINVAL,
    errors.NameRefused: errno.EPERM,
    errors.UploadBusy: errno.EBUSY,
    # Not EIO: nothing is broken, and no disk needs to be checked. Not EACCES or EPERM: no permission would help. Not
    # ESTALE: the kernel and NFS clients would look the name up once more, and find the same file.
    errors.NotReadable: errno.EOPNOTSUPP,
    errors.WrittenTwice: errno.EOPNOTSUPP,
    errors.NotEmpty: errno.ENOTEMPTY,
    errors.NameTaken: errno.EEXIST,
    errors.SourceError: errno.EIO,
    errors.CatalogFull: errno.ENOSPC,
    errors.ReadOnly: errno.EROFS,
    errors.StaleHandle: errno.ESTALE,
    errors.ExportFailed: errno.EIO,
    errors.NoSpace: errno.ENOSPC,
}


def errno_of(error: errors.OvafsError) -> int:
    """The errno that a FUSE request is answered with."""
    return next(ERRNOS[base] for base in type(error).__mro__ if base in ERRNOS)
