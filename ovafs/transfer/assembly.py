"""A machine's package from its parts: the descriptor, states and planned disks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovafs.formats.ovf.ovirt import STATE_FILES, DiskFile, descriptor_name, write_ovf
from ovafs.streams.ova import Package, member_sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ovafs.model import Machine, StateKind
    from ovafs.streams.qcow2 import PlannedQcow2


class Assembler:
    """Puts packages together; ``read_state`` gives the text of a state that a machine has, the inventory's."""

    def __init__(self, read_state: Callable[[Machine, StateKind], bytes]) -> None:
        self._read_state = read_state

    def assemble(
        self, machine: Machine, disks: Sequence[PlannedQcow2], sizes: Sequence[int] | None = None
    ) -> tuple[Package, bytes]:
        """The package, and its descriptor; ``sizes`` are those of the disk files where they are larger than needed.

        Raises InvalidDefinition when the definition cannot be written down, and what reading states raises.
        """
        sizes = member_sizes([disk.size for disk in disks] if sizes is None else sizes)
        ovf = write_ovf(machine, [DiskFile(disk.virtual_size, size) for disk, size in zip(disks, sizes, strict=True)])
        names = [disk.volume.uuid for disk in machine.disks]
        texts = [(STATE_FILES[kind], self._read_state(machine, kind)) for kind in machine.states]
        members = list(zip(names, disks, strict=True))
        return Package(descriptor_name(machine), ovf, members, machine.modified, texts, sizes), ovf
