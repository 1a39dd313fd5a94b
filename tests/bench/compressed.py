"""Reading from compressed images: how fast, and how fast the decompressor alone is on one core."""

from __future__ import annotations

import sys
import time
import zlib
from typing import TYPE_CHECKING

from ovafs.formats.inflate import inflate_cluster
from ovafs.formats.qcow2.header import Compression
from ovafs.model import DiskFormat
from tests.bench import inputs, mounts
from tests.bench.measure import take_turns, with_range
from tests.bench.random_reader import drop_cached_pages

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.measure import Bench, Figure

COMPRESSIONS = {"deflate": "zlib", "zstd": "zstd"}  # by qemu's names
SAMPLES = 500  # clusters


def compressed(bench: Bench) -> None:
    text = inputs.text_image(bench.scratch / "text.raw", 64 << 20 if bench.quick else 512 << 20)
    for name, compression in COMPRESSIONS.items():
        image = inputs.compressed(bench.scratch / f"{name}.qcow2", text, compression)
        case = f"compressed source, {name}"
        mounted = _read(bench, image, case)
        alone = bench.figure(case, "decompressor alone", [_alone(text, compression)], "MB/s")
        measured = f"{with_range(mounted.values)} MB/s; decompressor alone {with_range(alone.values)} MB/s"
        bench.judge(f"compressed-{name}", case, measured, "report", met=None)


def _read(bench: Bench, image: Path, case: str) -> Figure:
    pool = inputs.make_pool(bench.scratch / f"pool-{image.stem}", [inputs.machine("vm", image, DiskFormat.QCOW2)])
    converted, target = bench.scratch / "converted.qcow2", bench.scratch / "copy.ova"
    with mounts.ovafs(pool, bench.scratch / "ovafs") as mount:
        file = mount.root / "vms" / "vm.ova"
        size = file.stat().st_size

        def read() -> float:
            """In MB/s."""
            drop_cached_pages(file)
            inputs.warm(image)
            command = ["dd", f"if={file}", "of=/dev/null", "bs=1M", "status=none", "iflag=nocache"]
            return size / bench.timed(f"{case}: ovafs", command) / 1e6

        def convert() -> float:
            seconds = bench.timed(
                f"{case}: qemu-img convert + tar",
                ["qemu-img", "convert", "-O", "qcow2", image, converted],
                ["tar", "-C", bench.scratch, "-cf", target, converted.name],
            )
            converted.unlink()
            target.unlink()
            return size / seconds / 1e6

        rates = take_turns({"ovafs": read, "qemu-img convert + tar": convert}, bench.rounds)
        figures = {subject: bench.figure(case, subject, values, "MB/s") for subject, values in rates.items()}
        return figures["ovafs"]


def _alone(text: Path, compression: str) -> float:
    """MB/s of ``inflate_cluster`` in this process, on clusters like those in the image."""
    with text.open("rb") as file:
        clusters = [_compress(file.read(inputs.CLUSTER), compression) for _ in range(SAMPLES)]
    method = Compression.ZSTD if compression == "zstd" else Compression.DEFLATE
    started = time.perf_counter()
    for cluster in clusters:
        inflate_cluster(cluster, method, inputs.CLUSTER, "sample")
    return SAMPLES * inputs.CLUSTER / (time.perf_counter() - started) / 1e6


def _compress(cluster: bytes, compression: str) -> bytes:
    """As qemu-img does: raw deflate with a window of 4 KiB, or one zstd frame."""
    if compression == "zstd":
        return zstd.compress(cluster)
    deflate = zlib.compressobj(-1, zlib.DEFLATED, -12)
    return deflate.compress(cluster) + deflate.flush()
