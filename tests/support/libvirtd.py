"""A libvirt of a test's own: a daemon in a mount namespace, with its own configuration, domains and storage pool."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import PATIENCE
from tests.support.processes import run, started

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

# What the daemon finds in its own folders.
_SETTINGS = {
    "etc/qemu.conf": 'namespaces = []\ncgroup_controllers = []\nstdio_handler = "file"\n',
    "etc/libvirtd.conf": 'auth_unix_rw = "none"\nunix_sock_group = "root"\n',
}
_FOLDERS = {
    "etc": "/etc/libvirt",
    "lib": "/var/lib/libvirt",
    "run": "/run/libvirt",
    "log": "/var/log/libvirt",
    "cache": "/var/cache/libvirt",
}


# A copy of somebody's mount in this namespace would keep its file system, and so its process, from ending.
_NO_FUSE = r"""
while read -r _ place kind _; do
    case $kind in fuse*) umount -l "$(printf %b "$place")" || true ;; esac
done </proc/self/mounts
"""


# Without /dev/kvm: guests are to be emulated wherever the tests run. (One that is there and does not work makes libvirt
# look for QEMU's capabilities again at every question, which takes a minute.)
_OWN_DEVICES = """
mkdir "$dev"
mount -t tmpfs none "$dev"
for name in null zero full random urandom tty; do
    touch "$dev/$name"
    mount --bind "/dev/$name" "$dev/$name"
done
mkdir "$dev/pts" "$dev/shm"
mount --bind /dev/pts "$dev/pts"
ln -s pts/ptmx "$dev/ptmx"
mount --rbind "$dev" /dev
"""


# Started again when it ends, in the same mount namespace, until the shell is told to end.
_DAEMON = """
trap 'kill $child; wait $child; exit 0' TERM
while true; do
    libvirtd --pid-file "$pid" &
    child=$!
    wait $child || true
done
"""


class Libvirt:
    """A running daemon; ``images`` is the directory of its storage pool "default"."""

    def __init__(self, folder: Path) -> None:
        self.images = folder / "images"
        self.pid_file = folder / "libvirtd.pid"
        self._folder = folder
        self.uri = f"qemu+unix:///system?socket={folder}/run/libvirt-sock"

    def virsh(self, *words: str | Path, status: int | None = 0) -> str:
        """Output of a command."""
        return run("virsh", "-c", self.uri, *words, status=status).stdout

    def restart(self) -> None:
        """End the daemon and wait for the next; guests go on."""
        pid = int(self.pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        while os.path.exists(f"/proc/{pid}") or run("virsh", "-c", self.uri, "list", status=None).returncode:
            assert time.monotonic() < deadline, "the next libvirtd does not answer"
            time.sleep(0.05)

    def define(self, name: str, devices: str, more: str = "", *, memory: int = 64) -> None:
        """An emulated PC with these devices and so many MiB of memory; ``more`` goes beside it."""
        file = self._folder / f"{name}.xml"
        file.write_text(
            f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>{more}"
            f"<os><type arch='x86_64' machine='pc'>hvm</type></os>"
            f"<devices>{devices}<memballoon model='none'/></devices></domain>"
        )
        self.virsh("define", file)

    def domains(self) -> list[str]:
        """Names, sorted."""
        return sorted(self.virsh("list", "--all", "--name").split())


@contextlib.contextmanager
def own_libvirt(folder: Path, user: str = "root") -> Iterator[Libvirt]:
    """Start one with a storage pool and a network "default" (not running); its guests end with it.

    ``user`` runs QEMU: with root's nobody's permissions are in the way.
    """
    if os.getuid() != 0:
        pytest.skip("needs root, for a mount namespace")
    libvirt = Libvirt(folder)
    for name in (*_FOLDERS, "etc/qemu/networks", "etc/storage", "images"):
        (folder / name).mkdir(parents=True)
    for name, text in _SETTINGS.items():
        (folder / name).write_text(text)
    with (folder / "etc/qemu.conf").open("a") as settings:
        settings.write(f'user = "{user}"\ngroup = "{user}"\n')
    binds = [f"mkdir -p {place} && mount --bind {folder / name} {place}" for name, place in _FOLDERS.items()]
    script = "\n".join([_NO_FUSE, *binds, f"dev={folder / 'dev'}", _OWN_DEVICES, f"pid={libvirt.pid_file}", _DAEMON])
    with started("unshare", "-m", "bash", "-ec", script, log=folder / "libvirtd.log") as process:
        _wait(libvirt, process)
        try:
            libvirt.virsh("pool-define-as", "default", "dir", "--target", libvirt.images)
            libvirt.virsh("pool-start", "default")
            network = folder / "network.xml"
            network.write_text("<network><name>default</name></network>")
            libvirt.virsh("net-define", network)
            yield libvirt
        finally:
            for name in libvirt.virsh("list", "--name").split():
                libvirt.virsh("destroy", name)


def _wait(libvirt: Libvirt, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while run("virsh", "-c", libvirt.uri, "list", status=None).returncode != 0:
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"libvirtd does not answer; its exit code: {process.poll()}")
        time.sleep(0.1)
