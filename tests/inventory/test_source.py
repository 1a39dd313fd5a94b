"""What stands behind SOURCE, and what can be imported into."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import SourceError
from ovafs.inventory.pool import Pool, create_pool
from ovafs.inventory.source import is_uri, open_destination, open_pool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    create_pool(str(tmp_path / "pool"))
    with contextlib.closing(Pool(str(tmp_path / "pool"))) as opened:
        yield opened


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("qemu:///system", True),
        ("qemu+ssh://root@host/system", True),
        ("pool", False),
        ("./x:/y", False),
        ("/x", False),
    ],
)
def test_uris(source: str, expected: bool) -> None:
    assert is_uri(source) is expected


def test_a_pool_takes_machines_in_itself(pool: Pool) -> None:
    assert open_destination(pool.path, pool, None) is pool


def test_a_pool_has_one_place_for_volumes(pool: Pool) -> None:
    with pytest.raises(SourceError, match="storage pools are libvirt's"):
        open_destination(pool.path, pool, "default")


def test_a_pool_that_cannot_be_written(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "is_writable", False)
    with pytest.raises(SourceError, match="cannot be written"):
        open_destination(pool.path, pool, None)


def test_only_pools_are_changed() -> None:
    with pytest.raises(SourceError, match="changed by its own tools") as caught:
        open_pool("qemu:///system")
    assert "virsh" in caught.value.hint
