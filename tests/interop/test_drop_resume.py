"""Uploads that were cut off, and the programs that go on where they ended; each ends in an imported machine."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.drop import MIB, Place, place_in
from tests.support.mount import PATIENCE
from tests.support.pools import eventually
from tests.support.processes import ENVIRONMENT, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as own:
        own.mount.expect_log(r"web\.ova.*: not imported: .*is cut off")
        yield own


CUT = 3 * MIB - 1

WAYS = {
    "dd seek=": f"dd if=$S of=$D iflag=skip_bytes oflag=seek_bytes bs=64K skip={CUT} seek={CUT} conv=notrunc",
    "dd oflag=append": f"dd if=$S of=$D iflag=skip_bytes bs=64K skip={CUT} oflag=append conv=notrunc",
    ">>": f"tail -c +{CUT + 1} $S >> $D",
    "tee -a": f"tail -c +{CUT + 1} $S | tee -a $D > /dev/null",
    "curl -C -": "curl -sS -C - -o $D file://$S",
    "rsync --append": "rsync --append $S $D",
    "rsync --append-verify": "rsync --append-verify $S $D",
    "rsync --partial --append-verify": "rsync -a --partial --append-verify $S $D",
    "rsync --inplace": "rsync --inplace --no-whole-file $S $D",
    "rsync -a": "rsync -a $S $D",
    "rsync, delta": "rsync -a --no-whole-file $S $D",
    "rclone": "rclone --config /dev/null copyto $S $D",
    "cp": "cp $S $D",
    "cp, in two ways": f"dd if=$S of=$D bs=1M count=4 conv=notrunc; test $? = 1; tail -c +{4 * MIB + 1} $S >> $D",
    "mv": "mv $S $D",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_cut_upload_is_continued(place: Place, way: str) -> None:
    source, target = place.package("web"), place.drop / "web.ova"
    size = source.stat().st_size
    environment = {"S": str(source), "D": str(target)}
    said = run("bash", "-c", f"head -c {CUT} $S > $D", env=environment, status=1).stderr
    assert "Invalid argument" in said
    assert place.names() == ["web.ova", "web.ova.report.txt"]
    assert target.stat().st_size == CUT
    run("bash", "-c", WAYS[way], env=environment)
    place.assert_imported("web")
    assert place.machines() == ["web"]
    assert place.names() == ["web.ova"]
    assert target.stat().st_size == size


def test_two_appends_and_a_writer_that_dies(place: Place) -> None:
    """A writer that is killed sends what one sends that is done: nothing is imported, everything can go on."""
    source, target = place.package("web"), place.drop / "web.ova"
    command = f"head -c {CUT} $S; sleep 600"
    writer = subprocess.Popen(
        ["bash", "-c", f"exec > $D; {command}"],
        env={**ENVIRONMENT, "S": str(source), "D": str(target)},
        start_new_session=True,
    )
    eventually(lambda: target.exists() and target.stat().st_size == CUT, "what was written is there")
    os.killpg(writer.pid, signal.SIGKILL)
    writer.wait()
    eventually((place.drop / "web.ova.report.txt").exists, "the end of the writer is noticed")
    assert place.machines() == []
    run(
        "bash",
        "-c",
        f"tail -c +{CUT + 1} $S | head -c 1000000 >> $D",
        env={"S": str(source), "D": str(target)},
        status=1,
    )
    run("bash", "-c", f"tail -c +{CUT + 1000001} $S >> $D", env={"S": str(source), "D": str(target)})
    place.assert_imported("web")


def test_the_first_of_two_writers_in_a_group_is_told_that_something_is_missing(place: Place) -> None:
    """Its end looks like the end of the writing; the second goes on."""
    source, target = place.package("web"), place.drop / "web.ova"
    said = run("bash", "-c", "{ head -c 1000001; cat; } < $S > $D", env={"S": str(source), "D": str(target)}).stderr
    assert "Invalid argument" in said
    place.assert_imported("web")


@pytest.mark.parametrize("how", ["--partial", "--partial-dir=.rsync-partial", "--inplace", "--partial --delay-updates"])
def test_rsync_is_interrupted_and_called_again(place: Place, how: str) -> None:
    """A partial file has its final name and looks like a whole one, or waits in a directory of its own."""
    source, target = place.package("web"), place.drop / "web.ova"
    with subprocess.Popen(
        ["rsync", "-a", "--bwlimit=1M", *how.split(), str(source), str(target)],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as rsync:
        eventually(lambda: _largest(place.drop) > MIB, "rsync writes")
        rsync.send_signal(signal.SIGINT)
        # The receiver, a process of its own, renames the partial file; all have ended when nobody has their stderr.
        rsync.communicate(timeout=PATIENCE)
    assert place.machines() == []
    run("rsync", "-a", *how.split(), source, target)
    place.assert_imported("web")
    assert place.machines() == ["web"]
    assert [name for name in place.names() if not name.endswith(".txt")] == ["web.ova"]
    assert run("rsync", "-ai", *how.split(), source, target).stdout == ""


def _largest(folder: Path) -> int:
    """Size of the largest file; directories count little."""
    sizes = run("find", folder, "-printf", "%s\\n", status=None).stdout.split()  # names change meanwhile
    return max(map(int, sizes))
