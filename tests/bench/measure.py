"""Timing of commands, turn by turn, and what comes out: figures and verdicts."""

from __future__ import annotations

import shlex
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path


class Figure(NamedTuple):
    """What was measured of one subject, a value for each round."""

    case: str
    subject: str
    values: Sequence[float]
    unit: str


class Verdict(NamedTuple):
    """An aim and what came of it; ``key`` finds the text on what limits it. ``met`` None: there is no aim."""

    key: str
    case: str
    measured: str
    aim: str
    met: bool | None


@dataclass
class Bench:
    """One run: where it works, how much it does, and what it found."""

    scratch: Path
    quick: bool
    rounds: int
    figures: list[Figure] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    commands: dict[str, str] = field(default_factory=dict)

    def say(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def figure(self, case: str, subject: str, values: Iterable[float], unit: str) -> Figure:
        """Record a figure and show it at once."""
        figure = Figure(case, subject, list(values), unit)
        self.figures.append(figure)
        self.say(f"  {case}: {subject}: {with_range(figure.values)} {unit}")
        return figure

    def judge(self, key: str, case: str, measured: str, aim: str, *, met: bool | None) -> None:
        self.verdicts.append(Verdict(key, case, measured, aim, met))

    def judge_ratio(self, key: str, case: str, ours: Figure, theirs: Figure, at_least: float) -> None:
        """Compare two rates round by round."""
        ratios = [a / b for a, b in zip(ours.values, theirs.values, strict=True)]
        measured = f"{with_range(ratios)} of {theirs.subject}"
        self.judge(key, case, measured, f"at least {at_least:g}", met=statistics.median(ratios) >= at_least)

    def judge_limit(self, key: str, case: str, ours: Figure, below: float) -> None:
        measured = f"{with_range(ours.values)} {ours.unit}"
        self.judge(key, case, measured, f"under {below:g} {ours.unit}", met=statistics.median(ours.values) < below)

    def judge_time(self, key: str, case: str, ours: Figure, theirs: Figure, at_most: float) -> None:
        """Compare two times round by round."""
        ratios = [a / b for a, b in zip(ours.values, theirs.values, strict=True)]
        measured = f"{with_range(ratios)} of {theirs.subject}'s time"
        self.judge(key, case, measured, f"at most {at_most:g}", met=statistics.median(ratios) <= at_most)

    def record(self, label: str, *commands: Sequence[str | Path]) -> None:
        """Keep the first commands of a label for the report, without this run's folders."""
        text = " && ".join(shlex.join(map(str, command)) for command in commands)
        self.commands.setdefault(label, text.replace(str(self.scratch), "$S").replace(sys.executable, "python"))

    def timed(self, label: str, *commands: Sequence[str | Path]) -> float:
        """Run the commands one after the other and return the seconds."""
        self.record(label, *commands)
        started = time.perf_counter()
        for command in commands:
            run(*command)
        return time.perf_counter() - started


def run(*command: str | Path) -> str:
    """Run a command that must succeed; returns what it prints, and shows it when it fails."""
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{shlex.join(map(str, command))} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def take_turns(subjects: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call each subject once a round; the first round warms up and is not counted.

    Every round begins with another subject, because the next one finds what this one left (free memory, dirty pages).
    """
    names = list(subjects)
    values: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            value = subjects[name]()
            if number:
                values[name].append(value)
    return values


def with_range(values: Sequence[float]) -> str:
    """The median, and the range if there is more than one value."""
    median = short(statistics.median(values))
    return median if len(values) == 1 else f"{median} ({short(min(values))}-{short(max(values))})"


def short(value: float) -> str:
    """Three digits that say something."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
