"""``ls -l`` of 10,000 machines with one qcow2 image each."""

from __future__ import annotations

import collections
import re
import time
from typing import TYPE_CHECKING

from ovafs.model import DiskFormat
from tests.bench import inputs, mounts
from tests.bench.measure import run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.measure import Bench

AIMS = {
    "ls-first": ("first time", 5.0),
    "ls-again": ("again", 0.5),
    "ls-expired": ("again, names expired", 0.5),
    "ls-restart": ("after a restart", 1.0),
}
FEW = 10  # processes for the daemon's own needs, whatever the number of machines
NAMES_EXPIRE = 1.2  # seconds after which the kernel asks for names again


def listing(bench: Bench) -> None:
    number = 500 if bench.quick else 10_000
    folder = bench.scratch / "images"
    folder.mkdir()
    images = inputs.small_images(folder, number)
    machines = [inputs.machine(f"vm{count:05}", image, DiskFormat.QCOW2) for count, image in enumerate(images)]
    pool = inputs.make_pool(bench.scratch / "pool", machines)
    mount_point = bench.scratch / "ovafs"
    case = f"ls -l of {number:,} machines"

    seconds: dict[str, list[float]] = collections.defaultdict(list)
    for _ in range(min(bench.rounds, 3)):
        inputs.forget_plans(pool)
        with mounts.ovafs(pool, mount_point) as mount:
            seconds["ovafs mount, first time"].append(mount.start_seconds)
            seconds["first time"].append(_list(bench, mount.root))
            seconds["again"].append(_list(bench, mount.root))
            time.sleep(NAMES_EXPIRE)
            seconds["again, names expired"].append(_list(bench, mount.root))
        with mounts.ovafs(pool, mount_point) as mount:
            seconds["ovafs mount, after a restart"].append(mount.start_seconds)
            seconds["after a restart"].append(_list(bench, mount.root))

    figures = {subject: bench.figure(case, subject, values, "s") for subject, values in seconds.items()}
    for key, (subject, below) in AIMS.items():
        bench.judge_limit(key, f"{case}, {subject}", figures[subject], below)
    bench.figure(case, "the images' own folder (ext4 or what the scratch folder has)", [_list(bench, folder, "")], "s")
    _count_programs(bench, pool, mount_point, case)


def _list(bench: Bench, root: Path, folder: str = "vms") -> float:
    return bench.timed(f"ls -l in {root.name}", ["ls", "-l", root / folder])


def _count_programs(bench: Bench, pool: Path, mount_point: Path, case: str) -> None:
    """Count what the daemon and its children execute from start to end: strace sees every execve and fork."""
    inputs.forget_plans(pool)
    trace = bench.scratch / "strace.out"
    strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=execve,execveat,fork,vfork,clone,clone3", "-o"]
    with mounts.ovafs(pool, mount_point, under=[*strace, str(trace)]) as mount:
        run("ls", "-l", mount.root / "vms")
    calls = trace.read_text("utf-8", "replace").splitlines()
    programs = sum(bool(re.search(r"execve(at)?\(.* = 0", call)) for call in calls) - 1  # one is the daemon itself
    forks = sum(
        bool(re.search(r"(fork|clone3?)\(", call)) and "CLONE_THREAD" not in call and " = -1" not in call
        for call in calls
    )
    started = max(programs, forks)
    bench.figure(case, "processes started by the daemon, mount to unmount", [started], "")
    bench.judge("ls-processes", case, f"{started} processes in all", "none per VM", met=started < FEW)
