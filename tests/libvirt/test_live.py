"""Running guests, read while they write: one moment of all disks, and a guest that is never harmed."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ovafs.errors import SourceError
from ovafs.inventory.inventory import BackupSettings
from ovafs.inventory.libvirt import backups
from ovafs.inventory.libvirt.inventory import LibvirtInventory
from ovafs.inventory.libvirt.jobs import begin_job
from tests.support.filesystems import in_memory
from tests.support.guests import SIZE, CountingGuest, counters, counting_image
from tests.support.images import convert
from tests.support.libvirtd import own_libvirt
from tests.support.mount import mounted
from tests.support.nbd_servers import writable_disk
from tests.support.oracles import assert_same_disk, check_qcow2, extract
from tests.support.pools import eventually
from tests.support.processes import ovafs, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.libvirtd import Libvirt

pytestmark = pytest.mark.libvirt

# A guest that stands still for longer would show: without a backup the longest gap is a tenth of this.
LONGEST_GAP = 2.0

# The kernel believes a name for a second; cp calls a file that is another one then "replaced", and gives up.
HALF_KNOWN = 1.1


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 64 MiB; made before libvirtd, in whose mount namespace no later one is seen."""
    with in_memory(tmp_path_factory.mktemp("small"), "tmpfs", "size=64M") as folder:
        yield folder


@pytest.fixture(scope="module")
def libvirt(tmp_path_factory: pytest.TempPathFactory, small: Path) -> Iterator[Libvirt]:
    with own_libvirt(tmp_path_factory.mktemp("libvirt")) as running:
        yield running


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Sockets need a short path."""
    with tempfile.TemporaryDirectory(prefix="scratch-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def counting(libvirt: Libvirt, folder: Path, name: str, form: str = "qcow2", depth: int = 1) -> Iterator[CountingGuest]:
    """A guest that counts; undefined at the end."""
    disk = counting_image(folder / f"{name}.{form}", form, depth=depth)
    guest = CountingGuest(libvirt, name, disk, "qcow2" if depth > 1 else form, folder)
    try:
        guest.start()
        yield guest
    finally:
        libvirt.virsh("destroy", name, status=None)
        libvirt.virsh("undefine", name, "--snapshots-metadata")


def job_of(libvirt: Libvirt, name: str) -> str:
    """libvirt's word for what it does with a domain: "None", "Unbounded"."""
    return libvirt.virsh("domjobinfo", name).split("\n", 1)[0].partition(":")[2].strip()


def assert_one_moment(ova: Path, folder: Path) -> int:
    """The disk is a whole qcow2 image of one moment; returns the guest's count then."""
    (disk,) = extract(ova, folder)[1:]
    check_qcow2(disk)
    raw = convert(disk, folder / "raw")
    assert raw.stat().st_size == SIZE
    first, last, between = counters(raw)
    assert last > 0
    assert first in {last, last + 1}
    assert between == last
    return last


@pytest.mark.parametrize(("form", "depth"), [("qcow2", 3), ("raw", 1), ("raw", 2)])
def test_a_copy_of_a_running_guest(libvirt: Libvirt, tmp_path: Path, scratch: Path, form: str, depth: int) -> None:
    with counting(libvirt, tmp_path, "counts", form, depth) as guest:
        guest.wait(100)
        with mounted(libvirt.uri, tmp_path, f"scratch={scratch}") as mount:
            file = mount.path / "vms" / "counts.ova"
            run("ls", "-l", file.parent)
            assert file.stat().st_size > 16 << 20
            assert job_of(libvirt, "counts") == "None", "looking begins nothing"
            before = guest.wait(1)
            run("cp", file, tmp_path / "copy.ova")
            after = guest.wait(200)
            assert before <= assert_one_moment(tmp_path / "copy.ova", tmp_path / "x") <= after
            assert guest.longest_gap() < LONGEST_GAP
            eventually(lambda: job_of(libvirt, "counts") == "None", "the job ends with its last reader")
            assert list(scratch.rglob("*/*")) == []
    assert list(scratch.iterdir()) == []


