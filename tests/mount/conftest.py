"""A pool for each test that asks for one. Modules whose tests only read share one mount of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.pools import pool_builder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.pools import PoolBuilder


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[PoolBuilder]:
    with pool_builder(tmp_path) as builder:
        yield builder
