"""A guest with an agent: its file systems stand still while a backup begins, and go on whatever happens."""

from __future__ import annotations

import base64
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import processes
from tests.support.debian_guest import MIB
from tests.support.guests import CountingGuest, counting_image
from tests.support.libvirtd import own_libvirt
from tests.support.mount import mounted
from tests.support.oracles import tar_members
from tests.support.pools import eventually
from tests.support.processes import ovafs, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.libvirtd import Libvirt

pytestmark = [pytest.mark.libvirt, pytest.mark.timeout(2400)]  # an emulated guest takes its time

BOOT_SECONDS = 400.0


@pytest.fixture(scope="module")
def libvirt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Libvirt]:
    with own_libvirt(tmp_path_factory.mktemp("libvirt")) as running:
        yield running


class Guest:
    """A Debian that runs, and its agent."""

    def __init__(self, libvirt: Libvirt, folder: Path, disk: Path) -> None:
        self._libvirt = libvirt
        top = folder / "debian.qcow2"
        run("qemu-img", "create", "-f", "qcow2", "-F", "raw", "-b", disk, top)
        libvirt.define(
            "debian",
            f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{top}'/>"
            "<target dev='vda' bus='virtio'/></disk>"
            "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
            memory=512,
        )
        libvirt.virsh("start", "debian")
        eventually(self.is_connected, "the agent is there", patience=BOOT_SECONDS)
        self.wait_for_agent()

    def is_connected(self) -> bool:
        return "state='connected'" in self._libvirt.virsh("dumpxml", "debian")

    def ask(self, command: str, **arguments: object) -> Any:
        """The agent's answer."""
        text = json.dumps({"execute": f"guest-{command}", "arguments": arguments})
        return json.loads(self._libvirt.virsh("qemu-agent-command", "debian", text))["return"]

    def wait_for_agent(self) -> None:
        """Connected is not ready yet."""
        command = ("-c", self._libvirt.uri, "qemu-agent-command", "debian", '{"execute": "guest-ping"}')
        eventually(lambda: run("virsh", *command, status=None).returncode == 0, "it answers", patience=BOOT_SECONDS)

    def run(self, *words: str) -> str:
        """The output of a program in the guest."""
        pid = self.ask("exec", path=words[0], arg=words[1:], **{"capture-output": True})["pid"]
        deadline = time.monotonic() + BOOT_SECONDS
        while not (done := self.ask("exec-status", pid=pid))["exited"]:
            assert time.monotonic() < deadline, words
            time.sleep(0.2)
        assert done["exitcode"] == 0, (words, done)
        return base64.b64decode(done.get("out-data", "")).decode()

    @property
    def is_frozen(self) -> bool:
        return bool(self.ask("fsfreeze-status") == "frozen")


@pytest.fixture(scope="module")
def guest(libvirt: Libvirt, tmp_path_factory: pytest.TempPathFactory, debian_disk: Path) -> Guest:
    return Guest(libvirt, tmp_path_factory.mktemp("guest"), debian_disk)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Sockets need a short path."""
    with tempfile.TemporaryDirectory(prefix="scratch-") as folder:
        yield Path(folder)


def needs_recovery(ova: Path, folder: Path) -> bool:
    """Whether the guest's file system was in use, as dumpe2fs sees it in the copy."""
    disk = tar_members(ova)[-1].name
    run("tar", "xf", ova, "-C", folder, disk)
    raw = folder / "disk.raw"
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", folder / disk, raw)
    run("dd", f"if={raw}", f"of={folder / 'part.raw'}", "bs=1M", f"skip={MIB >> 20}", "conv=sparse")
    features = run("dumpe2fs", "-h", folder / "part.raw").stdout
    assert "has_journal" in features
    return "needs_recovery" in features


@pytest.mark.parametrize(("freeze", "is_clean"), [("auto", True), ("require", True), ("never", False)])
def test_a_copy_has_a_clean_journal(
    libvirt: Libvirt, guest: Guest, tmp_path: Path, scratch: Path, freeze: str, *, is_clean: bool
) -> None:
    guest.run("/bin/sh", "-c", f"echo {freeze} >/mark; sync")
    with mounted(libvirt.uri, tmp_path, f"scratch={scratch}", f"freeze={freeze}") as mount:
        with (mount.path / "vms" / "debian.ova").open("rb") as file:
            assert file.read(1)
            assert not guest.is_frozen
            (one,) = json.loads((mount.path / ".ovafs" / "status.json").read_text())["open"]
            assert one["backup"]["frozen"] is is_clean
            assert ("begun with frozen file systems" in ovafs("status", mount.path).stdout) is is_clean
        run("cp", mount.path / "vms" / "debian.ova", tmp_path / "copy.ova")
    assert needs_recovery(tmp_path / "copy.ova", tmp_path) is not is_clean
    guest.run("/bin/sh", "-c", "echo on >/mark; sync")
    if freeze == "never":  # what must be repaired can be
        run("e2fsck", "-fy", tmp_path / "part.raw", status=None)
    run("e2fsck", "-fn", tmp_path / "part.raw")
    said = run("debugfs", "-R", "cat /mark", tmp_path / "part.raw").stdout
    assert said == f"{freeze}\n"


