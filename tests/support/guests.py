"""Guests of one sector, started by a BIOS: one that greets, one that writes to its disk for ever.

Each iteration n of the second writes 4 KiB that begin with n and the BIOS's count of ticks (18.2 a second), three
times: at FIRST, somewhere between, and at LAST. So in a copy of one moment FIRST holds n or n + 1 when LAST holds n.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from tests.support.images import create, io
from tests.support.mount import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.libvirtd import Libvirt

MIB = 1 << 20
FIRST = 1 * MIB
BETWEEN = 2 * MIB
LAST = 511 * MIB
SIZE = 512 * MIB
TICKS_PER_SECOND = 18.2

# again: incl 0x8000; movl 0x46c, 0x8004; put(2048); put(4096 + (n & 0x3fff) * 8); put(1046528)
#        every 16th time: print 0x8007 .. 0x8000 in hex on the serial port 0x3f8
# put:   int 0x13 with ah = 0x43 (write) and a packet at 0x7b00: 8 sectors from 0x8000 to the sector in eax
COUNTER = bytes.fromhex(
    "fc31c08ed88ec08ed0bc007c66ff06008066a16c0466a3048066b800080000e8530066a100806625ff3f000066c1e003660500100000e83c00"
    "66b800f80f00e83300f60600800f75c3be0780b908008a04c0e804e811008a04240fe80a004ee2eeb00ae80a00eba404303c3a72020427ba"
    "f803eec366a3087b66c706007b1000080066c706047b0080000066c7060c7b00000000b80043b280be007bcd137201c3b021e8cafff4ebf8"
)


def boot_sector(code: bytes) -> bytes:
    """What a BIOS starts."""
    return code.ljust(510, b"\0") + b"\x55\xaa"


class Count(NamedTuple):
    """A line of the serial port: the number of the iteration, and the guest's clock in seconds."""

    number: int
    seconds: float


class CountingGuest:
    """A domain that counts; ``disk`` is its image, ``log`` what its serial port has said.

    With a ``socket`` an NBD server on it has the image, and the domain's disk is on the network.
    """

    def __init__(
        self, libvirt: Libvirt, name: str, disk: Path, form: str, folder: Path, socket: str | None = None
    ) -> None:
        self.name = name
        self.disk = disk
        self.log = folder / f"{name}.serial"
        self._libvirt = libvirt
        kind, source = "file", f"<source file='{disk}'/>"
        if socket is not None:
            kind = "network"
            source = f"<source protocol='nbd'><host transport='unix' socket='{socket}'/></source>"
        libvirt.define(
            name,
            f"<disk type='{kind}' device='disk'><driver name='qemu' type='{form}'/>{source}"
            f"<target dev='vda' bus='virtio'/></disk><serial type='file'><source path='{self.log}'/></serial>",
        )

    def start(self) -> None:
        self._libvirt.virsh("start", self.name)
        self.wait(1)

    def counts(self) -> list[Count]:
        text = self.log.read_text(encoding="ascii", errors="replace") if self.log.exists() else ""
        lines = [line.strip() for line in text.splitlines()[:-1] if len(line.strip()) == 16]
        return [Count(int(line[8:], 16), int(line[:8], 16) / TICKS_PER_SECOND) for line in lines]

    @property
    def number(self) -> int:
        """The last iteration that it told of; 0 before the first."""
        counts = self.counts()
        return counts[-1].number if counts else 0

    def wait(self, more: int) -> int:
        """Until it has told of ``more`` iterations; returns the last."""
        target, deadline = self.number + more, time.monotonic() + PATIENCE
        while (number := self.number) < target:
            assert time.monotonic() < deadline, f"{self.name} stands at {number}: {self.log}"
            time.sleep(0.02)
        return number

    def longest_gap(self) -> float:
        """Seconds of the guest's own clock between two lines."""
        seconds = [count.seconds for count in self.counts()]
        return max(after - before for before, after in itertools.pairwise(seconds))


def counting_image(path: Path, form: str = "qcow2", *, depth: int = 1) -> Path:
    """The disk of a guest that counts: the top of a chain of ``depth`` images."""
    sector = path.with_name(f"{path.name}.boot")
    sector.write_bytes(boot_sector(COUNTER))
    base = path.with_name(f"{path.name}.0") if depth > 1 else path
    if form == "raw":
        base.touch()
        os.truncate(base, SIZE)
    else:
        create(base, SIZE)
    io(base, f"write -s {sector} 0 512", f"write -P 0x5a {BETWEEN} {64 * MIB}", form=form)
    for number in range(1, depth):
        above = path if number == depth - 1 else path.with_name(f"{path.name}.{number}")
        base = create(above, SIZE, backing=str(base), backing_format=form if number == 1 else "qcow2")
    return path


def counters(disk: Path) -> tuple[int, int, int]:
    """What a raw copy of the disk says: FIRST, LAST, and what lies between for FIRST's number."""

    def number(offset: int) -> int:
        with contextlib.closing(open(disk, "rb", buffering=0)) as file:
            return int(struct.unpack("<I", os.pread(file.fileno(), 4, offset))[0])

    last = number(LAST)
    return number(FIRST), last, number(BETWEEN + (last & 0x3FFF) * 4096)
