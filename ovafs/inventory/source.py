"""SOURCE, as the commands take it: which inventory it means."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ovafs.errors import SourceError
from ovafs.inventory.inventory import BackupSettings
from ovafs.inventory.pool import Pool
from ovafs.inventory.selection import Selection

if TYPE_CHECKING:
    from ovafs.inventory.destination import Destination
    from ovafs.inventory.inventory import Inventory

# "qemu:///system", "qemu+ssh://root@host/system", "test:///default".
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")

ALL = Selection()
USUAL = BackupSettings()


def is_uri(source: str) -> bool:
    """Whether ``source`` is the URI of a libvirt connection, not the directory of a pool.

    A directory whose path looks like one can be given as "./x:/y".
    """
    return bool(_URI.match(source))


def selection_for(source: str, name: str | None) -> Selection:
    """What has to be shown so that the machine ``name`` can be found: NAME@SNAPSHOT of libvirt is one."""
    return Selection(snapshots=is_uri(source) and "@" in (name or ""))


def open_inventory(source: str, selection: Selection = ALL, backups: BackupSettings = USUAL) -> Inventory:
    """The inventory behind ``source``: a pool directory, or what libvirt has behind a URI; all of it. Close it.

    Of ``selection`` only what tells templates counts here; ``selection.of()`` the inventory is what is to be shown.
    ``backups`` is about machines that run, which a pool has not.

    Raises SourceError.
    """
    if is_uri(source):
        # Imported for those who use it: the library behind it is an extra, and loads slowly.
        from ovafs.inventory.libvirt.inventory import LibvirtInventory  # noqa: PLC0415

        return LibvirtInventory(source, selection.is_template, backups, snapshots=selection.snapshots)
    if selection.templates:
        raise SourceError(f"{source}: a pool knows its templates; the option 'templates' is for libvirt")
    if selection.snapshots:
        raise SourceError(f"{source}: a pool has no snapshots; the option 'snapshots' is for libvirt")
    if selection.tag:
        raise SourceError(f"{source}: a pool has no tags; the option 'tag' is for libvirt")
    return Pool(source)


def open_pool(source: str) -> Pool:
    """The pool ``source``, whose definitions can be changed. Close it. Raises SourceError."""
    if is_uri(source):
        raise SourceError(f"{source}: what libvirt has is changed by its own tools", "see virsh(1): define, undefine")
    return Pool(source)


def open_destination(source: str, inventory: Inventory, pool: str | None) -> Destination:
    """What takes machines into ``inventory``, which is the one behind ``source``. Close it, too.

    ``pool`` is the name of a storage pool of libvirt; None: the default one. Raises SourceError if nothing can be
    imported there.
    """
    if isinstance(inventory, Pool):
        if pool is not None:
            raise SourceError(f"{source}: a pool has one place for volumes; storage pools are libvirt's")
        if not inventory.is_writable:
            raise SourceError(f"{source} cannot be written", "check the permissions of the pool and its file system")
        return inventory
    from ovafs.inventory.libvirt.destination import DEFAULT_POOL, LibvirtDestination  # noqa: PLC0415
    from ovafs.inventory.libvirt.inventory import LibvirtInventory  # noqa: PLC0415

    if not isinstance(inventory, LibvirtInventory):
        raise TypeError(f"{inventory!r} is not what stands behind a source")
    return LibvirtDestination(inventory.connection, inventory.cache_dir, pool or DEFAULT_POOL)