def test_a_process_that_is_killed_leaves_no_guest_frozen(
    libvirt: Libvirt, guest: Guest, tmp_path: Path, scratch: Path
) -> None:
    """It is killed when the guest is frozen, and the job not begun."""
    script = """if True:
        import os, signal, sys
        from ovafs.inventory.inventory import BackupSettings
        from ovafs.inventory.libvirt import backups
        from ovafs.inventory.source import open_inventory
        def begin_job(*_):
            os.kill(os.getpid(), signal.SIGKILL)
        backups.begin_job = begin_job
        inventory = open_inventory(sys.argv[1], backups=BackupSettings(sys.argv[2]))
        inventory.begin_backup(inventory.find("debian"))
    """
    ended = subprocess.run(
        [sys.executable, "-c", script, libvirt.uri, scratch], env=processes.ENVIRONMENT, check=False, timeout=120
    )
    assert ended.returncode == -signal.SIGKILL
    assert guest.is_frozen
    with mounted(libvirt.uri, tmp_path, f"scratch={scratch}") as mount:
        mount.expect_log("the file systems of domain .* may have been left frozen; they are thawed")
        eventually(lambda: not guest.is_frozen, "it goes on")
    assert guest.run("/bin/cat", "/mark") == "on\n"
    assert list(scratch.iterdir()) == []


def open_fails(path: Path) -> int:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        return error.errno or 0
    return 0


def test_a_guest_without_an_agent(libvirt: Libvirt, tmp_path: Path, scratch: Path) -> None:
    counting = CountingGuest(libvirt, "counting", counting_image(tmp_path / "counting.qcow2"), "qcow2", tmp_path)
    counting.start()
    with mounted(libvirt.uri, tmp_path, f"scratch={scratch}", "freeze=require") as mount:
        mount.expect_log("counting: .*cannot be frozen for a backup, as freeze=require wants: no agent answers")
        assert open_fails(mount.path / "vms" / "counting.ova") == errno.EBUSY
    assert "--freeze" in ovafs("export", tmp_path, "x", tmp_path / "x.ova", "--freeze=require", status=2).stderr
    command = ("export", libvirt.uri, "counting", tmp_path / "x.ova", "--freeze")
    state = {"XDG_STATE_HOME": str(scratch)}
    said = ovafs(*command, "require", status=1, env=state).stderr
    assert "no agent answers in the guest; start qemu-guest-agent" in said
    ovafs(*command, "auto", env=state)
    libvirt.virsh("destroy", "counting")


def test_an_agent_that_does_not_answer(libvirt: Libvirt, guest: Guest, tmp_path: Path, scratch: Path) -> None:
    """The last test with this guest: its agent sleeps from now on, and libvirt believes it to be there."""
    guest.ask("exec", path="/bin/sh", arg=["-c", "sleep 2; kill -STOP $(pidof qemu-ga)"])
    time.sleep(4)
    assert guest.is_connected()
    ova = ("vms", "debian.ova")
    with mounted(libvirt.uri, tmp_path, f"scratch={scratch}", "freeze=require") as mount:
        mount.expect_log("debian: its file systems are not frozen for the backup: .*Guest agent is not responding")
        mount.expect_log("debian: .*cannot be frozen for a backup, as freeze=require wants: .*is not responding")
        mount.expect_log("its file systems cannot be thawed yet")
        mount.expect_log("its file systems may be frozen: 'virsh domfsthaw")
        assert open_fails(mount.path.joinpath(*ova)) == errno.EBUSY
        eventually(lambda: "may be frozen" in mount.log(), "it is said", patience=120)
    with mounted(libvirt.uri, tmp_path, f"scratch={scratch}", "freeze=never") as mount:
        mount.expect_log("may have been left frozen")
        mount.expect_log("it stays so for now: .*Guest agent is not responding")
        run("cp", mount.path.joinpath(*ova), tmp_path / "copy.ova")
    assert needs_recovery(tmp_path / "copy.ova", tmp_path)
    libvirt.virsh("destroy", "debian")
    with mounted(libvirt.uri, tmp_path, f"scratch={scratch}") as mount:
        mount.expect_log("may have been left frozen")
    assert list(scratch.iterdir()) == []
