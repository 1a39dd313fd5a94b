"""``mount -t ovafs`` and lines of fstab, by util-linux; the helper is put in its place in a private mount namespace."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import REPOSITORY, Result, ovafs, run

if TYPE_CHECKING:
    from pathlib import Path

HELPER = REPOSITORY / "mount_helpers" / "mount.ovafs"


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A folder with the commands ``ovafs`` and ``mount.ovafs`` of this checkout."""
    folder = tmp_path / "commands"
    folder.mkdir()
    (folder / "ovafs").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ovafs "$@"\n', encoding="utf-8")
    (folder / "ovafs").chmod(0o755)
    shutil.copy(HELPER, folder)
    return folder


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    pool = tmp_path / "pool"
    ovafs("pool", "create", pool)
    run("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "disk.qcow2", "64M")
    ovafs("vm", "add", pool, "web", "--disk", tmp_path / "disk.qcow2")
    (tmp_path / "mnt").mkdir()
    return pool


def in_namespace(commands: Path, folder: Path, script: str, status: int | None = 0) -> Result:
    """Run a shell script as root where ``commands`` is laid over /usr/sbin; what it mounts on mnt ends with it."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    trap = "trap 'if mountpoint -q mnt; then umount mnt; fi' EXIT"
    overlay = f'mount -t overlay -o "lowerdir={commands}:/usr/sbin" overlay /usr/sbin'
    return run(
        *("unshare", "--mount", "--propagation", "private", "sh", "-c", f"set -e; {overlay}; {trap}; {script}"),
        cwd=folder,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        status=status,
    )


def test_mount_by_type(commands: Path, pool: Path, tmp_path: Path) -> None:
    script = "mount -t ovafs -o allow_other,mode=0444 pool mnt; stat -c '%A %n' mnt/vms/*; findmnt -no FSTYPE mnt"
    result = in_namespace(commands, tmp_path, script)
    assert result.stdout.splitlines() == ["-r--r--r-- mnt/vms/web.ova", "fuse.ovafs"]


def test_mount_from_fstab(commands: Path, pool: Path, tmp_path: Path) -> None:
    options = "defaults,noauto,nofail,user,_netdev,x-systemd.automount,allow_other,uid=1234"
    (tmp_path / "fstab").write_text(f"{pool} {tmp_path}/mnt ovafs {options} 0 0\n", encoding="utf-8")
    script = f"mount -T fstab {tmp_path}/mnt; stat -c '%u %n' mnt/vms/*"
    assert in_namespace(commands, tmp_path, script).stdout == "1234 mnt/vms/web.ova\n"


def test_an_option_that_nobody_knows(commands: Path, pool: Path, tmp_path: Path) -> None:
    result = in_namespace(commands, tmp_path, "mount -t ovafs -o colour=red pool mnt", status=None)
    assert result.returncode == 32
    assert "colour=red" in result.stderr


def test_a_source_that_is_no_pool(commands: Path, pool: Path, tmp_path: Path) -> None:
    result = in_namespace(commands, tmp_path, "mount -t ovafs mnt mnt", status=None)
    assert result.returncode == 32
    assert "mnt" in result.stderr


@pytest.mark.parametrize("arguments", [(), ("pool",), ("pool", "mnt", "rest"), ("pool", "mnt", "-q")])
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    assert "usage: mount.ovafs" in run("sh", HELPER, *arguments, status=1).stderr


def test_a_mount_that_is_only_tried(tmp_path: Path) -> None:
    """``mount --fake`` hands on -f, which must not become the -f of ``ovafs mount``."""
    assert run("sh", HELPER, tmp_path, tmp_path, "-f", "-v", "-o", "rw").stdout == ""
