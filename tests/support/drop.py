"""A real mount with a drop directory, packages to put there, and the judgement of what was imported."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from ovafs.inventory.pool import Pool
from tests.support.mount import mounted
from tests.support.packages import DiskText, archive, content, descriptor, guest_bytes, import_pool, manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.mount import Mount

MIB = 1 << 20
HOLE = slice(MIB, 2 * MIB)
DISK = content(4 * MIB)  # its second quarter is zeros


class Place:
    """A mount with a drop directory, and a package to put there."""

    def __init__(self, mount: Mount, pool: Path, folder: Path) -> None:
        self.mount = mount
        self.pool = pool
        self.folder = folder
        self.drop = mount.path / "drop"

    def package(self, name: str, *, cut: int | None = None, corrupt: bool = False) -> Path:
        """A package of one machine called ``name``, with a hole in the file.

        ``cut`` is how much of it there is; ``corrupt``: it has a manifest, of another disk.
        """
        parts = {"vm.ovf": descriptor(DiskText("d.raw", len(DISK)), name=name), "d.raw": DISK}
        sums = {"vm.mf": manifest({**parts, "d.raw": DISK[::-1]})} if corrupt else {}
        whole = archive({**parts, **sums})
        path = self.folder / f"{name}.ova"
        start = whole.index(DISK) + HOLE.start
        with path.open("wb") as file:
            file.write(whole[:start])
            file.seek(start + MIB)
            file.write(whole[start + MIB :])
        if cut is not None:
            os.truncate(path, cut)
        return path

    def assert_imported(self, name: str) -> None:
        """The machine is there with its disk, and shown at once."""
        with contextlib.closing(Pool(str(self.pool))) as pool:
            machine = pool.find(name)
        assert guest_bytes(machine.disks[0].volume.path, "qcow2", self.folder) == DISK
        assert (self.mount.path / "vms" / f"{name}.ova").stat().st_size > len(DISK) // 2

    def machines(self) -> list[str]:
        """Names of the machines in the pool."""
        with contextlib.closing(Pool(str(self.pool))) as pool:
            return sorted(machine.name for machine in pool.machines())

    def names(self) -> list[str]:
        return sorted(os.listdir(self.drop))

    def assert_nothing_left(self) -> None:
        with import_pool(self.pool) as pool:
            pool.assert_whole(0)


@contextlib.contextmanager
def place_in(
    folder: Path, *options: str, pool: Path | None = None, program: Sequence[str] = ("ovafs",)
) -> Iterator[Place]:
    path = pool or folder / "pool"
    with import_pool(path):
        pass
    with mounted(path, folder, *options, program=program) as mount:
        yield Place(mount, path, folder)
