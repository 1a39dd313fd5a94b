from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.packages import import_pool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.packages import ImportPool


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[ImportPool]:
    """An empty pool that imports."""
    with import_pool(tmp_path / "pool") as opened:
        yield opened
