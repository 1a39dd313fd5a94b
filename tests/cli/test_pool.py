"""``ovafs`` itself and ``ovafs pool``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from ovafs import __version__
from ovafs.cli.main import COMMANDS, cli
from tests.support.processes import ENVIRONMENT, ovafs, run

if TYPE_CHECKING:
    from pathlib import Path

UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def test_create(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["pool", "create", str(tmp_path / "pool")])
    assert result.exit_code == 0
    assert re.fullmatch(rf"created pool {tmp_path}/pool \({UUID}\)\n", result.stdout)
    again = CliRunner().invoke(cli, ["pool", "create", str(tmp_path / "pool")])
    assert (again.exit_code, again.stdout) == (1, "")
    assert again.stderr == f"ovafs: error: {tmp_path}/pool is not empty; give a new or an empty directory\n"


def test_version_and_help() -> None:
    assert ovafs("--version").stdout == f"ovafs {__version__}\n"
    text = ovafs("-h").stdout
    assert text == ovafs("--help").stdout
    assert [name for name in COMMANDS if not re.search(rf"^  {name} ", text, re.MULTILINE)] == []


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["pool"], ["pool", "create"], ["vm", "list"], ["vm", "nonsense"]]
)
def test_wrong_usage(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage:")


def test_every_command_has_help() -> None:
    for group in ((), ("pool",), ("vm",)):
        for name in re.findall(r"^  ([a-z]+)  ", _help(*group), re.MULTILINE):
            assert len(_help(*group, name)) > 100


def _help(*words: str) -> str:
    result = CliRunner().invoke(cli, [*words, "--help"])
    assert result.exit_code == 0
    return result.stdout


def test_listing_does_not_load_what_only_a_mount_needs(tmp_path: Path) -> None:
    """A shell that completes a name waits for this."""
    ovafs("pool", "create", tmp_path / "pool")
    script = (
        "import sys; from ovafs.cli.main import cli; cli(['vm', 'list', sys.argv[1]], standalone_mode=False);"
        "print({'trio', 'pyfuse3', 'lxml', 'ovafs.storage', 'ovafs.fuse'} & set(sys.modules))"
    )
    assert run(sys.executable, "-c", script, tmp_path / "pool").stdout.endswith("\nset()\n")


def test_a_pipe_that_nobody_reads(tmp_path: Path) -> None:
    ovafs("pool", "create", tmp_path / "pool")
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        result = subprocess.run(
            [sys.executable, "-m", "ovafs", "vm", "list", str(tmp_path / "pool")],
            stdout=pipe,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            check=False,
        )
    assert (result.returncode, result.stderr) == (1, b"")


def test_a_full_disk_as_output(tmp_path: Path) -> None:
    result = run("sh", "-c", f"{sys.executable} -m ovafs pool create {tmp_path}/pool > /dev/full", status=1)
    assert result.stderr == "ovafs: error: [Errno 28] No space left on device\n"


def test_paths_and_terminals_that_do_not_fit(tmp_path: Path) -> None:
    """Bytes that are not UTF-8, and a character set without the name's characters, are shown escaped."""
    odd = tmp_path / os.fsdecode(b"\xff\xe4")
    latin = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1:strict"}
    assert "\\udcff" in ovafs("pool", "create", odd, env=latin).stdout
    assert ovafs("vm", "list", odd).stdout.startswith("NAME")
    assert "not empty" in ovafs("pool", "create", odd, status=1).stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    assert f"_OVAFS_COMPLETE={shell}_complete" in ovafs("completion", shell).stdout
    assert ovafs("completion", "tcsh", status=2).stderr.startswith("Usage:")
