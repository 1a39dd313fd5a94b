"""The report: what was found, on which machine, by which commands."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.limits import limit
from tests.bench.measure import run, with_range

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.bench.measure import Bench


def environment() -> dict[str, str]:
    """The machine and the versions that the figures belong to."""
    cpu = re.search(r"^model name\s*:\s*(.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+)", _read("/proc/meminfo"), re.MULTILINE)
    return {
        "Date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Kernel": platform.release(),
        "CPU": f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores",
        "Memory": f"{int(memory[1]) >> 20} GiB" if memory else "unknown",
        "Python": platform.python_version(),
        "pyfuse3": importlib.metadata.version("pyfuse3"),
        "trio": importlib.metadata.version("trio"),
        "libfuse": run("pkg-config", "--modversion", "fuse3").strip(),
        "qemu-img": run("qemu-img", "--version").split("\n")[0].removeprefix("qemu-img version "),
        "cp, dd": run("dd", "--version").split("\n")[0].removeprefix("dd "),
        "Program": _commit(),
    }


class OtherWork:
    """How busy other programs keep the machine from now on: figures taken beside them are low and scatter."""

    def __init__(self) -> None:
        self._begin = self._used()

    def cores(self) -> float:
        """The cores that others used, on average; the kernel's own threads count as others."""
        total, ours, wall = (now - then for now, then in zip(self._used(), self._begin, strict=True))
        return max(0.0, total - ours) / wall

    @staticmethod
    def _used() -> tuple[float, float, float]:
        """Seconds of processor time used by everybody, by this process and its children, and of real time."""
        user, nice, system, _, _, irq, softirq = map(int, _read("/proc/stat").split(maxsplit=8)[1:8])
        times = os.times()
        return (
            (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK"),
            times.user + times.system + times.children_user + times.children_system,
            times.elapsed,
        )


def markdown(bench: Bench, known: dict[str, str], options: str) -> str:
    """The whole report; ``options`` is the command line that made it."""
    figures = [(one.case, one.subject, f"{with_range(one.values)} {one.unit}") for one in bench.figures]
    sections = [
        "# What `make bench` measured",
        f"Made by `python -m tests.bench{options}`; do not edit (the texts on limits are in `tests/bench/limits.py`).",
        f"How: see `tests/bench/__init__.py`. Medians of {bench.rounds} rounds (range); ratios are taken in a round.",
        _table(("", ""), known.items()),
        "## Aims",
        _table(("case", "measured", "aim", "met", "limited by"), _verdicts(bench)),
        "## Figures",
        _table(("case", "subject", "median (range)"), figures),
        "## Commands",
        "`$S` is the scratch folder.",
        "```\n" + "\n".join(f"# {label}\n{command}" for label, command in bench.commands.items()) + "\n```",
    ]
    return "\n\n".join(sections) + "\n"


def plain(bench: Bench) -> str:
    """The aims, for a terminal."""
    rows = [("case", "measured", "aim", "met"), *(row[:4] for row in _verdicts(bench))]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _verdicts(bench: Bench) -> list[tuple[str, str, str, str, str]]:
    words = {True: "yes", False: "no", None: "-"}
    return [(one.case, one.measured, one.aim, words[one.met], limit(one.key)) for one in bench.verdicts]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _commit() -> str:
    try:
        commit = run("git", "rev-parse", "--short", "HEAD").strip()
        changes = run("git", "status", "--porcelain", "--untracked-files=no", "ovafs")
    except (RuntimeError, FileNotFoundError):
        return f"ovafs {importlib.metadata.version('ovafs')}"
    return f"ovafs {importlib.metadata.version('ovafs')}, commit {commit}{' with changes' if changes else ''}"


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")
