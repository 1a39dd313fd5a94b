"""The end of a machine: with it go the volumes that an import made for it, and no other file.

The order that survives a crash at any moment: one transaction takes the machine out and notes its volumes as nobody's;
then they are removed; then the notes. In between, the next import removes what is noted.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import ImageError, InvalidDefinition, VolumeBusy
from ovafs.storage.chain import open_chain
from ovafs.storage.links import Links
from ovafs.storage.writer.new_volume import NewVolume, sync_directory

if TYPE_CHECKING:
    from ovafs.inventory.catalog import Removed
    from ovafs.inventory.pool import Pool
    from ovafs.model import Machine, MachineKind, Volume


class Removal(NamedTuple):
    """What is gone from the catalog, and the paths of the volumes that are gone from the pool."""

    removed: Removed
    volumes: list[str]


def remove_machine(pool: Pool, name: str, kind: MachineKind | None = None, *, keep_volumes: bool = False) -> Removal:
    """Take a machine out of the pool, and unless ``keep_volumes`` the volumes that the pool made for it.

    A volume that an image of another machine is based on stays. Blocks. Raises MachineNotFound, InvalidDefinition,
    VolumeBusy (a program writes to a volume; nothing has happened then), WriteFailed.
    """
    own = {} if keep_volumes else _own_volumes(pool, name, kind)
    removed = pool.remove(name, kind, give_up=own.keys())
    gone = [own[uuid] for uuid in removed.given_up]
    for volume in gone:
        volume.withdraw()
    if gone:
        sync_directory(pool.volumes_path)
        left = {volume.uuid for volume in gone if os.path.lexists(volume.path)}
        pool.forget_volumes([volume.uuid for volume in gone if volume.uuid not in left])
    return Removal(removed, [volume.path for volume in gone])


def _own_volumes(pool: Pool, name: str, kind: MachineKind | None) -> dict[str, NewVolume]:
    """By their UUIDs, the volumes of the machine that the pool made and that nobody else needs or writes to."""
    try:
        machine = pool.find(name, kind)
    except InvalidDefinition:  # damaged: what its volumes are is not known, so they stay; remove() says what else
        return {}
    own = {disk.volume.uuid: volume for disk in machine.disks if (volume := _made_by(pool, disk.volume)) is not None}
    for volume in own.values():
        _check_idle(volume)
    used = _files_of_others(pool, machine) if own else set()
    return {uuid: volume for uuid, volume in own.items() if os.path.realpath(volume.path) not in used}


def _made_by(pool: Pool, volume: Volume) -> NewVolume | None:
    """The volume as an import named it; None for an image that was registered where it lay."""
    with contextlib.suppress(ValueError):
        made = NewVolume(os.path.realpath(pool.volumes_path), volume.uuid, volume.format)
        return made if made.path == volume.path else None
    return None


def _check_idle(volume: NewVolume) -> None:
    try:
        open_chain(volume.path, volume.format).close()
    except VolumeBusy:
        raise
    except ImageError:  # missing or broken: nobody uses it
        pass


def _files_of_others(pool: Pool, machine: Machine) -> set[str]:
    """Every file in the chains of all other machines; of those that cannot be opened, the top alone."""
    files = set()
    for other in pool.machines():
        for disk in other.disks if other.uuid != machine.uuid else ():
            files.add(os.path.realpath(disk.volume.path))
            with contextlib.suppress(ImageError), contextlib.ExitStack() as stack:
                links = Links(stack, lock=False, by_qemu=True).open(disk.volume.path, disk.volume.format)
                files.update(os.path.realpath(file.path) for link in links for file in link.files)
    return files
