"""``ls -l`` of 10,000 machines with one qcow2 image each."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from ovafs.model import DiskFormat
from tests.bench import inputs, mounts
from tests.bench.measure import run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.measure import Bench

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

    first, again, later, restarted, mount_first, mount_restarted = ([] for _ in range(6))  # type: list[list[float]]
    for _ in range(min(bench.rounds, 3)):
        inputs.forget_plans(pool)
        with mounts.ovafs(pool, mount_point) as mount:
            mount_first.append(mount.start_seconds)
            first.append(_list(bench, mount.root))
            again.append(_list(bench, mount.root))
            time.sleep(NAMES_EXPIRE)
            later.append(_list(bench, mount.root))
        with mounts.ovafs(pool, mount_point) as mount:
            mount_restarted.append(mount.start_seconds)
            restarted.append(_list(bench, mount.root))

    bench.judge_limit("ls-first", case, bench.figure(case, "first time", first, "s"), 5)
    bench.judge_limit("ls-again", case, bench.figure(case, "again", again, "s"), 0.5)
    bench.judge_limit("ls-later", case, bench.figure(case, "again, names expired", later, "s"), 0.5)
    bench.judge_limit("ls-restart", case, bench.figure(case, "after a restart", restarted, "s"), 1)
    bench.figure(case, "ovafs mount, first time", mount_first, "s")
    bench.figure(case, "ovafs mount, after a restart", mount_restarted, "s")
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
    bench.judge(
        "ls-processes", case, f"{started} processes in all", "none per VM", met=started < len(calls) and started < 10
    )
