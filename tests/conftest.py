"""What holds for every test: no unexpected warning, nothing left behind, and in CI no silent skip."""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.leaks import left_over, resources
from tests.support.shared import SHARED

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

_PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    if report.when == "call":
        item.stash[_PASSED] = report.passed
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """In CI (the variable ``CI`` is set) a test that did not run is a test that failed."""
    if not report.skipped or hasattr(report, "wasxfail") or not os.environ.get("CI"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not _may_skip(reason):
        report.outcome = "failed"
        report.longrepr = f"a skip counts as a failure in CI: {reason}"


def _may_skip(reason: str) -> bool:
    """What a complete machine may lack: samples that are no part of the project, and a root who runs the tests."""
    return (reason == "../shared is absent" and not SHARED.is_dir()) or ("root" in reason and os.geteuid() != 0)


@pytest.fixture(autouse=True)
def _nothing_left_over(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Open files, child processes, threads and mounts of a test are gone when it has passed.

    Not asked after a failure, whose traceback keeps the objects of the test alive.
    """
    folder = tmp_path_factory.getbasetemp()
    before = resources(folder)
    yield
    if request.node.stash.get(_PASSED, False):
        left = left_over(folder, before)
        if left:
            pytest.fail(f"left behind: {', '.join(sorted(left))}")


class _Recorder(logging.Handler):
    """Keeps every record of level WARNING and above, and the patterns that the test announced."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self.expected: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(f"{record.levelname} {record.name}: {record.getMessage()}")

    def judge(self) -> None:
        """Fail unless the messages and the expectations match each other."""
        unexpected = [text for text in self.messages if not any(re.search(one, text) for one in self.expected)]
        missing = [one for one in self.expected if not any(re.search(one, text) for text in self.messages)]
        if unexpected or missing:
            pytest.fail(f"log: unexpected {unexpected}, expected but missing {missing}")


@pytest.fixture(autouse=True)
def _log_check(_nothing_left_over: None, request: pytest.FixtureRequest) -> Iterator[_Recorder]:
    """A warning or an error in the log fails the test, unless ``expect_log`` announced it."""
    recorder = _Recorder()
    root = logging.getLogger()
    root.addHandler(recorder)
    yield recorder
    root.removeHandler(recorder)
    if request.node.stash.get(_PASSED, False):
        recorder.judge()


@pytest.fixture
def expect_log(_log_check: _Recorder) -> Callable[[str], None]:
    """Call it with a regular expression: a message of level WARNING or above that contains it must appear.

    Messages read "WARNING ovafs.vfs.tree: text"; daemons of real mounts have ``Mount.expect_log`` instead.
    """
    return _log_check.expected.append
