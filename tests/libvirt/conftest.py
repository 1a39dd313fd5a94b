"""What holds for every test with a hypervisor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import processes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a test stays in the user's own state directory."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setitem(processes.ENVIRONMENT, "XDG_STATE_HOME", str(tmp_path / "state"))
