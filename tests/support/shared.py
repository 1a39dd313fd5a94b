"""Real-world samples that lie beside the checkout, where a developer has them; they are no part of the project."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.processes import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

SHARED = REPOSITORY.parent / "shared"


def shared_path(name: str) -> Path:
    """The file or folder ``../shared/NAME``; the test is skipped when there is no ``../shared`` at all."""
    if not SHARED.is_dir():
        pytest.skip("../shared is absent")
    path = SHARED / name
    assert path.exists(), f"{path} is missing, though ../shared is there"
    return path
