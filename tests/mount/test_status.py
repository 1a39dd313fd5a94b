"""What a mount says about itself, and what ``ovafs status`` makes of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from ovafs.cli import status
from tests.support.drop import MIB, Place, place_in
from tests.support.mount import detach, mounted
from tests.support.pools import raw_image
from tests.support.processes import ovafs, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.pools import PoolBuilder


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path, "keep_partial=2h") as own:
        yield own


def document(place: Place) -> Any:
    return json.loads((place.mount.path / ".ovafs" / "status.json").read_bytes())


def test_it_is_found_and_never_listed(place: Place) -> None:
    control = place.mount.path / ".ovafs"
    assert sorted(os.listdir(place.mount.path)) == ["drop", "templates", "vms"]
    assert os.listdir(control) == ["status.json"]
    assert stat.S_IMODE((control / "status.json").stat().st_mode) == 0o440
    assert stat.S_IMODE(control.stat().st_mode) == 0o550
    assert json.loads(run("cat", control / "status.json").stdout)["pid"] == place.mount.pid
    copy = place.folder / "copy.json"
    run("cp", control / "status.json", copy)
    assert json.loads(copy.read_text())["source"] == str(place.pool)
    assert run("ls", "-la", control).stdout.count("status.json") == 1
    for change in ("open(p, 'w')", "os.unlink(p)", "os.mkdir(p + 'x')", "os.truncate(p, 0)"):
        with pytest.raises(OSError, match=r"Read-only|Permission denied"):
            eval(change, {"p": str(control / "status.json"), "os": os})  # noqa: S307 - of the list above
    with pytest.raises(FileNotFoundError):
        (control / "other").stat()


def test_what_a_mount_is(place: Place) -> None:
    said = document(place)
    assert (said["mountpoint"], said["options"]["keep_partial"]) == (str(place.mount.path), 7200.0)
    assert said["options"]["mode"] == "0440"
    assert said["since"] <= said["now"]
    assert said["machines"] == {"listed": 0, "checked": 0, "broken": 0, "reasons": [], "problem": ""}
    assert said["open"] == []
    assert said["drop"] == {
        "uploads": [],
        "adapting": [],
        "ended": [],
        "allocated": 0,
        "spool_limit": 1 << 30,
        "keep_partial": 7200.0,
    }


def test_an_upload_from_its_beginning_to_its_end(place: Place) -> None:
    place.mount.expect_log("web.ova: not imported")  # the child closes its copy of the descriptor before it begins
    data = place.package("web").read_bytes()
    with (place.drop / "web.ova").open("wb", buffering=0) as file:
        file.write(data[: 3 * MIB])
        os.pwrite(file.fileno(), data[3 * MIB + 5000 : 3 * MIB + 9000], 3 * MIB + 5000)
        said = document(place)["drop"]
        (upload,) = said["uploads"]
        assert (upload["name"], upload["state"], upload["uid"]) == ("web.ova", "receiving", os.getuid())
        assert (upload["received"], upload["position"], upload["waiting"]) == (3 * MIB + 4000, 3 * MIB, 4000)
        assert upload["written"] - upload["begun"] >= 0
        assert said["allocated"] >= MIB
        text = ovafs("status", place.mount.path).stdout
        assert "web.ova: receiving, 3.00 MiB" in text
        file.seek(3 * MIB)
        file.write(data[3 * MIB :])
    said = document(place)
    assert said["drop"]["uploads"] == []
    assert said["drop"]["allocated"] == 0
    (ended,) = said["drop"]["ended"]
    assert (ended["name"], ended["result"], ended["received"]) == ("web.ova", "imported", len(data))
    assert [machine["name"] for machine in ended["machines"]] == ["web"]
    assert said["machines"]["listed"] == 1
    with (place.mount.path / "vms" / "web.ova").open("rb"):
        assert [(one["name"], one["readers"]) for one in document(place)["open"]] == [("web", 1)]
        assert "open: vm web, readers: 1" in ovafs("status", place.pool).stdout


def test_uploads_that_are_cut_or_fail(place: Place) -> None:
    place.mount.expect_log("not imported")
    run("cp", "--sparse=never", place.package("web", cut=3 * MIB), place.drop, status=1)
    (place.folder / "junk").write_bytes(b"junk" * 1000)
    run("cp", place.folder / "junk", place.drop / "junk.ova", status=1)
    said = document(place)["drop"]
    cut, junk = said["uploads"]
    assert (cut["name"], cut["state"], cut["received"]) == ("web.ova", "incomplete", 3 * MIB)
    assert cut["kept_until"] == pytest.approx(cut["written"] + 7200)
    assert said["allocated"] > 0
    assert (junk["name"], junk["state"]) == ("junk.ova", "failed")
    assert "not an OVA" in junk["error"]
    assert [(one["name"], one["result"]) for one in said["ended"]] == [("junk.ova", "failed")]
    text = ovafs("status", status=None).stdout  # other mounts of this host may be dead
    assert "web.ova: incomplete, 3.00 MiB" in text
    assert "junk.ova: failed" in text


def test_a_broken_machine_is_told_once_it_was_looked_at(pool: PoolBuilder, tmp_path: Path) -> None:
    image = raw_image(tmp_path / "a.raw")
    pool.add("good", image)
    pool.add("bad", image._replace(path=tmp_path / "none.raw"))
    with mounted(pool.path, tmp_path, "ro") as mount:
        place = Place(mount, pool.path, tmp_path)
        assert (document(place)["machines"]["listed"], document(place)["machines"]["checked"]) == (2, 0)
        mount.expect_log("bad: .*none.raw")
        os.listdir(mount.path / "vms")
        said = document(place)
        assert said["machines"]["broken"] == 1
        assert said["machines"]["reasons"][0]["name"] == "bad"
        assert "none.raw" in said["machines"]["reasons"][0]["reason"]
        assert said["drop"] is None
        text = ovafs("status", mount.path).stdout
        assert "2 listed, 2 looked at, 1 broken" in text
        assert "no drop directory" in text


def test_a_mount_that_hangs_does_not_hold_up_the_others(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_PATIENCE", 1.0)
    os.kill(place.mount.pid, signal.SIGSTOP)
    try:
        result = CliRunner().invoke(status.status, [str(place.mount.path)])
    finally:
        os.kill(place.mount.pid, signal.SIGCONT)
    assert result.exit_code == 1
    assert f"{place.mount.path} ({place.pool}): does not answer within 1 seconds: its process is" in result.output
    assert ovafs("status", place.mount.path).returncode == 0


def test_dead_mounts_and_none(tmp_path: Path) -> None:
    with place_in(tmp_path) as place:
        (said,) = json.loads(ovafs("status", place.mount.path, "--json").stdout)
        assert (said["problem"], said["status"]["pid"]) == ("", place.mount.pid)
        place.mount.kill()
        result = ovafs("status", place.mount.path, status=1)
        assert f"dead: its process has ended; take it away with 'ovafs umount {place.mount.path}'" in result.stdout
        (said,) = json.loads(ovafs("status", place.pool, "--json", status=1).stdout)
        assert said["status"] is None
        detach(place.mount.path)
    assert "neither a mount point of ovafs nor mounted" in ovafs("status", tmp_path / "mnt", status=1).stderr


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_only_who_may_read_machines_may_read_it() -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        place = stack.enter_context(place_in(folder, "allow_other"))
        path = place.mount.path / ".ovafs" / "status.json"
        other = run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", path, status=1)
        assert "Permission denied" in other.stderr
