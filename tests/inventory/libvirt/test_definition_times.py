"""Times of definitions whose source has none."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import SourceError
from ovafs.inventory.libvirt.definition_times import DefinitionTimes, Times

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def test_a_definition_keeps_its_time_and_a_changed_one_gets_another(tmp_path: Path, clock: list[float]) -> None:
    with contextlib.closing(DefinitionTimes(str(tmp_path / "times"))) as times:
        assert times.of([("a", b"1"), ("b", b"1")]) == [Times(1000, 1000)] * 2
        clock[0] = 2000.9
        assert times.of([("a", b"2"), ("b", b"1")]) == [Times(1000, 2000), Times(1000, 1000)]
    clock[0] = 3000
    with contextlib.closing(DefinitionTimes(str(tmp_path / "times"))) as times:
        assert times.of([("b", b"1"), ("a", b"2")]) == [Times(1000, 1000), Times(1000, 2000)]


def test_two_processes_agree(tmp_path: Path, clock: list[float]) -> None:
    with (
        contextlib.closing(DefinitionTimes(str(tmp_path / "times"))) as one,
        contextlib.closing(DefinitionTimes(str(tmp_path / "times"))) as other,
    ):
        one.of([("a", b"1")])
        clock[0] = 2000
        assert other.of([("a", b"1")]) == [Times(1000, 1000)]


def test_without_a_file_times_last_as_long_as_it_is_open(clock: list[float]) -> None:
    with contextlib.closing(DefinitionTimes(None)) as times:
        times.of([("a", b"1")])
        clock[0] = 2000
        assert times.of([("a", b"1")]) == [Times(1000, 1000)]


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "times").write_bytes(b"not a database, for sure" * 100)
    with pytest.raises(SourceError, match="not an SQLite database"):
        DefinitionTimes(str(tmp_path / "times"))