def test_a_guest_on_a_disk_that_qemu_reads(libvirt: Libvirt, tmp_path: Path, scratch: Path) -> None:
    """A disk on the network: read as a backup while its guest runs, by a process of ovafs's own afterwards."""
    image = counting_image(tmp_path / "remote.raw", "raw")
    with writable_disk(image) as export:
        guest = CountingGuest(libvirt, "remote", image, "raw", tmp_path, export.path)
        guest.start()
        try:
            guest.wait(100)
            with mounted(libvirt.uri, tmp_path, f"scratch={scratch}") as mount:
                file = mount.path / "vms" / "remote.ova"
                assert file.stat().st_size > SIZE, "what it stores is not known, so it may be all"
                before = guest.wait(1)
                run("cp", file, tmp_path / "copy.ova")
                after = guest.wait(100)
                assert before <= assert_one_moment(tmp_path / "copy.ova", tmp_path / "x") <= after
                eventually(lambda: job_of(libvirt, "remote") == "None", "the job ends with its last reader")
                libvirt.virsh("destroy", "remote")
                eventually(lambda: file.stat().st_size < SIZE, "now it is asked what it stores")
                run("cp", file, tmp_path / "later.ova")
                assert assert_one_moment(tmp_path / "later.ova", tmp_path / "y") >= after
        finally:
            libvirt.virsh("destroy", "remote", status=None)
            libvirt.virsh("undefine", "remote")


def test_readers_share_one_moment(libvirt: Libvirt, tmp_path: Path, scratch: Path) -> None:
    with counting(libvirt, tmp_path, "shared") as guest, mounted(libvirt.uri, tmp_path, f"scratch={scratch}") as mount:
        file = mount.path / "vms" / "shared.ova"
        with file.open("rb"):
            run("cp", file, tmp_path / "one.ova")
            guest.wait(200)
            time.sleep(1.5)  # until the mount would look at the machine again
            run("cp", file, tmp_path / "two.ova")
            status = json.loads((mount.path / ".ovafs" / "status.json").read_text())
            (opened,) = status["open"]
            assert opened["name"] == "shared"
            assert opened["backup"]["failure"] == ""
            assert opened["backup"]["scratch_used"] > 0
            assert abs(opened["backup"]["since"] - time.time()) < 60
            assert "it runs, so a backup job holds it since" in ovafs("status", mount.path).stdout
        assert filecmp.cmp(tmp_path / "one.ova", tmp_path / "two.ova", shallow=False)
        eventually(lambda: job_of(libvirt, "shared") == "None", "the job ends")
        run("cp", file, tmp_path / "later.ova")
        later = assert_one_moment(tmp_path / "later.ova", tmp_path / "later")
        assert later > assert_one_moment(tmp_path / "one.ova", tmp_path / "x")


def test_rsync_sees_every_new_state(libvirt: Libvirt, tmp_path: Path, scratch: Path) -> None:
    copy = tmp_path / "copy.ova"
    with counting(libvirt, tmp_path, "synced") as guest, mounted(libvirt.uri, tmp_path, f"scratch={scratch}") as mount:
        counts: list[int] = []
        for _ in range(2):
            run("rsync", "-t", mount.path / "vms" / "synced.ova", copy)
            counts.append(assert_one_moment(copy, tmp_path / f"x{len(counts)}"))
            eventually(lambda: job_of(libvirt, "synced") == "None", "the job ends")
            guest.wait(100)
        assert counts[0] < counts[1]


