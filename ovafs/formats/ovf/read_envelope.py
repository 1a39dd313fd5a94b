"""What a descriptor says for all its systems: files, disks, networks, the configuration, properties."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import InvalidPackage
from ovafs.formats.ovf.read_model import ControllerKind, PackageDisk, PackageFile
from ovafs.formats.ovf.read_xml import attribute, elements, first
from ovafs.formats.ovf.units import size_in_bytes, whole_number
from ovafs.formats.tar_header import MAX_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lxml import etree

MAX_LISTED = 8192
"""Files, and disks, that a descriptor may list."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_FORBIDDEN = re.compile("[\0-\x1f\x7f-\x9f\\\\]")
_PROPERTY = re.compile(r"\$\{([^{}]*)\}")
_RESOURCE = re.compile(r"(?:ovf:)?/{0,2}(disk|file)/(.+)")
_INTERFACES = {
    "ide": ControllerKind.IDE,
    "sata": ControllerKind.SATA,
    "spapr_vscsi": ControllerKind.SCSI,
    "virtio": ControllerKind.VIRTIO,
    "virtio_scsi": ControllerKind.VIRTIO_SCSI,
}
_HREF_HINT = "in an OVA every file is a member of the archive, named relative to the descriptor"


class Resources(NamedTuple):
    """Everything that Items refer to, and the configuration that they are read for.

    ``by_reference`` has the disks by ``disk/ID`` and by ``file/ID``.
    """

    files: dict[str, PackageFile]
    disks: tuple[PackageDisk, ...]
    by_reference: dict[str, PackageDisk]
    configuration: str

    def disk(self, reference: str) -> PackageDisk | None:
        """What ``ovf:/disk/ID``, in any spelling, or the bare id of a disk or of its file, stands for."""
        match = _RESOURCE.fullmatch(reference)
        if match is not None:
            return self.by_reference.get(f"{match[1]}/{match[2]}")
        return self.by_reference.get(f"disk/{reference}") or self.by_reference.get(f"file/{reference}")

    def file(self, reference: str) -> PackageFile | None:
        """What ``ovf:/file/ID`` stands for; of ``ovf:/disk/ID``, the disk's file."""
        match = _RESOURCE.fullmatch(reference)
        if match is not None and match[1] == "file":
            return self.files.get(match[2])
        disk = self.disk(reference)
        return disk.file if disk else None


def read_resources(envelope: etree._Element, systems: list[etree._Element]) -> Resources:
    """References, DiskSection, DeploymentOptionSection and Properties. Raises InvalidPackage."""
    configuration = _default_configuration(envelope)
    properties = _properties([envelope, *systems], configuration)
    files = {file.id: file for file in _files(envelope)}
    sections = elements(envelope, "DiskSection")
    disks = [_disk(element, files, properties) for section in sections for element in elements(section, "Disk")]
    _check_disks(disks)
    by_reference = {f"disk/{disk.id}": disk for disk in disks if disk.id}
    by_reference |= {f"file/{disk.file.id}": disk for disk in reversed(disks) if disk.file}
    return Resources(files, tuple(disks), by_reference, configuration)


def read_networks(envelope: etree._Element) -> tuple[str, ...]:
    """The names of the networks, each once, in their order."""
    sections = elements(envelope, "NetworkSection")
    names = (attribute(network, "name") for section in sections for network in elements(section, "Network"))
    return tuple(dict.fromkeys(names))


def applies(element: etree._Element, configuration: str) -> bool:
    """Whether an element is part of a configuration; most are part of all."""
    named = attribute(element, "configuration").split()
    return not named or configuration in named


def _default_configuration(envelope: etree._Element) -> str:
    """The one marked as default, else the first, as DSP0243 says; "" when there is no choice."""
    section = first(envelope, "DeploymentOptionSection")
    options = [] if section is None else list(elements(section, "Configuration"))
    marked = (option for option in options if attribute(option, "default").strip() in {"true", "1"})
    chosen = next(marked, options[0] if options else None)
    return "" if chosen is None else attribute(chosen, "id")


def _properties(parents: list[etree._Element], configuration: str) -> dict[str, str]:
    """Values by key, those for the configuration before the general ones, and the first of several."""
    values: dict[str, str] = {}
    sections = (section for parent in parents for section in elements(parent, "ProductSection"))
    for declared in (one for section in sections for one in elements(section, "Property")):
        special = (one for one in elements(declared, "Value") if attribute(one, "configuration") == configuration)
        chosen = next(special, declared) if configuration else declared
        values.setdefault(attribute(declared, "key"), attribute(chosen, "value"))
    return values


