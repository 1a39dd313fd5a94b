"""What holds for every test with a hypervisor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import processes
from tests.support.debian_guest import debian_disk as made_debian_disk

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a test stays in the user's own state directory, and nothing needs a KVM that works."""
    monkeypatch.setitem(processes.ENVIRONMENT, "LIBGUESTFS_BACKEND_SETTINGS", "force_tcg")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setitem(processes.ENVIRONMENT, "XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(scope="session")
def debian_disk(pytestconfig: pytest.Config) -> Path:
    """A raw disk that boots; not to be written to."""
    return made_debian_disk(pytestconfig.cache.mkdir("debian"))
