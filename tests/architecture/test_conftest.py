"""The rules that hold for every test do hold: they are tried on tests that break them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import REPOSITORY, run

if TYPE_CHECKING:
    from pathlib import Path

HEADER = "import logging, os, subprocess\nimport pytest\n"


def outcome(folder: Path, body: str, environment: dict[str, str]) -> str:
    """Run one test with this body under the project's conftest, and return what pytest says."""
    test = folder / "test_it.py"
    test.write_text(f"{HEADER}def test_it(expect_log):\n    {body}\n", encoding="utf-8")
    command = (sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", "/dev/null")
    return run(*command, "--rootdir", folder, test, status=None, cwd=REPOSITORY, env=environment).stdout


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("logging.getLogger('x').warning('boo')", "unexpected ['WARNING x: boo']"),
        ("expect_log('boo')", "expected but missing ['boo']"),
        ("os.open('/etc/passwd', os.O_RDONLY)", "-> /etc/passwd"),
        ("global child; child = subprocess.Popen(['sleep', '1'])", "left behind: child process"),
    ],
)
def test_what_a_test_must_not_do(tmp_path: Path, body: str, complaint: str) -> None:
    printed = outcome(tmp_path, body, {"CI": ""})
    assert "1 passed, 1 error" in printed
    assert complaint in printed


@pytest.mark.parametrize(
    "body", ["expect_log('boo'); logging.error('a boo')", "subprocess.run(['true'])", "logging.info('quiet')"]
)
def test_what_a_test_may_do(tmp_path: Path, body: str) -> None:
    assert "1 passed" in outcome(tmp_path, body, {"CI": ""})


def test_a_skip_fails_in_ci_and_nowhere_else(tmp_path: Path) -> None:
    assert "1 skipped" in outcome(tmp_path, "pytest.skip('no time')", {"CI": ""})
    assert "a skip counts as a failure in CI: no time" in outcome(tmp_path, "pytest.skip('no time')", {"CI": "true"})
