"""The drop directory of a real mount: what is in it, what becomes of it, and what outlives what."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.drop import DISK, MIB, Place, place_in
from tests.support.filesystems import in_memory
from tests.support.packages import archive, small_package
from tests.support.pools import eventually
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as own:
        yield own


def test_times_and_mode_are_kept_and_rsync_sends_nothing_again(place: Place) -> None:
    source = place.package("web")
    os.utime(source, (1_600_000_000, 1_600_000_000))
    source.chmod(0o640)
    run("rsync", "-a", source, f"{place.drop}/")
    status = (place.drop / "web.ova").stat()
    assert (status.st_size, status.st_mtime, status.st_mode & 0o777) == (source.stat().st_size, 1_600_000_000, 0o640)
    assert run("rsync", "-ai", source, f"{place.drop}/").stdout == ""
    place.assert_imported("web")


def test_what_is_no_package_is_refused_at_once(place: Place) -> None:
    source = place.folder / "junk"
    source.write_bytes(b"this is not a package\n" * 100)
    place.mount.expect_log("junk.ova: not imported")
    result = run("cp", source, place.drop / "junk.ova", status=1)
    assert "Invalid argument" in result.stderr
    assert "Nothing was registered" in (place.drop / "junk.ova.report.txt").read_text()
    run("rm", place.drop / "junk.ova", place.drop / "junk.ova.report.txt")
    assert place.names() == []
    place.assert_nothing_left()


@pytest.mark.parametrize("command", ["cp $S $D/disk.iso", "mkdir $D/machines", "ln -s x $D/x.ova", "mkfifo $D/x.ova"])
def test_names_that_never_become_a_machine_are_refused(place: Place, command: str) -> None:
    if "disk.iso" in command or "machines" in command:
        place.mount.expect_log(r"cannot become a machine; packages are expected here: NAME\.ova")
    run("bash", "-ec", command, env={"S": str(place.package("web")), "D": str(place.drop)}, status=1)
    assert place.names() == []


def test_empty_files_are_nothing_yet(place: Place) -> None:
    target = place.drop / "web.ova"
    run("touch", target)
    assert target.stat().st_size == 0
    run("cp", place.package("web"), target)
    place.assert_imported("web")


def test_two_writers_of_one_name(place: Place) -> None:
    source, target = place.package("web"), place.drop / "web.ova"
    with target.open("wb") as first:
        first.write(source.read_bytes())
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            with pytest.raises(OSError) as caught:
                os.open(target, flags)
            assert caught.value.errno == errno.EBUSY
    place.assert_imported("web")


def test_a_receipt_outlives_the_mount_and_its_removal_keeps_the_machine(tmp_path: Path) -> None:
    with place_in(tmp_path) as place:
        run("cp", "-a", place.package("web"), place.drop)
        run("chmod", "604", place.drop / "web.ova")
        before = (place.drop / "web.ova").stat()
    with place_in(tmp_path) as place:
        after = (place.drop / "web.ova").stat()
        assert [getattr(after, field) for field in ("st_ino", "st_size", "st_mtime_ns", "st_mode", "st_uid")] == [
            getattr(before, field) for field in ("st_ino", "st_size", "st_mtime_ns", "st_mode", "st_uid")
        ]
        (place.drop / "web.ova").unlink()
        place.assert_imported("web")
    with place_in(tmp_path) as place:
        assert "web.ova" not in place.names()
        run("cp", place.package("other"), place.drop / "web.ova")
        assert (place.drop / "web.ova").stat().st_ino > before.st_ino, "numbers are never used again"


def test_writing_over_a_receipt_imports_again_and_its_failure_harms_nothing(place: Place) -> None:
    source, target = place.package("web"), place.drop / "x.ova"
    run("cp", source, target)
    run("cp", place.package("other"), target)
    place.assert_imported("other")
    place.mount.expect_log("x.ova: not imported")
    run("cp", place.package("third", cut=3 * MIB), target, status=1)
    place.assert_imported("web")
    place.assert_imported("other")


def test_warnings_are_reported_after_success(place: Place) -> None:
    run("cp", place.package("web"), place.drop / "one.ova")
    run("cp", place.package("web"), place.drop / "two.ova")
    assert "the machine is called 'web-2'" in (place.drop / "two.ova.report.txt").read_text()
    with pytest.raises(PermissionError):
        (place.drop / "two.ova.report.txt").write_text("mine")


def test_after_kill_9_in_the_middle_nothing_is_left(tmp_path: Path) -> None:
    with place_in(tmp_path) as place:
        data = place.package("web").read_bytes()
        with contextlib.suppress(OSError), (place.drop / "web.ova").open("wb", buffering=0) as file:
            file.write(data[: 3 * MIB])
            assert len(os.listdir(place.pool / "volumes")) == 1
            place.mount.kill()
    with place_in(tmp_path) as place:
        assert place.names() == []
        place.assert_nothing_left()


def test_the_end_of_the_mount_takes_incomplete_uploads_away(tmp_path: Path) -> None:
    with place_in(tmp_path) as place:
        place.mount.expect_log("web.ova: not imported")
        run("cp", place.package("web", cut=3 * MIB), place.drop, status=1)
        assert len(os.listdir(place.pool / "volumes")) == 1
    assert os.listdir(tmp_path / "pool" / "volumes") == []


def test_what_nobody_continues_is_removed(tmp_path: Path) -> None:
    with place_in(tmp_path, "keep_partial=1s") as place:
        place.mount.expect_log("web.ova: not imported")
        place.mount.expect_log("web.ova: removed: nothing was written for too long")
        run("cp", place.package("web", cut=3 * MIB), place.drop, status=1)
        eventually(lambda: place.names() == [], "upload and report are gone")
        place.assert_nothing_left()
        run("cp", place.package("web"), place.drop)
        place.assert_imported("web")


def test_no_space(tmp_path: Path) -> None:
    with in_memory(tmp_path, "tmpfs", "size=3M") as full, place_in(tmp_path, pool=full) as place:
        place.mount.expect_log("web.ova: not imported: .*No space left|web.ova: not imported")
        result = run("cp", place.package("web"), place.drop, status=1)
        assert "No space left on device" in result.stderr
        run("rm", place.drop / "web.ova")
        place.assert_nothing_left()
        small = tmp_path / "small.ova"
        small.write_bytes(archive(small_package(name="small")))
        run("cp", small, place.drop)
        assert (place.mount.path / "vms" / "small.ova").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_other_users_need_the_mode() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        folder.chmod(0o755)
        with place_in(folder, "allow_other", "mode=0444", "drop_mode=0755") as place:
            result = run(
                *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "touch", place.drop / "x.ova"),
                status=1,
            )
            assert "Permission denied" in result.stderr
            run("touch", place.drop / "x.ova")


@pytest.mark.parametrize("option", ["ro", "drop_mode=0"])
def test_no_drop_directory(tmp_path: Path, option: str) -> None:
    with place_in(tmp_path, option) as place:
        assert sorted(os.listdir(place.mount.path)) == ["templates", "vms"]
        assert not place.drop.exists()


def test_raw_volumes(tmp_path: Path) -> None:
    with place_in(tmp_path, "drop_format=raw") as place:
        run("cp", place.package("web"), place.drop)
        (name,) = os.listdir(place.pool / "volumes")
        assert name.endswith(".raw")
        assert (place.pool / "volumes" / name).read_bytes() == DISK


def test_late_data_in_any_order_as_nfs_clients_send_it(place: Place) -> None:
    data = place.package("web").read_bytes()
    pieces = list(range(0, len(data), 1 << 18))
    with (place.drop / "web.ova").open("wb", buffering=0) as file:
        for start in reversed(pieces):
            os.pwrite(file.fileno(), data[start : start + (1 << 18)], start)
            os.fsync(file.fileno())
        eventually((place.mount.path / "vms" / "web.ova").exists, "fsync alone imports what is complete")
    place.assert_imported("web")
