"""Programs that copy what cannot be imported: each exits with an error and says which, and nothing is left.

The package is cut off, or not the one that its manifest is of, or the pool has no room for it.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.drop import MIB, Place, place_in
from tests.support.filesystems import on_loop
from tests.support.packages import import_pool
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOOLS = {
    "cp": "cp $S $D",
    "cp -a": "cp -a $S $D",
    "mv": "mv $S $D",
    "install": "install $S $D",
    "rsync": "rsync $S $D",
    "rsync --inplace": "rsync --inplace $S $D",
    "rsync --delay-updates": "rsync --delay-updates $S $D",
    "dd": "dd if=$S of=$D bs=1M",
    "dd bs=7000": "dd if=$S of=$D bs=7000",
    "dd conv=fsync": "dd if=$S of=$D bs=1M conv=fsync",
    "cat": "cat $S > $D",
    "tee": "tee $D < $S > /dev/null",
    "tar": "tar -C ${S%/*} -cf - ${S##*/} | tar -C ${D%/*} -xf -",
    "curl": "curl -sS -o $D file://$S",
    "gio": "gio copy $S $D",
    "rclone": "rclone --config /dev/null --retries 1 --low-level-retries 1 copyto $S $D",
    "python": "python3 -c 'import shutil, sys; shutil.copy(*sys.argv[1:])' $S $D",
    "rename": "cp $S $D.part && mv $D.part $D",
}

# These say that writing failed, but not why.
SAY_NO_REASON = {"curl"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place_in(tmp_path_factory.mktemp("failures")) as place:
        yield place
    assert os.listdir(place.pool / "volumes") == []


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A pool on a file system where 2 MiB are free: half of the disk's data."""
    folder = tmp_path_factory.mktemp("full")
    with on_loop(folder, "ext4", "-q", "-m", "0") as disk:
        with import_pool(disk / "pool"):
            pass
        with (disk / "filler").open("wb") as filler:
            space = os.statvfs(disk)
            os.posix_fallocate(filler.fileno(), 0, space.f_bavail * space.f_frsize - 2 * MIB)
        with place_in(folder, pool=disk / "pool") as place:
            yield place
        assert os.listdir(place.pool / "volumes") == []


def fail(place: Place, tool: str, source: Path, reason: str, error: str) -> None:
    """Run the tool, which must fail with ``error``; a report says the ``reason``; then remove what there is."""
    target = place.drop / source.name
    place.mount.expect_log(f"{re.escape(source.name)}[^:]*: not imported")
    result = run(
        "bash", "-e", "-o", "pipefail", "-c", TOOLS[tool], env={"S": str(source), "D": str(target)}, status=None
    )
    assert result.returncode not in {0, None}, result
    if tool not in SAY_NO_REASON:
        assert error.lower() in result.stderr.lower(), result  # rclone writes it in small letters
    assert source.exists()
    report = (place.drop / f"{source.name}.report.txt").read_text()
    assert "NOT IMPORTED" in report
    assert reason in report
    assert place.machines() == []
    run("bash", "-c", "rm -r $D/{*,.[^.]*}", env={"D": str(place.drop)}, status=None)
    assert place.names() == []
    place.assert_nothing_left()


@pytest.mark.parametrize("tool", TOOLS)
def test_a_cut_package(shared: Place, tool: str) -> None:
    source = shared.package(f"cut{list(TOOLS).index(tool)}", cut=3 * MIB)
    fail(shared, tool, source, "is cut off", "Invalid argument")


@pytest.mark.parametrize("tool", TOOLS)
def test_a_package_with_a_wrong_digest(shared: Place, tool: str) -> None:
    source = shared.package(f"corrupt{list(TOOLS).index(tool)}", corrupt=True)
    fail(shared, tool, source, "d.raw", "Invalid argument")


@pytest.mark.parametrize("tool", TOOLS)
def test_a_full_pool(full: Place, tool: str) -> None:
    source = full.package(f"large{list(TOOLS).index(tool)}")
    fail(full, tool, source, "No space left", "No space left on device")
