"""The daemon dies while a package is dropped: the pool holds whole machines only, and the next copy imports."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.drop import place_in
from tests.support.killing import MOMENTS
from tests.support.mount import PATIENCE
from tests.support.packages import import_pool
from tests.support.processes import run

if TYPE_CHECKING:
    from pathlib import Path

REGISTERED = {"when the machine is registered", "before the writer hears of it"}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_in_an_import(tmp_path: Path, moment: str) -> None:
    with place_in(tmp_path, program=("tests.support.killing", moment)) as place:
        source = place.package("web")
        os.utime(source, (1_600_000_000, 1_600_000_000))
        result = run("rsync", "-a", source, f"{place.drop}/", status=None)
        assert result.returncode != 0, "a copy that was not acknowledged must not look like one"
        place.mount.process.wait(PATIENCE)
        place.mount.killed = True
        with pytest.raises(OSError, match="not connected"):
            os.listdir(place.mount.path)
    with place_in(tmp_path) as place:
        assert place.machines() == (["web"] if moment in REGISTERED else [])
        with import_pool(place.pool) as pool:
            pool.assert_whole(len(place.machines()))
        # Of a registered machine there is a receipt for rsync --inplace; one with a temporary name came before it.
        run("rsync", "-a", "--inplace", source, f"{place.drop}/")
        place.assert_imported("web")
        assert place.machines() == ["web"], "the copy that was sent again is the machine that was there"
        assert place.names() == ["web.ova"]
        with import_pool(place.pool) as pool:
            pool.assert_whole(1)
