"""Running programs in tests: what they print is shown when they fail, and none is left behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REPOSITORY = Path(__file__).resolve().parents[2]

# Tools print C messages and UTC times, and Python runs as by default, whatever the machine is set to.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONPATH": str(REPOSITORY),
}

Result = subprocess.CompletedProcess[str]


def run(
    *command: str | Path,
    status: int | None = 0,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    text: str | None = None,
    timeout: float = 120,
) -> Result:
    """Run a program to its end and return its output as text.

    ``text`` goes to its standard input, ``env`` is added to the environment. Fails the test unless the exit
    code is ``status``; None allows any.
    """
    result = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**ENVIRONMENT, **(env or {})},
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
        timeout=timeout,
        check=False,
    )
    if status is not None and result.returncode != status:
        words = " ".join(str(word) for word in command)
        pytest.fail(
            f"exit code {result.returncode}, not {status}: {words}\n"
            f"--- stdout ---\n{result.stdout}\n--- stderr ---\n{result.stderr}"
        )
    return result


def ovafs(
    *arguments: str | Path, status: int | None = 0, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Result:
    """Run the ``ovafs`` command of this checkout as a process of its own."""
    return run(sys.executable, "-m", "ovafs", *arguments, status=status, cwd=cwd, env=env)


@contextlib.contextmanager
def started(
    *command: str | Path, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs beside the test, its output in ``log``; ended at the end if it still runs."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=cwd,
            env={**ENVIRONMENT, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes], patience: float = 10) -> int:
    """Ask a process that a test started to end, by SIGTERM, then SIGKILL; reap it. Returns its exit code."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def is_traced(pid: int) -> bool:
    """Whether strace has attached itself to a process."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return any(line.startswith("TracerPid:") and line.split()[1] != "0" for line in status)
