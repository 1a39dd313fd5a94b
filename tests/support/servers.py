"""Servers of foreign protocols, on loopback or in a network of their own, each with its own settings and state."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.support.pools import eventually
from tests.support.processes import run, started

if TYPE_CHECKING:
    from collections.abc import Iterator

# -- ssh --------------------------------------------------------------------------------------------------------

_SSHD = """
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
StrictModes no
PermitRootLogin yes
UsePAM no
PidFile none
Subsystem sftp internal-sftp
"""

# A server for each connection, over a pipe: it needs no port, and ends with its client.
_SSH = """
Host *
ProxyCommand /usr/sbin/sshd -i -f {folder}/sshd_config -E {folder}/sshd.log
IdentityFile {folder}/user
IdentitiesOnly yes
UserKnownHostsFile {folder}/known_hosts
StrictHostKeyChecking accept-new
BatchMode yes
LogLevel ERROR
"""


def ssh_settings(folder: Path) -> Path:
    """Settings for ``ssh -F``; every host in them is this machine."""
    for name in ("host", "user"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it; elsewhere its service makes it
    (folder / "sshd_config").write_text(_SSHD.format(folder=folder))
    path = folder / "ssh_config"
    path.write_text(_SSH.format(folder=folder))
    return path


# -- Samba ------------------------------------------------------------------------------------------------------

_SMB = """
[global]
smb ports = {port}
interfaces = lo
bind interfaces only = yes
disable netbios = yes
map to guest = Bad User
guest account = {user}
lock directory = {folder}
state directory = {folder}
cache directory = {folder}
private dir = {folder}
pid directory = {folder}
ncalrpc dir = {folder}/ncalrpc
log file = {folder}/log
load printers = no
disable spoolss = yes
rpc start on demand helpers = no
[share]
path = {path}
guest ok = yes
read only = no
"""


class Samba(NamedTuple):
    """A Samba server on loopback that shows one directory to everybody."""

    settings: Path
    port: int

    def client(self, *commands: str) -> tuple[str | Path, ...]:
        """The command line of an smbclient that does this in the share."""
        words: tuple[str | Path, ...] = ("smbclient", "-s", self.settings, "-N", "-p", str(self.port))
        return (*words, "//127.0.0.1/share", "-c", "; ".join(commands))


@contextlib.contextmanager
def samba(folder: Path, path: Path) -> Iterator[Samba]:
    """Needs root: it acts as whoever connects, which is root here."""
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    settings = folder / "smb.conf"
    settings.write_text(_SMB.format(folder=folder, path=path, port=port, user="root"))
    # In a session of its own, because it ends its whole process group; setsid does not fork here.
    command = ("setsid", "smbd", "-F", "--no-process-group", "-s", settings, "-l", folder)
    with started(*command, log=folder / "smbd.log"):
        eventually(lambda: _accepts(port), "smbd answers")
        yield Samba(settings, port)


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


# -- NFS --------------------------------------------------------------------------------------------------------

_GANESHA = """
NFS_CORE_PARAM {{ Protocols = 3; NFS_Port = 12049; MNT_Port = 12048;
                  Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; }}
NFSV4 {{ Graceless = true; RecoveryRoot = "{folder}"; }}
EXPORT {{ Export_Id = 1; Path = "{path}"; Pseudo = "/export"; Access_Type = RW; Squash = No_Root_Squash; SecType = sys;
          Filesystem_Id = 192.168; Attr_Expiration_Time = 1; MaxRead = 1048576; MaxWrite = 1048576;
          FSAL {{ Name = VFS; }} }}
"""

# NFS 3 needs a portmapper, whose port and socket belong to the machine: both run in a network and with a /run of their
# own. Whoever ends the shell ends both.
_NFS = """
mount -t tmpfs tmpfs /run
ip link set lo up
rpcbind -f -w & portmapper=$!
ganesha.nfsd -F -L $FOLDER/ganesha.log -f $FOLDER/ganesha.conf -p $FOLDER/ganesha.pid -N NIV_EVENT & server=$!
trap 'kill $server; wait $server; kill $portmapper; wait $portmapper; exit 0' TERM
wait
"""


class Nfs(NamedTuple):
    """An NFS server in a network of its own, which ``inside`` enters: words in front of a command."""

    inside: tuple[str, ...]
    path: Path

    def url(self, name: str) -> str:
        """Of a file below the exported directory, for libnfs."""
        return f"nfs://127.0.0.1{self.path}/{name}?nfsport=12049&mountport=12048&version=3"


@contextlib.contextmanager
def nfs(folder: Path, path: Path) -> Iterator[Nfs]:
    """Export ``path``, which must be mounted already. Needs root."""
    folder.mkdir()
    (folder / "ganesha.conf").write_text(_GANESHA.format(folder=folder, path=path))
    command = ("unshare", "--net", "--mount", "bash", "-c", _NFS)
    with started(*command, log=folder / "shell.log", env={"FOLDER": str(folder)}) as process:
        server = Nfs(("nsenter", "--target", str(process.pid), "--net"), path)
        probe = (*server.inside, "nfs-ls", server.url(""))
        eventually(lambda: run(*probe, status=None).returncode == 0, "the NFS server answers")
        yield server


# -- HTTP -------------------------------------------------------------------------------------------------------


class _Handler(SimpleHTTPRequestHandler):
    """Serves files, and the rest of a file to who has the begin; ``server.cut`` is where it breaks off."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # the name is http.server's
        data = Path(self.translate_path(self.path)).read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start : getattr(self.server, "cut", None)])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextlib.contextmanager
def http(folder: Path, cut: int | None = None) -> Iterator[str]:
    """The URL under which the files of ``folder`` are; ``cut``: the connection breaks before this byte of a file."""

    def handler(*arguments: object) -> _Handler:
        return _Handler(*arguments, directory=str(folder))  # type: ignore[arg-type]  # as socketserver gives them

    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.cut = cut  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
