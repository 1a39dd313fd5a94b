"""libvirt's XML of a snapshot: the domain as it was, and where the content of its disks is kept since.

| element | read |
|---|---|
| ``name``, ``creationTime`` | the latter in seconds since 1970 |
| ``disks/disk`` | ``name`` is a target ("vda"), ``snapshot`` says how its content is kept |
| ``domain`` | the definition at that moment: its disks are the files that the snapshot left as they are |

Source: https://libvirt.org/formatsnapshot.html.
"""

from __future__ import annotations

from typing import NamedTuple

from lxml import etree

from ovafs.errors import InvalidDefinition
from ovafs.formats.domain.read import parse_document


class DomainSnapshot(NamedTuple):
    """``domain`` is XML. The others are targets of disks: whose files nobody writes to since, or that lie inside."""

    name: str
    created: int
    domain: str
    external: frozenset[str]
    internal: frozenset[str]


def read_snapshot(text: str) -> DomainSnapshot:
    """Raises InvalidDefinition for a text that is no snapshot, or that does not say what the domain was."""
    root = parse_document(text, "domainsnapshot")
    domain = root.find("domain")
    name, created = (root.findtext("name") or "").strip(), (root.findtext("creationTime") or "").strip()
    if domain is None or not name or not (created.isascii() and created.isdigit() and len(created) < 12):
        raise InvalidDefinition("the snapshot's XML does not say what the domain was, or when")
    kept = {
        how: frozenset(disk.get("name", "") for disk in root.iterfind("disks/disk") if disk.get("snapshot") == how)
        for how in ("external", "internal")
    }
    return DomainSnapshot(name, int(created), etree.tostring(domain, encoding="unicode"), **kept)