def _files(envelope: etree._Element) -> Iterator[PackageFile]:
    ids: set[str] = set()
    hrefs: set[str] = set()
    for section in elements(envelope, "References"):
        for element in elements(section, "File"):
            file = _file(element)
            if file.id in ids or file.href in hrefs:
                raise InvalidPackage(f"two files have the id {file.id!r} or the name {file.href!r}")
            ids.add(file.id)
            hrefs.add(file.href)
            if len(ids) > MAX_LISTED:
                raise InvalidPackage(f"the descriptor lists more than {MAX_LISTED} files")
            yield file


def _file(element: etree._Element) -> PackageFile:
    identifier, href = attribute(element, "id"), attribute(element, "href")
    what = f"file {identifier[:100]!r}"
    if not identifier:
        raise InvalidPackage(f"a file without an id: {href[:100]!r}")
    compression = attribute(element, "compression").strip()
    if compression not in {"", "identity", "gzip"}:
        raise InvalidPackage(f"{what}: unknown compression {compression[:40]!r}; gzip is read")
    size, chunk = attribute(element, "size"), attribute(element, "chunkSize")
    return PackageFile(
        id=identifier,
        href=_checked_href(href, what),
        size=whole_number(size, f"size of {what}") if size else None,
        gzip=compression == "gzip",
        chunk_size=whole_number(chunk, f"chunkSize of {what}", lowest=1) if chunk else None,
    )


def _checked_href(href: str, what: str) -> str:
    """Refuse what is no name of a member: nothing is ever opened because a descriptor names it."""
    while href.startswith("./"):
        href = href[2:]
    reason = ""
    if not href:
        reason = "is empty"
    elif _SCHEME.match(href):
        reason = "is a URL"
    elif href.startswith("/"):
        reason = "is absolute"
    elif _FORBIDDEN.search(href):
        reason = "holds a control character or a backslash"
    elif len(href.encode()) > MAX_NAME:
        reason = "is too long"
    elif not {"", ".", ".."}.isdisjoint(href.split("/")):
        reason = "holds an empty part, '.' or '..'"
    if reason:
        raise InvalidPackage(f"{what}: its href {href[:200]!r} {reason}", hint=_HREF_HINT)
    return href


def _disk(element: etree._Element, files: dict[str, PackageFile], properties: dict[str, str]) -> PackageDisk:
    identifier, reference = attribute(element, "diskId"), attribute(element, "fileRef")
    if not reference and identifier in files:  # open-ovf: a disk and its file have one id, and no fileRef
        reference = identifier
    what = f"disk {(identifier or reference)[:100]!r}"
    if reference and reference not in files:
        raise InvalidPackage(f"{what} is in the file {reference[:100]!r}, which is not in the References")
    capacity = _resolve(attribute(element, "capacity"), properties, what)
    populated = attribute(element, "populatedSize")
    unit = attribute(element, "capacityAllocationUnits")
    interface = attribute(element, "disk-interface").lower()
    return PackageDisk(
        id=identifier,
        file=files.get(reference),
        capacity=size_in_bytes(capacity, unit, f"capacity of {what}") if capacity else None,
        populated_size=whole_number(populated, f"populatedSize of {what}") if populated else None,
        format=attribute(element, "format"),
        parent=attribute(element, "parentRef"),
        alias=attribute(element, "disk-alias"),
        interface=_INTERFACES.get(interface, ControllerKind.OTHER) if interface else None,
        boot=attribute(element, "boot").lower() == "true",
    )


def _resolve(text: str, properties: dict[str, str], what: str) -> str:
    """``${KEY}`` stands for the value of a property."""
    match = _PROPERTY.fullmatch(text.strip())
    if match is None:
        return text
    value = properties.get(match[1], "")
    if not value:
        raise InvalidPackage(f"{what}: its capacity is the property {match[1][:100]!r}, which has no value")
    return value


def _check_disks(disks: list[PackageDisk]) -> None:
    if len(disks) > MAX_LISTED:
        raise InvalidPackage(f"the descriptor lists more than {MAX_LISTED} disks")
    ids: set[str] = set()
    for disk in disks:
        if disk.id in ids:
            raise InvalidPackage(f"two disks have the id {disk.id[:100]!r}")
        ids.update([disk.id] if disk.id else [])
