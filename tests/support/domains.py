"""libvirt domains on the disks of a test, in libvirt's own test driver: a whole libvirt without a daemon."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.support.pools import Image


def domain_xml(name: str, *images: Image, more: str = "", devices: str = "") -> str:
    """A domain with these disks; ``more`` goes beside its memory, ``devices`` among its devices."""
    disks = "".join(
        f"<disk type='file' device='disk'><driver name='qemu' type='{image.format}'/><source file='{image.path}'/>"
        f"<target dev='vd{chr(ord('a') + number)}' bus='virtio'/></disk>"
        for number, image in enumerate(images)
    )
    number = uuid.uuid5(uuid.NAMESPACE_OID, name)
    return (
        f"<domain type='test'><name>{name}</name><uuid>{number}</uuid><memory unit='MiB'>128</memory>{more}"
        f"<os><type arch='i686'>hvm</type></os><devices>{disks}{devices}</devices></domain>"
    )


def write_node(path: Path, domains: Iterable[str], *, pool: Path | None = None, networks: Iterable[str] = ()) -> str:
    """Write a host with these domains, all shut off, and return its URI; every process sees one of its own.

    ``pool`` is the directory of its storage pool "default".
    """
    lines = [text.replace("<domain ", f"<domain xmlns:test='{_NAMESPACE}' ", 1) for text in domains]
    lines = [text.replace("</domain>", "<test:runstate>5</test:runstate></domain>") for text in lines]
    if pool is not None:
        lines.append(f"<pool type='dir'><name>default</name><target><path>{pool}</path></target></pool>")
    for number, name in enumerate(networks, 1):
        address = f"<ip address='192.168.{number}.1' netmask='255.255.255.0'/>"
        lines.append(f"<network><name>{name}</name><forward mode='nat'/>{address}</network>")
    path.write_text(f"<node>{''.join(lines)}</node>", encoding="utf-8")
    return f"test://{path}"


_NAMESPACE = "http://libvirt.org/schemas/domain/test/1.0"
