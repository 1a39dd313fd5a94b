"""Disks on the network in libvirt's domain XML: ``<source protocol='…' name='…'>`` and what stands in it.

| element | read |
|---|---|
| ``host`` | one: name and port, or a socket |
| ``auth``, ``identity`` | of ssh: the name of the user |

What says how often and how far is read changes nothing of the content, and is left out. Everything else is refused by
name: it could make another disk of it. Source: https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms.
"""

from __future__ import annotations

import re

from lxml import etree

from ovafs.errors import InvalidDefinition
from ovafs.formats.network_disk import NetworkDisk, network_disk

_HARMLESS = {"host", "readahead", "timeout", "reconnect", "privateData", etree.Comment}
_USERS = {"ssh": ("auth", "identity")}


def read_network_disk(source: etree._Element) -> NetworkDisk:
    """Where a disk is. Raises InvalidDefinition for what is more than that: keys, snapshots."""
    protocol, name = source.get("protocol", ""), source.get("name", "")
    users = _USERS.get(protocol, ())
    _refuse([child.tag for child in source if child.tag not in _HARMLESS and child.tag not in users])
    _refuse([key for key in ("tls", "query") if source.get(key, "no") != "no"])
    if protocol == "ssh" and not name.startswith("/"):
        raise InvalidDefinition(f"{name[:80]!r} is no absolute path")  # QEMU would begin in the user's home
    hosts = source.findall("host")
    if len(hosts) > 1:
        _refuse(["several hosts"])
    place = {key: host.get(key, "") for host in hosts for key in ("name", "port", "socket", "transport")}
    if place.get("transport", "tcp") not in {"", "tcp", "unix"}:
        raise InvalidDefinition(f"the transport {place['transport'][:40]!r} is not supported")
    return network_disk(
        protocol,
        name.removeprefix("/"),
        place.get("name", ""),
        _port(place.get("port", "")),
        place.get("socket", ""),
        _user([child for child in source if child.tag in users]),
    )


def _user(elements: list[etree._Element]) -> str:
    """Who logs in. Raises InvalidDefinition where keys are named, too: QEMU has its own ways to find them."""
    names = [element.get("username", "") for element in elements]
    for element in elements:
        _refuse([child.tag for child in element])
        _refuse([key for key in element.attrib if key not in {"username", "type"}])
    return next(filter(None, names), "")


def _port(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,5}", text):
        raise InvalidDefinition(f"port is {text[:40]!r}, not a number")
    return int(text)


def _refuse(parts: list[object]) -> None:
    if parts:
        raise InvalidDefinition(f"a disk with {str(parts[0])[:40]} is not supported")
