"""What virt-v2v-in-place is given, and what it says of the guest that it has adapted.

It is given a domain of the few elements that it reads (virt-v2v-in-place(1), "Minimal XML for -i libvirtxml option"),
with the source's hardware, and changes the guest in the image files. It writes no definition of the new machine: which
drivers the guest has afterwards it says in one of two sentences (convert/convert.ml).
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from lxml import etree

from ovafs.formats.domain.write import add_disk, add_element
from ovafs.model import Firmware

if TYPE_CHECKING:
    from ovafs.model import Machine

_HAS_VIRTIO = b"This guest has virtio drivers installed"

_STEP = re.compile(r"\[ *[0-9.]+\] (\S.*)")


def conversion_input(machine: Machine) -> bytes:
    """The machine, whose volumes are the images that are to be changed."""
    root = etree.Element("domain", type="kvm")
    add_element(root, "name", "guest")
    add_element(root, "memory", str(machine.memory), unit="b")
    add_element(root, "vcpu", str(machine.cpu.total))
    system = add_element(root, "os")
    add_element(system, "type", "hvm")
    if machine.firmware is not Firmware.BIOS:
        system.set("firmware", "efi")
    devices = add_element(root, "devices")
    used: Counter[str] = Counter()
    for disk in machine.disks:
        add_disk(devices, disk, used)
    return etree.tostring(root, xml_declaration=True, encoding="utf-8")


def has_virtio(output: bytes) -> bool:
    """Whether the guest that was adapted starts from virtio disks."""
    return _HAS_VIRTIO in output


def last_step(output: bytes) -> str:
    """What it was at when it had said this; "" if it was at nothing yet."""
    steps = [match[1] for line in output.decode("utf-8", "replace").splitlines() if (match := _STEP.match(line))]
    return steps[-1] if steps else ""
