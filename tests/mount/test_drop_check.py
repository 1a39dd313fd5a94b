"""``drop/.check/`` of a real mount: everything is verified, nothing is stored, and a report says what would be."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.drop import Place, place_in
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as own:
        yield own
        own.assert_nothing_left()


def report(place: Place, name: str) -> str:
    return (place.drop / ".check" / f"{name}.ova.report.txt").read_text(encoding="utf-8")


TOOLS = {
    "cp": "cp $S $D",
    "cp -a": "cp -a $S $D",
    "mv": "cp $S $S.copy && mv $S.copy $D/vm.ova",
    "rsync": "rsync -a $S $D",
    "rsync --delay-updates": "rsync -a --delay-updates $S $D",
    "part": "cp $S $D/vm.ova.part && mv $D/vm.ova.part $D/vm.ova",
    "dd": "dd if=$S of=$D/vm.ova bs=7000 conv=fsync status=none",
}


def test_tools(place: Place) -> None:
    source = place.package("vm")
    check = place.drop / ".check"
    for tool, command in TOOLS.items():
        if tool.startswith("rsync") and shutil.which("rsync") is None:
            pytest.skip("rsync is not installed")
        run("bash", "-ec", command, env={"S": str(source), "D": f"{check}/"})
        assert sorted(os.listdir(check)) == ["vm.ova", "vm.ova.report.txt"], tool
        assert (check / "vm.ova").stat().st_size == source.stat().st_size
        lines = report(place, "vm").splitlines()
        assert lines[0] == "vm.ova: would be imported as vm vm"
        assert "Everything was verified, nothing was stored." in lines
        assert "  disk disk0: qcow2, sata" in lines
        assert lines[-3] == "  nothing"
        assert os.listdir(place.pool / "volumes") == []
        for entry in check.iterdir():
            entry.unlink()
    assert place.names() == []  # the directory itself is not listed
    assert list((place.mount.path / "vms").iterdir()) == []


def test_errors_reach_the_writer(place: Place) -> None:
    check = place.drop / ".check"
    place.mount.expect_log("drop/.check/cut.ova: would not be imported: .*the archive is cut off")
    assert "Invalid argument" in run("cp", place.package("cut", cut=2_000_000), check, status=1).stderr
    assert report(place, "cut").startswith("cut.ova: NOT IMPORTED\n")
    assert place.names() == []


def test_choices_are_checked_and_stay(place: Place) -> None:
    check = place.drop / ".check"
    source = place.package("vm")
    (check / "vm.ova.toml").write_text('name = "other"\nformat = "raw"\n[disks.1]\ninterface = "ide"', encoding="utf-8")
    run("cp", source, check)
    assert "vm.ova: would be imported as vm other\n" in report(place, "vm")
    assert "  disk disk0: raw, ide\n" in report(place, "vm")
    assert sorted(os.listdir(check)) == ["vm.ova", "vm.ova.report.txt", "vm.ova.toml"]
    (check / "vm.ova.toml").write_text("[disks.7]\n", encoding="utf-8")
    assert "Invalid argument" in run("cp", source, check, status=1).stderr
    assert "there is no disk '7' in the package" in report(place, "vm")
    place.mount.expect_log("drop/.check/vm.ova: would not be imported: there is no disk '7'")


def test_nothing_moves_between_checking_and_importing(place: Place) -> None:
    check = place.drop / ".check"
    run("cp", place.package("vm"), check)
    (place.drop / "x.part").touch()
    for source, target in ((check / "vm.ova", place.drop / "vm.ova"), (place.drop / "x.part", check / "x.ova")):
        with pytest.raises(PermissionError):
            source.rename(target)
    (place.drop / "x.part").unlink()
    with pytest.raises(PermissionError):
        check.rmdir()
    with pytest.raises(FileExistsError):
        check.mkdir()
    place.mount.expect_log("vm.ova: cannot be read: the package was only checked; nothing of it is kept")
    with pytest.raises(OSError, match="not supported"):
        (check / "vm.ova").read_bytes()


def test_nothing_is_left_after_the_mount(tmp_path: Path) -> None:
    with place_in(tmp_path) as first:
        run("cp", first.package("vm"), first.drop / ".check")
    with place_in(tmp_path) as second:
        assert os.listdir(second.drop / ".check") == []
        assert second.names() == []
        second.assert_nothing_left()