def test_a_job_whose_begin_was_not_answered_is_ended(
    libvirt: Libvirt, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def lost(*arguments: Any) -> None:
        begin_job(*arguments)
        assert "Backup" in libvirt.virsh("domjobinfo", "unanswered")
        raise SourceError("the connection is lost")

    monkeypatch.setattr(backups, "begin_job", lost)
    settings = BackupSettings(scratch=str(scratch))
    with (
        counting(libvirt, tmp_path, "unanswered"),
        contextlib.closing(LibvirtInventory(libvirt.uri, backups=settings)) as inventory,
    ):
        with pytest.raises(SourceError, match="the connection is lost"):
            inventory.begin_backup(inventory.find("unanswered"))
        assert "None" in libvirt.virsh("domjobinfo", "unanswered")


def test_a_guest_that_is_paused(libvirt: Libvirt, tmp_path: Path, scratch: Path) -> None:
    with counting(libvirt, tmp_path, "paused") as guest, mounted(libvirt.uri, tmp_path, f"scratch={scratch}") as mount:
        libvirt.virsh("suspend", "paused")
        run("cp", mount.path / "vms" / "paused.ova", tmp_path / "copy.ova")
        assert_one_moment(tmp_path / "copy.ova", tmp_path / "x")
        assert libvirt.virsh("domstate", "paused").strip() == "paused"
        libvirt.virsh("resume", "paused")
        guest.wait(10)


def test_started_and_stopped_under_a_mount(libvirt: Libvirt, tmp_path: Path, scratch: Path) -> None:
    with counting(libvirt, tmp_path, "toggled") as guest, mounted(libvirt.uri, tmp_path, f"scratch={scratch}") as mount:
        file = mount.path / "vms" / "toggled.ova"
        for number in range(2):
            run("cp", file, tmp_path / "running.ova")
            assert_one_moment(tmp_path / "running.ova", tmp_path / f"running{number}")
            libvirt.virsh("destroy", "toggled")
            eventually(lambda: file.stat().st_size < 100 << 20, "no room for more is announced of a guest that is off")
            time.sleep(HALF_KNOWN)
            run("cp", file, tmp_path / "stopped.ova")
            assert_one_moment(tmp_path / "stopped.ova", tmp_path / f"stopped{number}")
            guest.start()
            time.sleep(HALF_KNOWN)


def test_an_administrator_can_make_a_snapshot_after_the_copy(libvirt: Libvirt, tmp_path: Path, scratch: Path) -> None:
    with counting(libvirt, tmp_path, "snap") as guest, mounted(libvirt.uri, tmp_path, f"scratch={scratch}") as mount:
        run("cp", mount.path / "vms" / "snap.ova", tmp_path / "copy.ova")
        words = ("--no-metadata", "--disk-only", "--diskspec", f"vda,file={tmp_path / 'top.qcow2'}")
        libvirt.virsh("snapshot-create-as", "snap", *words)
        guest.wait(50)
        run("cp", mount.path / "vms" / "snap.ova", tmp_path / "copy.ova")
        assert_one_moment(tmp_path / "copy.ova", tmp_path / "x")


def test_somebody_elses_job(libvirt: Libvirt, tmp_path: Path, scratch: Path) -> None:
    with counting(libvirt, tmp_path, "theirs"), mounted(libvirt.uri, tmp_path, f"scratch={scratch}") as mount:
        mount.expect_log("libvirt works on this domain")
        text = tmp_path / "job.xml"
        text.write_text(
            f"<domainbackup mode='pull'><server transport='unix' socket='{scratch}/theirs'/><disks>"
            f"<disk name='vda'><scratch file='{tmp_path}/theirs'/></disk></disks></domainbackup>"
        )
        libvirt.virsh("backup-begin", "theirs", text)
        result = run("cp", mount.path / "vms" / "theirs.ova", tmp_path / "copy.ova", status=1)
        assert "Device or resource busy" in result.stderr
        assert job_of(libvirt, "theirs") == "Unbounded", "theirs goes on"
        libvirt.virsh("domjobabort", "theirs")
        eventually(lambda: job_of(libvirt, "theirs") == "None", "their job ends")
        time.sleep(HALF_KNOWN)  # what went wrong is remembered for a second
        run("cp", mount.path / "vms" / "theirs.ova", tmp_path / "copy.ova")


def assert_reads_fail(file: int) -> None:
    """The next read that asks the mount, and not the kernel's cache, fails with EIO."""

    def read_everywhere() -> None:
        for offset in range(17 << 20, 60 << 20, 1 << 20):
            os.pread(file, 4096, offset)

    with pytest.raises(OSError) as caught:
        read_everywhere()
    assert caught.value.errno == errno.EIO


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY)
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):  # the mount may be dead by then
            os.close(file)


