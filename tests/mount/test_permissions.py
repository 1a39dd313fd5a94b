"""Who may enter a mount and read: the kernel decides, by allow_other, owner, group and mode."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import detach, is_mounted, mounted
from tests.support.pools import raw_image
from tests.support.processes import Result, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.pools import PoolBuilder

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")

USER, GROUP = 4242, 4343


@pytest.fixture
def open_folder(pool: PoolBuilder, tmp_path: Path) -> Iterator[Path]:
    """The test's folder, with a pool in it, where every user can go; pytest makes folders for their owner alone."""
    pool.add("disk", raw_image(pool.images / "disk.raw"))
    closed = [folder for folder in (tmp_path, *tmp_path.parents) if folder.stat().st_mode & 0o005 != 0o005]
    modes = {folder: folder.stat().st_mode & 0o7777 for folder in closed}
    for folder, mode in modes.items():
        folder.chmod(mode | 0o005)
    yield tmp_path
    for folder, mode in modes.items():
        folder.chmod(mode)


def as_user(*command: str | Path, user: int = USER, group: int = USER) -> Result:
    return run(
        *("setpriv", "--clear-groups", f"--reuid={user}", f"--regid={group}", "--inh-caps=-all"), *command, status=None
    )


def test_others_cannot_enter_without_allow_other(pool: PoolBuilder, open_folder: Path) -> None:
    with mounted(pool.path, open_folder, "mode=0444") as mount:
        for path in (mount.path, mount.path / "vms", mount.path / "vms" / "disk.ova"):
            result = as_user("ls", "-d", path)
            assert result.returncode != 0
            assert "Permission denied" in result.stderr
        assert (mount.path / "vms" / "disk.ova").read_bytes()


def test_with_allow_other_the_default_mode_is_for_owner_and_group(pool: PoolBuilder, open_folder: Path) -> None:
    with mounted(pool.path, open_folder, "allow_other", f"gid={GROUP}") as mount:
        file = mount.path / "vms" / "disk.ova"
        assert "Permission denied" in as_user("ls", mount.path).stderr
        assert "Permission denied" in as_user("cat", file).stderr
        assert as_user("cmp", file, file, group=GROUP).returncode == 0


def test_the_owner_given_by_option_may_read(pool: PoolBuilder, open_folder: Path) -> None:
    with mounted(pool.path, open_folder, "allow_other", f"uid={USER}", "mode=0400") as mount:
        file = mount.path / "vms" / "disk.ova"
        assert as_user("sha256sum", file).stdout == run("sha256sum", file).stdout
        assert "Permission denied" in as_user("cat", file, user=USER + 1, group=0).stderr


def test_a_wide_mode_lets_everybody_read_and_nobody_write(pool: PoolBuilder, open_folder: Path) -> None:
    with mounted(pool.path, open_folder, "allow_other", "mode=0444") as mount:
        file = mount.path / "vms" / "disk.ova"
        assert as_user("ls", mount.path / "vms").stdout == "disk.ova\n"
        assert as_user("sha256sum", file).stdout == run("sha256sum", file).stdout
        assert "Permission denied" in as_user("sh", "-c", f": > '{file}'").stderr
        assert "denied" in as_user("rm", "-f", file).stderr


def as_nobody(*words: str | Path, status: int = 0) -> Result:
    """``ovafs`` as a user that fusermount3 can find in /etc/passwd. The capability lets him reach a Python anywhere."""
    capability = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    user = ("setpriv", "--clear-groups", "--reuid=nobody", "--regid=nogroup", *capability)
    return run(*user, sys.executable, "-m", "ovafs", *words, status=status)


def test_a_user_can_mount_his_own_pool_only(open_folder: Path, pool: PoolBuilder) -> None:
    """Without root: fusermount3, a private mount, unmounted again by the same user."""
    home = open_folder / "home"
    for folder in (home, home / "mnt"):
        folder.mkdir()
        shutil.chown(folder, "nobody")
    as_nobody("pool", "create", home / "pool")
    as_nobody("vm", "add", home / "pool", "mine")
    as_nobody("mount", home / "pool", home / "mnt")
    try:
        nobody = pwd.getpwnam("nobody")
        listing = as_user("ls", home / "mnt" / "vms", user=nobody.pw_uid, group=nobody.pw_gid)
        assert listing.stdout == "mine.ova\n"
        assert "Permission denied" in as_user("ls", home / "mnt").stderr
        as_nobody("umount", home / "mnt")
        assert os.listdir(home / "mnt") == []
        if "user_allow_other" not in Path("/etc/fuse.conf").read_text().split("\n"):
            refused = as_nobody("mount", home / "pool", home / "mnt", "-o", "allow_other", status=3)
            assert "only root may use allow_other here; add the line 'user_allow_other'" in refused.stderr
        other = as_nobody("mount", pool.path, home / "mnt", status=3)
        assert f"{pool.path}" in other.stderr
        assert not is_mounted(home / "mnt")
    finally:
        detach(home / "mnt")
