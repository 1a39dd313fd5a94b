"""Uploads and receipts of a real mount, read by the tools that compare, continue and synchronise."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.drop import DISK, MIB, Place, place_in
from tests.support.packages import QCOW2, DiskText, archive, converted, descriptor, import_pool, manifest
from tests.support.pools import eventually
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as own:
        yield own


def assert_same(source: Path, target: Path) -> None:
    """By cmp and by digest; and by random reads."""
    run("cmp", source, target)
    digests = run("sha256sum", source, target).stdout.split()
    assert digests[0] == digests[2]
    rng, data = random.Random(1), source.read_bytes()
    with target.open("rb", buffering=0) as file:
        for _ in range(50):
            offset, length = rng.randrange(len(data)), rng.choice((1, 4096, 100_001))
            assert os.pread(file.fileno(), length, offset) == data[offset : offset + length]


def machines(place: Place) -> int:
    with import_pool(place.pool) as pool:
        return len(pool.pool.machines())


def test_receipts_are_read_also_after_a_restart(tmp_path: Path) -> None:
    image = converted(tmp_path, DISK, "qcow2")
    kept = tmp_path / "kept.ova"
    kept.write_bytes(archive({"vm.ovf": descriptor(DiskText("d", len(DISK), QCOW2), name="kept"), "d": image}))
    with place_in(tmp_path, "drop_format=keep") as place:
        raw = place.package("web")
        for source in (raw, kept):
            run("cp", source, place.drop)
            assert_same(source, place.drop / source.name)
        assert place.names() == ["kept.ova", "web.ova"]
    with place_in(tmp_path) as place:
        for source in (raw, kept):
            assert_same(source, place.drop / source.name)
        run("tar", "-C", tmp_path, "-xf", place.drop / "kept.ova", "d")
        assert (tmp_path / "d").read_bytes() == image
        assert machines(place) == 2


def test_an_error_where_nothing_has_the_bytes(place: Place, tmp_path: Path) -> None:
    source = tmp_path / "web.ova"
    image = converted(tmp_path, DISK, "qcow2")
    source.write_bytes(archive({"vm.ovf": descriptor(DiskText("d", len(DISK), QCOW2), name="web"), "d": image}))
    target = place.drop / "web.ova"
    place.mount.expect_log("web.ova: cannot be read")
    run("cp", source, target)
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            target.read_bytes()
        assert caught.value.errno == errno.EOPNOTSUPP
    assert "Operation not supported" in run("cat", target, status=1).stderr
    text = place.mount.log()
    assert text.count("cannot be read: only raw disks, and qcow2 ones imported with the format keep") == 1


def test_a_volume_that_changed_is_an_error(place: Place) -> None:
    source, target = place.package("web"), place.drop / "web.ova"
    run("cp", source, target)
    assert_same(source, target)
    place.mount.expect_log("web.ova: cannot be read")
    with import_pool(place.pool) as pool:
        volume = pool.pool.find("web").disks[0].volume
    change = ("qemu-io", "-f", "qcow2", "-c", "write -P 9 0 64k", volume.path)
    # The kernel tells of the last close only after it has returned, and till then the volume is locked.
    eventually(lambda: run(*change, status=None).returncode == 0, "the volume is no longer locked")
    with pytest.raises(OSError) as caught:
        target.read_bytes()
    assert caught.value.errno == errno.EOPNOTSUPP
    assert place.mount.log().count("web.ova: cannot be read") == 1


RSYNC = {
    "delta": "rsync -a --no-whole-file $N $D",
    "delta, in place": "rsync -a --inplace --no-whole-file $N $D",
    "checksum": "rsync -a --checksum $N $D",
    "whole, in place, of other times": "rsync -a --inplace --ignore-times $N $D",
    "delta, of other times": "rsync -a --no-whole-file --ignore-times $N $D",
}


@pytest.mark.parametrize("name", RSYNC)
def test_rsync_onto_a_receipt(place: Place, name: str) -> None:
    """The same package: nothing is imported again, however it is compared, unless rsync makes a new file."""
    source, target = place.package("web"), place.drop / "web.ova"
    run("cp", source, target)
    os.utime(source, (1_600_000_000, 1_600_000_000))
    run("bash", "-ec", RSYNC[name], env={"N": str(source), "D": str(target)})
    assert_same(source, target)
    assert target.stat().st_mtime == 1_600_000_000
    new_file = name in {"delta", "delta, of other times"}
    assert machines(place) == (2 if new_file else 1)


def test_rsync_sends_only_what_differs_of_a_new_package(place: Place) -> None:
    """A delta transfer reads the old receipt, and imports the new file that it makes."""
    source, target = place.package("web"), place.drop / "web.ova"
    run("cp", source, target)
    data = bytearray(source.read_bytes())
    data[-2 * MIB : -2 * MIB + 5] = b"other"
    source.write_bytes(data)
    os.utime(source, (1_700_000_000, 1_700_000_000))
    said = run("rsync", "-a", "--stats", "--no-whole-file", source, target).stdout.replace(",", "")
    literal = int(re.search(r"Literal data: (\d+)", said)[1])  # type: ignore[index]
    assert literal < 100_000
    assert_same(source, target)
    assert machines(place) == 2


def test_rsync_in_place_of_another_package_is_refused(place: Place) -> None:
    source, target = place.package("web"), place.drop / "web.ova"
    run("cp", source, target)
    before = source.read_bytes()
    source.write_bytes(before[: -2 * MIB] + b"other" + before[-2 * MIB + 5 :])
    os.utime(source, (1_700_000_000, 1_700_000_000))
    said = run("rsync", "-a", "--inplace", "--no-whole-file", source, target, status=11).stderr
    assert "Operation not supported" in said
    assert target.read_bytes() == before
    assert machines(place) == 1


@pytest.mark.parametrize("cut", [700, 100_000, 3 * MIB])
@pytest.mark.parametrize("how", ["--append-verify", "--append", "--inplace --no-whole-file", "--no-whole-file"])
def test_rsync_goes_on(place: Place, how: str, cut: int) -> None:
    """A partial upload is read, found to be the begin of the file, and continued."""
    source, target = place.package("web"), place.drop / "web.ova"
    part = place.package("part", cut=0)
    part.write_bytes(source.read_bytes()[:cut])
    place.mount.expect_log("web.ova: not imported")
    run("cp", part, target, status=1)
    assert_same(part, target)
    run("rsync", *how.split(), source, target)
    assert_same(source, target)
    place.assert_imported("web")
    assert machines(place) == 1


def test_rsync_append_verify_finds_another_begin(place: Place, tmp_path: Path) -> None:
    """It sends the rest, then finds that the digests differ, and would have to write over what was taken in."""
    parts = {"vm.ovf": descriptor(DiskText("d.raw", len(DISK)), name="web"), "d.raw": DISK}
    source, target, part = tmp_path / "web.ova", place.drop / "web.ova", tmp_path / "part.ova"
    source.write_bytes(archive({**parts, "vm.mf": manifest(parts)}))
    part.write_bytes(source.read_bytes()[: 3 * MIB - 1] + b"?")
    place.mount.expect_log("web.ova: not imported")
    run("cp", part, target, status=1)
    assert run("rsync", "--append-verify", source, target, status=None).returncode != 0
    assert machines(place) == 0
    target.unlink()
    run("rsync", "--append-verify", source, target)
    assert_same(source, target)
    assert machines(place) == 1


def test_equal_bytes_may_be_written_again(place: Place) -> None:
    source, target = place.package("web"), place.drop / "web.ova"
    part = place.package("part", cut=0)
    part.write_bytes(source.read_bytes()[: 3 * MIB])
    place.mount.expect_log("web.ova: not imported")
    run("cp", part, target, status=1)
    run("dd", f"if={source}", f"of={target}", "bs=1M", "conv=notrunc", "status=none")
    place.assert_imported("web")
    run("dd", f"if={source}", f"of={target}", "bs=1M", "conv=notrunc", "status=none")
    assert_same(source, target)
    assert machines(place) == 1


def test_unison_and_rclone(place: Place, tmp_path: Path) -> None:
    """unison reads back what it wrote before it renames; rclone hashes what it finds."""
    for program in ("unison", "rclone"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    folder = tmp_path / "packages"
    folder.mkdir()
    for name in ("one", "two"):
        shutil.move(place.package(name), folder)
    environment = {"HOME": str(tmp_path), "UNISON": str(tmp_path / ".unison")}

    def unison() -> None:
        run("unison", "-batch", "-ui", "text", "-perms", "0", "-times", folder, place.drop, env=environment)

    unison()
    for name in ("one", "two"):
        assert_same(folder / f"{name}.ova", place.drop / f"{name}.ova")
        place.assert_imported(name)
    unison()
    run("rclone", "--config", os.devnull, "check", "--download", folder, place.drop, env=environment)
    os.utime(folder / "one.ova", (1_600_000_000, 1_600_000_000))
    run("rclone", "--config", os.devnull, "copy", folder, place.drop, env=environment)
    assert (place.drop / "one.ova").stat().st_mtime == 1_600_000_000
    shutil.copy(folder / "one.ova", folder / "three.ova")
    run("rclone", "--config", os.devnull, "copy", "--checksum", folder, place.drop, env=environment)
    assert_same(folder / "three.ova", place.drop / "three.ova")
    assert machines(place) == 3