def test_scratch_space_that_fills_up(libvirt: Libvirt, tmp_path: Path, small: Path) -> None:
    """A reader that never closes, and a guest that overwrites its disk: the guest goes on."""
    with (
        counting(libvirt, tmp_path, "full") as guest,
        mounted(libvirt.uri, tmp_path, f"scratch={small}", "scratch_reserve=60MiB") as mount,
    ):
        mount.expect_log(
            "full: .* less than the reserve of 60.0 MiB: the backup was given up so that the guest can go on"
        )
        mount.expect_log("full: read at .*: the backup was given up")
        with opened(mount.path / "vms" / "full.ova") as file:
            os.pread(file, 4096, 1 << 20)
            eventually(lambda: job_of(libvirt, "full") == "None", "the job is given up")
            assert_reads_fail(file)
            guest.wait(500)
            assert libvirt.virsh("domstate", "full").strip() == "running"
            assert guest.longest_gap() < LONGEST_GAP
            assert "failed: " in ovafs("status", mount.path).stdout
        assert os.statvfs(small).f_bavail * os.statvfs(small).f_frsize > 60 << 20, "the scratch files are gone"
        run("cp", mount.path / "vms" / "full.ova", tmp_path / "copy.ova", status=None)


def test_a_guest_that_was_stopped_all_the_same_goes_on(libvirt: Libvirt, tmp_path: Path, small: Path) -> None:
    """With next to no reserve the scratch space is full before that can be seen, and QEMU stops the guest."""
    with (
        counting(libvirt, tmp_path, "stopped") as guest,
        mounted(libvirt.uri, tmp_path, f"scratch={small}", "scratch_reserve=1") as mount,
    ):
        mount.expect_log("stopped: .* less than the reserve of 1 B: the backup was given up")
        mount.expect_log("stopped: QEMU had stopped the guest for want of scratch space; it goes on")
        with opened(mount.path / "vms" / "stopped.ova"):
            with (small / "ballast").open("wb") as ballast:
                ballast.truncate(60 << 20)
                os.posix_fallocate(ballast.fileno(), 0, 60 << 20)
            eventually(lambda: job_of(libvirt, "stopped") == "None", "the job is given up")
            eventually(lambda: libvirt.virsh("domstate", "stopped").strip() == "running", "the guest goes on")
            guest.wait(500)
        (small / "ballast").unlink()


def test_no_room_for_scratch_files(libvirt: Libvirt, tmp_path: Path, small: Path) -> None:
    with (
        counting(libvirt, tmp_path, "noroom") as guest,
        mounted(libvirt.uri, tmp_path, f"scratch={small}") as mount,
    ):
        mount.expect_log("noroom runs, and .* for what it overwrites while it is copied; 1.00 GiB are to stay free")
        result = run("cp", mount.path / "vms" / "noroom.ova", tmp_path / "copy.ova", status=1)
        assert "No space left on device" in result.stderr
        guest.wait(10)


def test_a_guest_that_ends_during_a_copy(libvirt: Libvirt, tmp_path: Path, scratch: Path) -> None:
    with counting(libvirt, tmp_path, "ends") as guest, mounted(libvirt.uri, tmp_path, f"scratch={scratch}") as mount:
        mount.expect_log("ends: ")
        path = mount.path / "vms" / "ends.ova"
        with opened(path) as file:
            os.pread(file, 4096, 1 << 20)
            libvirt.virsh("destroy", "ends")
            assert_reads_fail(file)
        eventually(lambda: list(scratch.rglob("*/*")) == [], "its socket and scratch file are gone")
        time.sleep(HALF_KNOWN)
        run("cp", path, tmp_path / "copy.ova")
        assert_one_moment(tmp_path / "copy.ova", tmp_path / "x")
        guest.start()


def test_libvirtd_restarted_during_a_copy(libvirt: Libvirt, tmp_path: Path, scratch: Path) -> None:
    with counting(libvirt, tmp_path, "stays") as guest, mounted(libvirt.uri, tmp_path, f"scratch={scratch}") as mount:
        mount.expect_log("the connection is lost|cannot be ended yet|the listing stays")
        path = mount.path / "vms" / "stays.ova"
        with opened(path) as file:
            start = os.pread(file, 1 << 20, 0)
            libvirt.restart()
            (tmp_path / "copy.ova").write_bytes(start)
            with (tmp_path / "copy.ova").open("ab") as copy:
                while piece := os.pread(file, 1 << 20, copy.tell()):
                    copy.write(piece)
        assert_one_moment(tmp_path / "copy.ova", tmp_path / "x")
        eventually(lambda: job_of(libvirt, "stays") == "None", "the new libvirtd is asked to end the job")
        guest.wait(10)


