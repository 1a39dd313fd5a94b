"""Disks on the network: where they are, as a URI, which stands in a definition where the path of an image would.

| URI | a disk |
|---|---|
| ``nbd://HOST:PORT/EXPORT`` | of an NBD server; port 10809 unless given |
| ``nbd+unix:///EXPORT?socket=PATH`` | of one that listens on a UNIX socket (NBD's doc/uri.md) |
| ``http://HOST:PORT/PATH``, ``https://…`` | of a web server that gives parts of a file |
| ``iscsi://HOST:PORT/TARGET/LUN`` | of an iSCSI target; port 3260 unless given |
| ``ssh://USER@HOST:PORT/PATH`` | in a file of a host with sftp; port 22, and the user who asks, unless given |

Names are quoted as in every URI (RFC 3986). There are no passwords in it, and users for ssh only. Other protocols are
refused by name: what no test reads, nobody has tried.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from ovafs.errors import InvalidDefinition

PROTOCOLS = ("nbd", "http", "https", "iscsi", "ssh")

_LOCATION = re.compile(r"[a-z][a-z0-9+.-]*://")
_PORTS = {"nbd": 10809, "http": 80, "https": 443, "iscsi": 3260, "ssh": 22}
# Neither begins with a hyphen: settings for ssh make words of a command of them.
_HOST = re.compile(r"[A-Za-z0-9.:_][A-Za-z0-9.:_-]{0,254}")
_USER = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,63}")
_SAFE = "/:,;=@"
_MAX_NAME = 1024


class NetworkDisk(NamedTuple):
    """``name`` is that of the export, a path without the slash in front, or TARGET/LUN.

    There is a ``host``, or instead a ``socket``. Without a ``user`` it is who asks.
    """

    protocol: str
    name: str
    host: str = ""
    port: int = 0
    socket: str = ""
    user: str = ""

    @property
    def location(self) -> str:
        """The URI."""
        name = quote(self.name, safe=_SAFE)
        if self.socket:
            return f"{self.protocol}+unix:///{name}?{urlencode({'socket': self.socket}, quote_via=quote, safe='/')}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.protocol] else f":{self.port}"
        user = f"{self.user}@" if self.user else ""
        return f"{self.protocol}://{user}{host}{port}/{name}"


def is_location(path: str) -> bool:
    """Whether this is a URI, not the path of a file, which is absolute."""
    return bool(_LOCATION.match(path))


def parse_location(text: str) -> NetworkDisk:
    """Raises InvalidDefinition for what is no such URI, or of another protocol."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise InvalidDefinition(f"{text[:200]!r} is no URI of a disk: {error}") from None
    protocol, _, transport = parts.scheme.partition("+")
    user = parts.username if protocol == "ssh" else None
    if parts.username != user or parts.password is not None or parts.fragment:
        raise InvalidDefinition(f"{_shown(host, text)!r} has a user, a password or a fragment, which is not supported")
    name = unquote(parts.path.removeprefix("/"))
    if transport == "unix" and protocol == "nbd":
        sockets = parse_qs(parts.query).get("socket", [])
        if host or len(sockets) != 1:
            raise InvalidDefinition(f"{text[:200]!r} is not of the form nbd+unix:///EXPORT?socket=PATH")
        return network_disk("nbd", name, socket=sockets[0])
    if transport or parts.query:
        raise InvalidDefinition(f"{text[:200]!r} has parts that are not supported")
    if user == "":
        raise InvalidDefinition(f"{text[:200]!r} has an empty user")
    return network_disk(protocol, name, host, port, user=user or "")


def network_disk(
    protocol: str, name: str, host: str = "", port: int | None = None, socket: str = "", user: str = ""
) -> NetworkDisk:
    """A disk from its parts, which are checked. Raises InvalidDefinition."""
    if protocol not in PROTOCOLS:
        raise InvalidDefinition(
            f"the protocol {protocol[:40]!r} is not supported", f"disks can be read by {', '.join(PROTOCOLS)}"
        )
    if len(name) > _MAX_NAME or not name.isprintable() or (not name and protocol != "nbd"):
        raise InvalidDefinition(f"a disk by {protocol} has the name {name[:80]!r}")
    if protocol == "iscsi" and not re.fullmatch(r"[^/]+/[0-9]{1,5}", name):
        raise InvalidDefinition(f"{name[:200]!r} is not of the form TARGET/LUN")
    if socket:
        if protocol != "nbd" or not socket.startswith("/") or len(socket) > _MAX_NAME or not socket.isprintable():
            raise InvalidDefinition(f"{socket[:200]!r} is no socket of an NBD server")
        return NetworkDisk(protocol, name, socket=socket)
    if not _HOST.fullmatch(host):
        raise InvalidDefinition(f"a disk by {protocol} has the host {host[:80]!r}")
    port = _PORTS[protocol] if port is None else port
    if not 0 < port < 1 << 16:
        raise InvalidDefinition(f"a disk by {protocol} has the port {port}")
    if user and (protocol != "ssh" or not _USER.fullmatch(user)):
        raise InvalidDefinition(f"a disk by {protocol} has the user {user[:80]!r}")
    return NetworkDisk(protocol, name, host, port, user=user)


def _shown(host: str, text: str) -> str:
    """The URI as far as it may be shown: not a password."""
    return f"{text.partition('://')[0]}://…{host}"
