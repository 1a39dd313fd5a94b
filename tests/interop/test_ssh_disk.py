"""Disks of a host with an SSH server: OpenSSH's, with its agent."""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.engines import wait_until
from tests.support.network_disks import answers, free_port
from tests.support.pools import raw_image
from tests.support.processes import ENVIRONMENT, run, started
from tests.support.servers import ssh_settings

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

# Whoever runs the tests has keys and known hosts of their own, which are neither asked nor changed.
_AT_HOME = 'mount --bind "$1/passwd" /etc/passwd; shift; exec "$@"'


class Host:
    """This machine, as a host with a file; ``home`` is that of the user who asks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.image = raw_image(folder / "a disk.raw").path
        self.pool = folder / "pool"
        self.known_hosts = folder / "home/.ssh/known_hosts"
        self.known_hosts.parent.mkdir(parents=True, mode=0o700)
        user = pwd.getpwuid(os.getuid())
        (folder / "passwd").write_text(f"{user.pw_name}:x:{user.pw_uid}:{user.pw_gid}::{folder}/home:/bin/sh\n")
        self.know((folder / "host.pub").read_text())

    def know(self, key: str) -> None:
        """The host has this key."""
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {key}")

    @property
    def location(self) -> str:
        return f"ssh://127.0.0.1:{self.port}{str(self.image).replace(' ', '%20')}"

    def ovafs(self, *words: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        """A command of the user."""
        namespace = ("unshare", "-m", "bash", "-ec", _AT_HOME, "-", self.folder)
        agent = {"SSH_AUTH_SOCK": str(self.folder / "agent")}
        return run(*namespace, sys.executable, "-m", "ovafs", *words, env={**ENVIRONMENT, **agent}, status=status)

    def add(self, location: str, status: int = 0) -> str:
        """What is said when a machine with this disk is added."""
        return self.ovafs("vm", "add", self.pool, "web", "--disk", f"{location},format=raw", status=status).stderr


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    if os.getuid() != 0:
        pytest.skip("needs root, for a mount namespace")
    ssh_settings(tmp_path)
    made = Host(tmp_path)
    server = (
        "/usr/sbin/sshd",
        "-D",
        "-f",
        tmp_path / "sshd_config",
        "-p",
        str(made.port),
        "-o",
        "ListenAddress=127.0.0.1",
    )
    agent = tmp_path / "agent"
    with contextlib.ExitStack() as stack:
        stack.enter_context(started(*server, log=tmp_path / "sshd.log"))
        stack.enter_context(started("ssh-agent", "-D", "-a", agent, log=tmp_path / "agent.log"))
        wait_until(agent.exists)
        wait_until(lambda: answers(made.port))
        run("ssh-add", "-q", tmp_path / "user", env={**ENVIRONMENT, "SSH_AUTH_SOCK": str(agent)})
        run(sys.executable, "-m", "ovafs", "pool", "create", made.pool)
        yield made


def test_every_byte(host: Host, tmp_path: Path) -> None:
    host.add(host.location)
    host.ovafs("export", host.pool, "web", tmp_path / "out.ova")
    (name,) = (one for one in run("tar", "-tf", tmp_path / "out.ova").stdout.split() if one != "vm.ovf")
    run("tar", "-xf", tmp_path / "out.ova", "-C", tmp_path, name)
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", tmp_path / name, host.image)


def test_a_host_that_is_not_known(host: Host) -> None:
    host.known_hosts.unlink()
    said = host.add(host.location, status=1)
    assert f"ovafs: error: {host.location}: QEMU cannot " in said
    assert "no host key was found in known_hosts" in said
    assert f"'sftp -P {host.port} 127.0.0.1' has to work without a question" in said


def test_a_host_with_another_key(host: Host) -> None:
    host.know((host.folder / "user.pub").read_text())
    assert "does not match the one in known_hosts; this may be a possible attack" in host.add(host.location, status=1)


def test_a_user_without_a_key(host: Host) -> None:
    location = host.location.replace("ssh://", "ssh://nobody@")
    said = host.add(location, status=1)
    assert f"{location}: QEMU cannot " in said
    assert "authenticate" in said


def test_a_file_that_is_not_there(host: Host) -> None:
    host.image.unlink()
    assert "No such file" in host.add(host.location, status=1)
