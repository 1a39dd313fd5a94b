from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.support.converter import Converter, RunningPool
from tests.support.packages import ImportPool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[ImportPool]:
    """An empty pool where guests run."""
    with contextlib.closing(ImportPool(tmp_path / "pool")) as opened:
        opened.pool.close()
        opened.pool = RunningPool(str(tmp_path / "pool"))
        yield opened


@pytest.fixture
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Converter:
    """One that succeeds."""
    folder = tmp_path / "bin"
    folder.mkdir()
    made = Converter(folder, monkeypatch)
    made.succeeds()
    return made
