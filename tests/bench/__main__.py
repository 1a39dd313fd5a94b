"""Command line of the benchmark: ``python -m tests.bench [--quick] [--case NAME]... [--output FILE]``."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import mounts, report
from tests.bench.compressed import compressed
from tests.bench.hypervisor import hypervisor
from tests.bench.importing import importing
from tests.bench.listing import listing
from tests.bench.measure import Bench
from tests.bench.reading import chain, raw
from tests.bench.scattered import scattered

CASES = {
    "raw": raw, "chain": chain, "listing": listing, "scattered": scattered, "compressed": compressed,
    "importing": importing, "hypervisor": hypervisor,
}  # fmt: skip
RESULTS = Path(__file__).with_name("RESULTS.md")
ROOM = 25 << 30  # bytes for the largest case: a source, its OVA, and what convert + tar write
QUICK_ROOM = 5 << 30
TOOLS = {
    "qemu-img": "qemu-utils", "qemu-io": "qemu-utils", "gcc": "gcc", "pkg-config": "pkg-config", "strace": "strace",
    "dd": "coreutils", "tar": "tar", "umount": "mount", "nbdcopy": "libnbd-bin", "qemu-nbd": "qemu-utils",
    "virsh": "libvirt-clients", "libvirtd": "libvirt-daemon-system", "qemu-system-x86_64": "qemu-system-x86",
}  # fmt: skip


def main() -> int:
    options = _options()
    complaint = _complaint(options)
    if complaint:
        sys.stderr.write(f"tests.bench: {complaint}\n")
        return 1
    known = report.environment()
    others = report.OtherWork()
    bench = Bench(options.scratch, options.quick, options.rounds or (2 if options.quick else 3))
    started = time.monotonic()
    for name in options.case or CASES:
        with tempfile.TemporaryDirectory(prefix="ovafs-bench-", dir=options.scratch) as scratch:
            bench.scratch = Path(scratch)
            bench.say(f"{name} (after {time.monotonic() - started:.0f} s)")
            CASES[name](bench)
    known["Other programs used"] = f"{others.cores():.2f} cores on average"
    bench.say(f"done in {time.monotonic() - started:.0f} s; other programs used {known['Other programs used']}\n")
    sys.stdout.write(report.plain(bench) + "\n")
    if options.output:
        words = shlex.join(sys.argv[1:])
        options.output.write_text(report.markdown(bench, known, f" {words}" if words else ""), encoding="utf-8")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure ovafs beside its peers.")
    parser.add_argument("--quick", action="store_true", help="small inputs: to try the benchmark, not to judge by")
    parser.add_argument("--case", action="append", choices=CASES, help="only this case (may be given again)")
    parser.add_argument("--rounds", type=int, help="rounds to count (default 3, quick 2)")
    parser.add_argument("--output", type=Path, help="the report in Markdown (default for a full run: RESULTS.md)")
    parser.add_argument("--scratch", type=Path, default=Path("/var/tmp"), help="where inputs are made, 25 GiB")
    options = parser.parse_args()
    if options.output is None and not options.quick and not options.case:
        options.output = RESULTS
    return options


def _complaint(options: argparse.Namespace) -> str:
    """Why the benchmark cannot run here; empty if it can."""
    missing = {package for tool, package in TOOLS.items() if shutil.which(tool) is None}
    if not mounts.C_EXAMPLE_SOURCE.exists():
        missing.add("libfuse3-dev")
    free = shutil.disk_usage(options.scratch).free
    room = QUICK_ROOM if options.quick else ROOM
    if missing:
        return f"missing Debian packages: {' '.join(sorted(missing))}"
    if os.geteuid() != 0:
        return "needs root: it mounts file systems and sets their read-ahead"
    if free < room:
        return f"{options.scratch} has {free >> 30} GiB free, {room >> 30} GiB are needed; see --scratch"
    return ""


if __name__ == "__main__":
    sys.exit(main())
