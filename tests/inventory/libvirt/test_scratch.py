"""Directories for backup jobs: one for each process, and what killed processes leave."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import SourceError, StaleHandle
from ovafs.inventory.inventory import BackupSettings
from ovafs.inventory.libvirt.backups import _qemu_owner
from ovafs.inventory.libvirt.inventory import LibvirtInventory
from ovafs.inventory.libvirt.scratch import ScratchDirectory, abandoned
from tests.support.domains import domain_xml, write_node
from tests.support.processes import ENVIRONMENT

if TYPE_CHECKING:
    from pathlib import Path

MINE = os.getuid(), os.getgid()

HOLDER = """
import sys
from ovafs.inventory.libvirt.scratch import ScratchDirectory
print(ScratchDirectory(sys.argv[1], "jobs-a-", (0, 0)).path, flush=True)
sys.stdin.read()
"""


def found(base: Path, prefix: str = "jobs-a-") -> list[str]:
    with abandoned(str(base), prefix) as paths:
        return list(paths)


def test_a_directory_of_its_own(tmp_path: Path) -> None:
    base = tmp_path / "deep" / "scratch"
    with contextlib.closing(ScratchDirectory(str(base), "jobs-a-", MINE)) as scratch:
        assert stat.S_IMODE(os.stat(scratch.path).st_mode) == 0o700
        assert len({scratch.new_path() for _ in range(5)}) == 5
        assert 0 < scratch.free() <= os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize + (1 << 30)
        assert found(base) == []
        scratch.close()
    assert list(base.iterdir()) == []


def test_it_belongs_to_who_runs_qemu(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give directories away")
    with contextlib.closing(ScratchDirectory(str(tmp_path), "jobs-a-", (64055, 108))) as scratch:
        status = os.stat(scratch.path)
        assert (status.st_uid, status.st_gid) == (64055, 108)


def test_what_a_killed_process_leaves(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        path = holder.stdout.readline().strip()
        assert found(tmp_path) == [], "its process lives"
        holder.send_signal(signal.SIGKILL)
    assert found(tmp_path, "jobs-b-") == [], "another source's"
    assert found(tmp_path) == [path]
    assert list(tmp_path.iterdir()) == [], "it is removed"


def test_what_only_looks_like_one_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "jobs-a-link").symlink_to(tmp_path / "outside")
    (tmp_path / "scratch" / "jobs-a-file").touch()
    assert found(tmp_path / "scratch") == []
    assert (tmp_path / "outside").is_dir()
    assert found(tmp_path / "none") == []


def test_places_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="the path is too long for the sockets of backup jobs; scratch= may have"):
        ScratchDirectory(str(tmp_path / ("x" * 100)), "jobs-12345678-", MINE)
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match=r"no place for backup jobs can be made: .*; give another one: scratch="):
        ScratchDirectory(str(tmp_path / "file" / "scratch"), "jobs-a-", MINE)


@pytest.mark.parametrize(
    ("models", "owner"),
    [
        ("", (0, 0)),
        ("<secmodel><model>apparmor</model><baselabel type='kvm'>x</baselabel></secmodel>", (0, 0)),
        ("<secmodel><model>dac</model><baselabel type='kvm'>+64055:+108</baselabel></secmodel>", (64055, 108)),
        ("<secmodel><model>dac</model></secmodel>", (0, 0)),
    ],
)
def test_who_runs_qemu(models: str, owner: tuple[int, int]) -> None:
    assert _qemu_owner(f"<capabilities><host>{models}</host></capabilities>") == owner


def test_only_what_qemu_runs_can_be_backed_up(tmp_path: Path) -> None:
    uri = write_node(tmp_path / "node.xml", [domain_xml("web")])
    node = tmp_path / "node.xml"
    node.write_text(node.read_text().replace("runstate>5<", "runstate>1<"))
    with contextlib.closing(LibvirtInventory(uri)) as inventory:
        (machine,) = inventory.machines()
        assert inventory.connection.list_domains(lambda _: True).texts[0].is_active
        assert not inventory.can_back_up(machine)


def test_a_domain_that_does_not_run_has_no_backup(tmp_path: Path) -> None:
    uri = write_node(tmp_path / "node.xml", [domain_xml("web")])
    with contextlib.closing(LibvirtInventory(uri, backups=BackupSettings(str(tmp_path / "s")))) as inventory:
        (machine,) = inventory.machines()
        assert not inventory.can_back_up(machine)
        with pytest.raises(StaleHandle, match="web: it was stopped, or its disks changed, since it was looked up"):
            inventory.begin_backup(machine)
    assert not (tmp_path / "s").exists()
