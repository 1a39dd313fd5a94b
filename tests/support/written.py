"""Writes to a new volume, the same writes to a plain file, and qemu-img as the judge between the two."""

from __future__ import annotations

import json
import os
import struct
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from tests.support.oracles import assert_same_disk, check_qcow2
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ovafs.storage.writer.volume_writer import VolumeWriter


_CLUSTER = 1 << 16


class Write(NamedTuple):
    """``seed`` 0: bytes of zeros; None: zero_at; else a pattern."""

    offset: int
    length: int
    seed: int | None


def pattern(write: Write) -> bytes:
    """Bytes that differ between writes and between the sectors of one; none is zero unless the seed is."""
    if not write.seed:
        return bytes(write.length)
    sectors = range(-(-write.length // 512))
    return b"".join(bytes(((write.seed * 37 + sector) % 255 + 1,)) * 512 for sector in sectors)[: write.length]


def apply(writer: VolumeWriter, writes: Iterable[Write]) -> None:
    """Do the writes in order."""
    for write in writes:
        if write.seed is None:
            writer.zero_at(write.offset, write.length)
        else:
            writer.write_at(write.offset, memoryview(pattern(write)))


def reference(path: Path, size: int, writes: Iterable[Write]) -> Path:
    """A plain file that had the same writes."""
    with path.open("wb") as file:
        os.ftruncate(file.fileno(), size)
        for write in writes:
            os.pwrite(file.fileno(), pattern(write), write.offset)
    return path


def judge_qcow2(image: Path, truth: Path) -> None:
    """The image is clean, has no feature bits, ends with its last cluster and holds what the raw ``truth`` holds."""
    check_qcow2(image)
    assert_same_disk(image, truth, "qcow2", "raw")
    with image.open("rb") as file:
        assert file.read(104)[72:96] == bytes(24)
    assert check_report(image)["image-end-offset"] == image.stat().st_size
    assert refcounts(image) == {1: image.stat().st_size // _CLUSTER}


def refcounts(image: Path) -> Counter[int]:
    """How many clusters have which refcount, but 0. ``qemu-img check`` does not look behind the file's end."""
    counts: Counter[int] = Counter()
    with image.open("rb") as file:
        offset, clusters = struct.unpack(">QI", os.pread(file.fileno(), 12, 48))
        table = os.pread(file.fileno(), clusters * _CLUSTER, offset)
        for (block,) in struct.iter_unpack(">Q", table):
            if block:
                counts.update(memoryview(os.pread(file.fileno(), _CLUSTER, block)).cast("H").tolist())
    del counts[0]
    return Counter({int.from_bytes(struct.pack("=H", value)): number for value, number in counts.items()})


def check_report(image: Path) -> dict[str, int]:
    """The figures of ``qemu-img check``, whatever it finds."""
    report: dict[str, int] = json.loads(
        run("qemu-img", "check", "-U", "-f", "qcow2", "--output=json", image, status=None).stdout
    )
    return report
