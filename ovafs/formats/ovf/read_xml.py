"""XML of strangers: parsed within limits, and asked without minding prefixes and dialects.

Limits: 8 MiB of UTF-8 (or UTF-16 with a byte order mark), 100,000 nodes, 250,000 attributes, 100 levels. A DOCTYPE
is refused, so there are no entities; nothing is ever fetched, and XInclude is an element like any other.
"""

from __future__ import annotations

import codecs
import functools
import re
from typing import TYPE_CHECKING

from lxml import etree

from ovafs.errors import InvalidPackage

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DOCUMENT = 8 << 20
MAX_NODES = 100_000
MAX_ATTRIBUTES = 250_000
MAX_DEPTH = 100
MAX_LEFTOVERS = 16 << 20

VMWARE = "http://www.vmware.com/schema/ovf"
VIRTUALBOX = "http://www.virtualbox.org/ovf/machine"
OVIRT = "http://www.ovirt.org/ovf"

VERSIONS = {
    "http://www.vmware.com/schema/ovf/1/envelope": "0.9",
    "http://schemas.dmtf.org/ovf/envelope/1": "1",
    "http://schemas.dmtf.org/ovf/envelope/2": "2",
}
"""The version of OVF by the namespace of its envelope; a slash may follow (virt-v2v)."""

_PREFIXES = ("", *(f"{{{space}{slash}}}" for space in VERSIONS for slash in ("", "/")))
_TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"
_FEED_SIZE = 1 << 16
_DECLARATION = re.compile(r"\s*<\?xml\s[^>]*?\?>")
_ENCODING = re.compile(r"encoding\s*=\s*[\"']([^\"']*)[\"']")
_ENCODINGS = frozenset(("utf-8", "utf8", "us-ascii", "utf-16", "utf-16le", "utf-16be"))
# What may stand before the root: matched without going back, so that no prolog takes quadratic time.
_DOCTYPE = re.compile(r"(?:\s++|<!--.*?-->|<\?.*?\?>)*+<!DOCTYPE", re.DOTALL)


def parse_document(data: bytes) -> etree._Element:
    """The root element. Raises InvalidPackage for everything else."""
    if len(data) > MAX_DOCUMENT:
        raise InvalidPackage(f"the descriptor is {len(data)} bytes long; at most {MAX_DOCUMENT} are read")
    text = _decode(data)
    if not text or text.isspace():
        raise InvalidPackage("the descriptor is empty")
    if _DOCTYPE.match(text):
        raise InvalidPackage("the descriptor has a DOCTYPE, which OVF does not use and ovafs does not read")
    if text.count("=") > MAX_ATTRIBUTES:
        raise InvalidPackage(f"the descriptor may have more than {MAX_ATTRIBUTES} attributes")
    try:
        return _parse(text)
    except etree.XMLSyntaxError as error:
        reason = " ".join(str(error).split())  # what is quoted of the text may have lines
        raise InvalidPackage(f"the descriptor is not well-formed XML: {reason[:200]}") from None


def _decode(data: bytes) -> str:
    """Text without its XML declaration."""
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidPackage(f"byte {error.start} of the descriptor is not {error.encoding.upper()}") from None
    declaration = _DECLARATION.match(text)
    if declaration is None:
        return text
    encoding = _ENCODING.search(declaration[0])
    if encoding is not None and encoding[1].lower() not in _ENCODINGS:
        raise InvalidPackage(f"the descriptor is in {encoding[1][:40]!r}; UTF-8 and UTF-16 are read")
    return text[declaration.end() :]


def _parse(text: str) -> etree._Element:
    """Feed the parser piece by piece and count, so that a flood is refused before it is in memory, even twice."""
    parser = etree.XMLPullParser(
        events=("start", "end", "comment", "pi"),
        encoding="utf-8",
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=False,
    )
    nodes = depth = 0
    for position in range(0, len(text), _FEED_SIZE):
        parser.feed(text[position : position + _FEED_SIZE].encode())
        for event, _ in parser.read_events():
            nodes += event != "end"
            depth += (event == "start") - (event == "end")
            if nodes > MAX_NODES:
                raise InvalidPackage(f"the descriptor has more than {MAX_NODES} elements")
            if depth > MAX_DEPTH:
                raise InvalidPackage(f"the descriptor nests its elements more than {MAX_DEPTH} deep")
    return parser.close()


@functools.lru_cache(maxsize=4096)
def _split(tag: str) -> tuple[str, str]:
    space, _, local = tag.rpartition("}")
    return space.removeprefix("{").rstrip("/"), local


def namespace(element: etree._Element) -> str:
    """The namespace of an element without a slash at its end; "" when it has none."""
    return _split(str(element.tag))[0]


def local_name(element: etree._Element) -> str:
    """The name of an element in whatever namespace."""
    return _split(str(element.tag))[1]


def is_element(node: object) -> bool:
    """Whether a node is an element, not a comment or an instruction, whose tag is a function."""
    return isinstance(getattr(node, "tag", None), str)


def name(element: etree._Element) -> str:
    """What an OVF element is called, in the words of OVF 1: DiskSection, VirtualSystem, Item.

    "" for elements of other namespaces, comments and instructions. OVF 0.9 says what a ``Section`` or ``Content``
    is by its ``xsi:type``. Elements in no namespace count as OVF's: oVirt's producers write them so.
    """
    if not is_element(element):
        return ""
    space, local = _split(element.tag)
    if space and space not in VERSIONS:
        return ""
    if local in {"Section", "Content"}:
        return element.get(_TYPE, "").rpartition(":")[2].removesuffix("_Type")
    return local


def elements(parent: etree._Element, *names: str) -> Iterator[etree._Element]:
    """The children with one of these names, or all that are elements."""
    for child in parent:
        if is_element(child) and (not names or name(child) in names):
            yield child


def first(parent: etree._Element | None, wanted: str) -> etree._Element | None:
    """The first child of this name."""
    return None if parent is None else next(elements(parent, wanted), None)


def text_of(element: etree._Element | None) -> str:
    """The text of an element itself, stripped; "" when there is no element."""
    if element is None:
        return ""
    return "".join([element.text or "", *(child.tail or "" for child in element)]).strip()


def attribute(element: etree._Element, wanted: str) -> str:
    """An attribute of OVF's, with or without its prefix; "" when it is absent."""
    # Asked for by name: lxml takes quadratic time to list the attributes of an element (minutes for 100,000).
    found = (element.get(prefix + wanted) for prefix in _PREFIXES)
    return next((str(value) for value in found if value is not None), "")


def foreign(element: etree._Element, space: str, wanted: str) -> str:
    """An attribute of the namespace ``space``; "" when it is absent."""
    return str(element.get(f"{{{space}}}{wanted}", ""))


class Leftovers:
    """Elements that have no place in the model, as XML that stands by itself, in the order they were met.

    Each piece repeats the namespaces around it, so the pieces can outgrow the document: ``budget``, one for a whole
    document, counts the characters that may still be kept.
    """

    def __init__(self, budget: list[int]) -> None:
        self.pieces: list[str] = []
        self._budget = budget

    def keep(self, element: etree._Element) -> None:
        """Keep an element. Raises InvalidPackage when the document's budget is used up."""
        piece = etree.tostring(element, encoding="unicode", with_tail=False)
        self._budget[0] -= len(piece)
        if self._budget[0] < 0:
            raise InvalidPackage("the descriptor has too many parts that are not understood, and too many namespaces")
        self.pieces.append(piece)
