"""Whether the guests of a package are adapted before its machines are registered.

| ``adapt`` | then |
|---|---|
| never | as they are |
| v2v | by virt-v2v-in-place, or they are not registered |
| auto | the same, where it is installed, for packages of other hypervisors; as they are when it fails |

Of another hypervisor is what oVirt did not describe and what does not start from a virtio disk: such a guest has KVM's
drivers already.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from ovafs.errors import InvalidChoices
from ovafs.model import DiskInterface
from ovafs.transfer.adapt.virt_v2v import check_converter, find_converter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ovafs.inventory.destination import Destination
    from ovafs.model import Machine

_OVIRT = b"xmlns:ovirt"

_OF_KVM = (DiskInterface.VIRTIO, DiskInterface.VIRTIO_SCSI)


class Adapt(enum.StrEnum):
    """What is asked for."""

    AUTO = "auto"
    NEVER = "never"
    V2V = "v2v"


def check_adapt(adapt: Adapt, destination: Destination) -> None:
    """Raise InvalidChoices, AdaptationFailed for what cannot be there."""
    if adapt is not Adapt.V2V:
        return
    if not destination.runs_guests:
        raise InvalidChoices("no guest runs in a pool, so none is adapted to it", "import into libvirt for that")
    check_converter()


def is_adapted(adapt: Adapt, machines: Iterable[Machine], descriptor: bytes, destination: Destination) -> bool:
    """Whether these machines are, which ``descriptor`` describes."""
    with_disks = [machine for machine in machines if machine.disks]
    if adapt is Adapt.NEVER or not with_disks or not destination.runs_guests:
        return False
    if adapt is Adapt.V2V:
        return True
    foreign = [one for one in with_disks if all(disk.interface not in _OF_KVM for disk in one.disks)]
    return bool(foreign) and _OVIRT not in descriptor and find_converter() is not None