def test_a_mount_that_is_killed_leaves_nothing_for_long(libvirt: Libvirt, tmp_path: Path, scratch: Path) -> None:
    with counting(libvirt, tmp_path, "orphan") as guest:
        with (
            mounted(libvirt.uri, tmp_path, f"scratch={scratch}") as mount,
            opened(mount.path / "vms/orphan.ova") as file,
        ):
            os.pread(file, 4096, 1 << 20)
            mount.kill()
        assert job_of(libvirt, "orphan") == "Unbounded"
        with mounted(libvirt.uri, tmp_path, f"scratch={scratch}") as mount:
            mount.expect_log("a backup job of domain .* was left over; it is ended")
            eventually(lambda: job_of(libvirt, "orphan") == "None", "the job is ended")
            run("cp", mount.path / "vms" / "orphan.ova", tmp_path / "copy.ova")
            assert_one_moment(tmp_path / "copy.ova", tmp_path / "x")
        guest.wait(10)
    assert list(scratch.iterdir()) == []


def test_two_mounts_do_not_end_each_others_jobs(libvirt: Libvirt, tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "second").mkdir()
    with (
        counting(libvirt, tmp_path, "both"),
        mounted(libvirt.uri, tmp_path, f"scratch={scratch}") as mount,
        opened(mount.path / "vms" / "both.ova") as file,
    ):
        os.pread(file, 4096, 1 << 20)
        with mounted(libvirt.uri, tmp_path / "second", f"scratch={scratch}") as second:
            second.expect_log("libvirt works on this domain")
            run("cp", second.path / "vms" / "both.ova", tmp_path / "copy.ova", status=1)
        assert job_of(libvirt, "both") == "Unbounded"
        assert len(os.pread(file, 4096, 30 << 20)) == 4096


def test_an_unmount_ends_the_job(libvirt: Libvirt, tmp_path: Path, scratch: Path) -> None:
    with counting(libvirt, tmp_path, "unmounted"):
        with mounted(libvirt.uri, tmp_path, f"scratch={scratch}") as mount:
            (mount.path / "vms" / "unmounted.ova").open("rb").close()
            assert job_of(libvirt, "unmounted") == "Unbounded", "within the time of grace"
        assert job_of(libvirt, "unmounted") == "None"
    assert list(scratch.iterdir()) == []


def test_export_and_check_of_a_running_guest(libvirt: Libvirt, tmp_path: Path) -> None:
    home = tempfile.mkdtemp(prefix="state-")
    environment = {"XDG_STATE_HOME": home}
    try:
        with counting(libvirt, tmp_path, "exported") as guest:
            found = json.loads(ovafs("check", libvirt.uri, "exported", "--json", env=environment).stdout)
            assert [finding["ok"] for finding in found] == [True]
            target = tmp_path / "exported.ova"
            result = ovafs("export", libvirt.uri, "exported", target, env=environment)
            assert result.stdout.startswith(f"{target}: ")
            assert_one_moment(target, tmp_path / "x")
            refused = ovafs("export", libvirt.uri, "exported", target, "--force", "--resume", status=1, env=environment)
            assert "the machine runs: no export of it is resumed" in refused.stderr
            assert job_of(libvirt, "exported") == "None"
            guest.wait(10)
    finally:
        shutil.rmtree(home)


def test_a_thousand_looks_begin_no_job(libvirt: Libvirt, tmp_path: Path, scratch: Path) -> None:
    with counting(libvirt, tmp_path, "looked") as guest, mounted(libvirt.uri, tmp_path, f"scratch={scratch}") as mount:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            run("stat", mount.path / "vms" / "looked.ova")
            assert job_of(libvirt, "looked") == "None"
        assert list(scratch.iterdir()) == []
        guest.wait(10)


def test_domains_with_a_tag(libvirt: Libvirt, tmp_path: Path, scratch: Path) -> None:
    with counting(libvirt, tmp_path, "tagged"), mounted(libvirt.uri, tmp_path, "tag=nightly") as mount:
        assert os.listdir(mount.path / "vms") == []
        words = ("urn:ovafs:domain:1", "--config", "--live", "--key", "ovafs")
        libvirt.virsh("metadata", "tagged", *words, "--set", "<machine><tag>nightly</tag></machine>")
        eventually(lambda: os.listdir(mount.path / "vms") == ["tagged.ova"], "an event tells of the tag")
        libvirt.virsh("metadata", "tagged", *words, "--remove")
        eventually(lambda: os.listdir(mount.path / "vms") == [], "an event tells that it is gone")


