"""A qcow2 of 1 TiB with 100,000 scattered clusters: how soon it can be read, and what 8 readers cost in memory."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ovafs.model import DiskFormat
from tests.bench import inputs, mounts
from tests.bench.random_reader import drop_cached_pages

if TYPE_CHECKING:
    from tests.bench.measure import Bench

READERS = 8


def scattered(bench: Bench) -> None:
    size, clusters = (64 << 30, 6_000) if bench.quick else (1 << 40, 100_000)
    image = inputs.scattered(bench.scratch / "scattered.qcow2", size, clusters)
    pool = inputs.make_pool(bench.scratch / "pool", [inputs.machine("vm", image, DiskFormat.QCOW2)])
    case = f"{size >> 30} GiB, {clusters:,} clusters"
    _first_byte(bench, pool, image, f"stat + first byte, {case}")
    _memory(bench, pool, image, f"{READERS} readers, {case}")


def _first_byte(bench: Bench, pool: Path, image: Path, case: str) -> None:
    mount_point = bench.scratch / "ovafs"
    first: list[float] = []
    warm: list[float] = []
    restarted: list[float] = []
    mapped: list[float] = []
    for _ in range(bench.rounds):
        inputs.forget_plans(pool)
        inputs.warm(image)
        with mounts.ovafs(pool, mount_point) as mount:
            file = mount.root / "vms" / "vm.ova"
            first.append(_milliseconds_to_first_byte(file))
            drop_cached_pages(file)
            warm.append(_milliseconds_to_first_byte(file))
        with mounts.ovafs(pool, mount_point) as mount:
            restarted.append(_milliseconds_to_first_byte(mount.root / "vms" / "vm.ova"))
        mapped.append(1e3 * bench.timed(f"{case}: qemu-img map", ["qemu-img", "map", "--output=json", image]))
    bench.judge_limit("first-byte-first", f"{case}, first time", bench.figure(case, "first time", first, "ms"), 400)
    bench.judge_limit(
        "first-byte-restart", f"{case}, after a restart", bench.figure(case, "after a restart", restarted, "ms"), 20
    )
    bench.judge_limit("first-byte-warm", f"{case}, warm", bench.figure(case, "warm", warm, "ms"), 5)
    bench.figure(case, "qemu-img map", mapped, "ms")


def _milliseconds_to_first_byte(file: Path) -> float:
    started = time.perf_counter()
    file.stat()
    fd = os.open(file, os.O_RDONLY)
    try:
        os.pread(fd, 1, 0)
        return 1e3 * (time.perf_counter() - started)
    finally:
        os.close(fd)


def _memory(bench: Bench, pool: Path, image: Path, case: str) -> None:
    """Every reader begins in another eighth of the file; the mount is new and has planned nothing yet."""
    seconds = 5 if bench.quick else 20
    inputs.forget_plans(pool)
    inputs.warm(image)
    with mounts.ovafs(pool, bench.scratch / "ovafs") as mount:
        file = mount.root / "vms" / "vm.ova"
        mebibytes = file.stat().st_size >> 20
        started = time.perf_counter()
        readers = []
        for number in range(READERS):
            skip = mebibytes * number // READERS
            command = ["dd", f"if={file}", "of=/dev/null", "bs=1M", f"skip={skip}", "iflag=nocache"]
            # SIGINT lets dd say what it has read. One reader runs to the end of the file, the others until then.
            command = ["timeout", "-s", "INT", str(seconds), *command]
            bench.record(f"{case}: reader {number + 1}", command)
            readers.append(subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "LC_ALL": "C"}))
        reports = [reader.communicate()[1].decode() for reader in readers]
        elapsed = time.perf_counter() - started
        status = Path(f"/proc/{mount.pid}/status").read_text(encoding="ascii")
    copied = sum(int(found[1]) for report in reports if (found := re.search(r"^(\d+) bytes", report, re.MULTILINE)))
    bench.figure(case, "all together", [copied / elapsed / 1e9], "GB/s")
    bench.figure(case, "bytes copied, of the file's", [copied / (mebibytes << 20)], "times")
    bench.figure(case, "resident memory at the end (VmRSS)", [_mebibytes(status, "VmRSS")], "MiB")
    peak = bench.figure(case, "resident memory, highest (VmHWM)", [_mebibytes(status, "VmHWM")], "MiB")
    bench.judge_limit("memory", case, peak, 150)


def _mebibytes(status: str, name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
    assert found, status
    return int(found[1]) / 1024
