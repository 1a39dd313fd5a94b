"""The transcript in the README, executed: its commands must print what stands there."""

from __future__ import annotations

import getpass
import re
from typing import TYPE_CHECKING, NamedTuple

from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Step(NamedTuple):
    """A command and what it is to print."""

    command: str
    output: str


def parse(document: str) -> list[Step]:
    """The first ``console`` block of a Markdown text: lines that begin with ``$`` are commands."""
    block = document.split("```console\n", 1)[1].split("```", 1)[0]
    steps: list[Step] = []
    for line in block.splitlines(keepends=True):
        if line.startswith("$ "):
            steps.append(Step(line[2:].rstrip("\n"), ""))
        else:
            steps[-1] = Step(steps[-1].command, steps[-1].output + line)
    return steps


def execute(step: Step, folder: Path, environment: Mapping[str, str]) -> str:
    """What the command prints on standard output and standard error together."""
    result = run("bash", "-c", f"exec 2>&1; {step.command}", cwd=folder, env=environment)
    return result.stdout


# Everything that is bound to differ from one run to the next, and nothing else.
_VOLATILE = (
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID"),
    (r"[A-Z][a-z]{2} [ \d]\d (\d\d:\d\d| \d{4})", "DATE"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d", "DATE"),
    (rf"\b(root|{re.escape(getpass.getuser())})\b", "USER"),
)


def neutral(output: str) -> str:
    """The output with dates, times, UUIDs and user names blotted out."""
    for pattern, word in _VOLATILE:
        output = re.sub(pattern, word, output)
    return output