def test_external_snapshots_are_machines(libvirt: Libvirt, tmp_path: Path, scratch: Path) -> None:
    options = (f"scratch={scratch}", "snapshots")
    with counting(libvirt, tmp_path, "kept") as guest:
        before = guest.wait(50)
        words = ("--disk-only", "--diskspec", f"vda,file={tmp_path / 'top.qcow2'}")
        libvirt.virsh("snapshot-create-as", "kept", "first", *words)
        after = guest.wait(50)
        with mounted(libvirt.uri, tmp_path, *options) as mount:
            assert sorted(os.listdir(mount.path / "vms")) == ["kept.ova", "kept@first.ova"]
            run("cp", mount.path / "vms" / "kept@first.ova", tmp_path / "first.ova")
            assert job_of(libvirt, "kept") == "None", "what nobody writes to needs no job"
            assert before <= assert_one_moment(tmp_path / "first.ova", tmp_path / "first") <= after
            run("cp", mount.path / "vms" / "kept.ova", tmp_path / "now.ova")
            assert assert_one_moment(tmp_path / "now.ova", tmp_path / "now") >= after
        ovafs("export", libvirt.uri, "kept@first", tmp_path / "exported.ova")
        assert filecmp.cmp(tmp_path / "first.ova", tmp_path / "exported.ova", shallow=False)
        libvirt.virsh("blockcommit", "kept", "vda", "--active", "--pivot", "--wait")
        with mounted(libvirt.uri, tmp_path, *options) as mount:
            mount.expect_log("was written to after the snapshot was made: it is not what it was; remove the snapshot's")
            result = run("cp", mount.path / "vms" / "kept@first.ova", tmp_path / "wrong.ova", status=1)
            assert "Input/output error" in result.stderr
            found = ovafs("check", libvirt.uri, "kept@first", status=1)
            assert "was written to after the snapshot was made" in found.stdout + found.stderr
        libvirt.virsh("snapshot-delete", "kept", "first", "--metadata")


def test_qemu_as_a_user_of_its_own(tmp_path: Path) -> None:
    """As Debian has it: scratch files and sockets are made by who is not root."""
    folder = Path(tempfile.mkdtemp(prefix="ovafs-", dir="/var/tmp"))
    try:
        folder.chmod(0o755)
        with (
            own_libvirt(folder / "libvirt", user="libvirt-qemu") as libvirt,
            counting(libvirt, folder, "user") as guest,
        ):
            with mounted(libvirt.uri, tmp_path, f"scratch={folder / 'state' / 'scratch'}") as mount:
                run("cp", mount.path / "vms" / "user.ova", tmp_path / "copy.ova")
                (jobs,) = (folder / "state" / "scratch").iterdir()
                assert jobs.owner() == "libvirt-qemu"
            assert_one_moment(tmp_path / "copy.ova", tmp_path / "x")
            guest.wait(10)
    finally:
        shutil.rmtree(folder)


def test_internal_snapshots_are_machines_while_nobody_writes(libvirt: Libvirt, tmp_path: Path, scratch: Path) -> None:
    with counting(libvirt, tmp_path, "inner") as guest:
        libvirt.virsh("destroy", "inner")
        libvirt.virsh("snapshot-create-as", "inner", "inside")
        run("qemu-img", "convert", "-O", "raw", "-l", "snapshot.name=inside", guest.disk, tmp_path / "inside.raw")
        guest.start()
        guest.wait(100)
        with mounted(libvirt.uri, tmp_path, f"scratch={scratch}", "snapshots") as mount:
            mount.expect_log("inner@inside: .* another process writes to it")
            file = mount.path / "vms" / "inner@inside.ova"
            assert "Device or resource busy" in run("cp", file, tmp_path / "copy.ova", status=1).stderr
            libvirt.virsh("destroy", "inner")
            time.sleep(HALF_KNOWN)
            run("cp", file, tmp_path / "copy.ova")
            (disk,) = extract(tmp_path / "copy.ova", tmp_path / "x")[1:]
            assert_same_disk(disk, tmp_path / "inside.raw", "qcow2", "raw")
