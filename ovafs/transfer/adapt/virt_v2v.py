"""The guest in a machine's images is adapted by virt-v2v-in-place: drivers, boot loader, what other hypervisors left.

It looks into the images with libguestfs, which runs a small machine of its own for that: what is in an image is read
by that machine's kernel, never by this host's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

import msgspec

from ovafs.errors import AdaptationFailed
from ovafs.formats.domain.conversion import conversion_input, has_virtio, last_step
from ovafs.model import DiskInterface, NicModel
from ovafs.printable import printable

if TYPE_CHECKING:
    from ovafs.model import Machine
    from ovafs.transfer.adapt.workplace import Workplace

_NAME = "virt-v2v-in-place"

# Not a command for everybody's PATH, some distributions think.
_MORE_PLACES = "/usr/libexec:/usr/lib/virt-v2v"

_TAIL = 16 << 10


def find_converter() -> str | None:
    """The path of the program; None where it is not installed."""
    return shutil.which(_NAME) or shutil.which(_NAME, path=_MORE_PLACES)


def check_converter() -> str:
    """The path of the program. Raises AdaptationFailed."""
    path = find_converter()
    if path is None:
        raise AdaptationFailed(f"{_NAME} is not installed", "install the package virt-v2v, or import with adapt=never")
    return path


def convert(machine: Machine, place: Workplace, limit: float) -> Machine:
    """Adapt the guest on the machine's volumes, which are overlays; returns its new hardware, on them. Blocks.

    ``limit`` is in seconds. Raises AdaptationFailed with what the program said last, and Stopped.
    """
    document = os.path.join(place.path, "machine.xml")
    with open(document, "wb") as file:
        file.write(conversion_input(machine))
    status = place.program.run([check_converter(), "-i", "libvirtxml", document], place.log, limit, _environment(place))
    said = said_by_now(place)
    if status:
        reasons = [line for line in said.decode("utf-8", "replace").splitlines() if "error:" in line]
        reason = printable(reasons[0].partition("error:")[2].strip()[:300]) if reasons else f"exit code {status}"
        raise AdaptationFailed(f"{_NAME} failed: {reason}")
    return with_virtio(machine) if has_virtio(said) else machine


def with_virtio(machine: Machine) -> Machine:
    """The machine with the disks and adapters of KVM's own kind."""
    disks = tuple(msgspec.structs.replace(disk, interface=DiskInterface.VIRTIO) for disk in machine.disks)
    nics = tuple(msgspec.structs.replace(nic, model=NicModel.VIRTIO) for nic in machine.nics)
    return msgspec.structs.replace(machine, disks=disks, nics=nics)


def said_by_now(place: Workplace) -> bytes:
    """The end of what the program has said; nothing if it has not begun."""
    with contextlib.suppress(OSError), open(place.log, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        return file.read()
    return b""


def step(place: Workplace) -> str:
    """What the program is at, in its words."""
    return printable(last_step(said_by_now(place)))


def _environment(place: Workplace) -> dict[str, str]:
    """Libguestfs without libvirt: that would not let QEMU at files of another owner.

    The small machine is built once and kept, so not among the temporary files, which go.
    """
    usual = {
        "LIBGUESTFS_BACKEND": "direct",
        "LIBGUESTFS_CACHEDIR": os.environ.get("TMPDIR", "/var/tmp"),  # noqa: S108 - libguestfs' own place
    }
    own = {"LC_ALL": "C", "TMPDIR": place.temporary, "VIRT_V2V_TMPDIR": place.temporary}
    return {name: os.environ.get(name, value) for name, value in usual.items()} | own
