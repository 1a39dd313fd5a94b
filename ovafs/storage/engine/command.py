"""What qemu-nbd is told: QEMU's own block device options (QEMU docs/interop/qapi, ``BlockdevOptions``), as JSON.

Nothing is left to QEMU's judgement: the format is given, never probed; files are given by their descriptors, so that
what is opened is what was locked and looked at, whatever the path leads to by now; and what an image names is given,
too, or null, so that no file is opened because an image names it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeAlias

from ovafs.model import DiskFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ovafs.formats.network_disk import NetworkDisk

PROGRAM = "qemu-nbd"

_KEY_ID = "key"

Options: TypeAlias = "Mapping[str, str | bool | int | Options | None]"

# The shell writes what the process is into its pid file before it becomes the program, so that there is no moment in
# which the program runs and nothing tells of it. The kernel ends the program with the thread that started it.
_SCRIPT = 'read -r stat </proc/$$/stat && echo "$stat" >"$0" && exec setpriv --pdeathsig KILL -- "$@"'


def path_of(descriptor: int) -> str:
    """The path by which the process finds a file that it has as an open descriptor."""
    return f"/proc/self/fd/{descriptor}"


def open_file(descriptor: int, *, is_block_device: bool = False) -> Options:
    """A file that the process has as an open descriptor. QEMU's locks are left out: they are taken already."""
    driver = "host_device" if is_block_device else "file"
    return {"driver": driver, "filename": path_of(descriptor), "locking": "off"}


def image(
    form: DiskFormat,
    file: Options,
    *,
    backing: Options | None = None,
    data_file: Options | None = None,
    is_encrypted: bool = False,
) -> Options:
    """An image in a file, with the other files that are given, and without any that it may name.

    One that ``is_encrypted`` is opened with the secret that is given to :func:`serve`.
    """
    options: dict[str, str | bool | Options | None] = {"driver": form.value, "file": file, "backing": backing}
    if data_file is not None:
        options["data-file"] = data_file
    if is_encrypted and form == DiskFormat.LUKS:
        options["key-secret"] = _KEY_ID
    elif is_encrypted:
        options["encrypt"] = {"format": "luks", "key-secret": _KEY_ID}
    return options


def split_vmdk(descriptor: Options, extents: int) -> Options:
    """A VMDK of several files, whose descriptor was written for this: it names them by :func:`path_of`."""
    children = {f"extents.{number}": _UNLOCKED for number in range(extents)}
    return {"driver": DiskFormat.VMDK.value, "file": descriptor, "backing": None, **children}


_UNLOCKED: Options = {"driver": "file", "locking": "off"}


def network_disk(disk: NetworkDisk) -> Options:
    """A raw disk on the network."""
    return {"driver": DiskFormat.RAW.value, "file": _PROTOCOLS[disk.protocol](disk)}


def _nbd(disk: NetworkDisk) -> Options:
    server: Options = (
        {"type": "unix", "path": disk.socket}
        if disk.socket
        else {"type": "inet", "host": disk.host, "port": str(disk.port)}
    )
    return {"driver": "nbd", "server": server, "export": disk.name}


def _http(disk: NetworkDisk) -> Options:
    return {"driver": disk.protocol, "url": disk.location}


def _iscsi(disk: NetworkDisk) -> Options:
    target, _, lun = disk.name.partition("/")
    host = f"[{disk.host}]" if ":" in disk.host else disk.host
    portal = f"{host}:{disk.port}"
    return {"driver": "iscsi", "transport": "tcp", "portal": portal, "target": target, "lun": int(lun)}


def _ssh(disk: NetworkDisk) -> Options:
    """By sftp. A host that is not known by its key is nobody to believe: QEMU looks into the files of OpenSSH."""
    options: dict[str, Options | str] = {
        "driver": "ssh",
        "server": {"host": disk.host, "port": str(disk.port)},
        "path": f"/{disk.name}",
        "host-key-check": {"mode": "known_hosts"},
    }
    return {**options, "user": disk.user} if disk.user else options


_PROTOCOLS: dict[str, Callable[[NetworkDisk], Options]] = {
    "nbd": _nbd,
    "http": _http,
    "https": _http,
    "iscsi": _iscsi,
    "ssh": _ssh,
}


def serve(options: Options, socket: str, ready: str, secret: int | None = None) -> list[str]:
    """The command that serves a disk, to any number of clients, on a UNIX socket.

    It listens before it has opened the disk; when it has done that, it makes the file ``ready``. ``secret`` is the open
    descriptor of a file with a passphrase, which so stands on no command line.
    """
    node = json.dumps({**options, "read-only": True})
    words = ["--read-only", "--persistent", "--shared=0", f"--socket={socket}", f"--pid-file={ready}"]
    if secret is not None:
        words.append(f"--object=secret,id={_KEY_ID},file={path_of(secret)}")
    return [PROGRAM, *words, f"json:{node}"]


def with_pid_file(command: list[str], path: str) -> list[str]:
    """The command, which leaves the line of ``/proc/PID/stat`` of its process in ``path`` first."""
    return ["/bin/sh", "-c", _SCRIPT, path, *command]
