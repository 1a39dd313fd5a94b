"""The XML of strangers: what is refused before anything of it is believed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ovafs.errors import InvalidPackage
from ovafs.formats.ovf.read import read_descriptor
from ovafs.formats.ovf.read_xml import Leftovers, attribute, elements, name, parse_document, text_of
from tests.support.processes import REPOSITORY

OVF = "http://schemas.dmtf.org/ovf/envelope/1"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
LAUGHS = (
    b'<!DOCTYPE a [<!ENTITY b "xxxxxxxxxx">'
    + b"".join(
        b'<!ENTITY c%d "%s">' % (number, (b"&c%d;" % (number - 1) if number else b"&b;") * 10) for number in range(10)
    )
    + b"]><a>&c9;</a>"
)

HOSTILE: dict[str, tuple[bytes, str]] = {
    "external entity": (b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', "has a DOCTYPE"),
    "external DTD": (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "has a DOCTYPE"),
    "parameter entity": (
        b'<!DOCTYPE a [<!ENTITY % p SYSTEM "file:///etc/hostname"> %p;]><a/>',
        "has a DOCTYPE",
    ),
    "empty DOCTYPE": (b"<!DOCTYPE a><a/>", "has a DOCTYPE"),
    "hidden DOCTYPE": (b"<?xml version='1.0'?>\n<!-- > --><?x ?>\t<!-- <a> --><!DOCTYPE a><a/>", "has a DOCTYPE"),
    "DOCTYPE in UTF-16": ("<!DOCTYPE a><a/>".encode("utf-16"), "has a DOCTYPE"),
    "billion laughs": (LAUGHS, "has a DOCTYPE"),
    "quadratic": (
        b'<!DOCTYPE a [<!ENTITY b "' + b"x" * 50000 + b'">]><a>' + b"&b;" * 50000 + b"</a>",
        "has a DOCTYPE",
    ),
    "undeclared entity": (b"<a>&x;</a>", "not well-formed XML"),
    "attribute of 11 MiB": (b'<a b="' + b"x" * (11 << 20) + b'"/>', "at most 8388608 are read"),
    "deep": (b"<a>" * 300_000 + b"</a>" * 300_000, "not well-formed XML|100 deep"),
    "101 deep": (b"<a>" * 101 + b"</a>" * 101, "more than 100 deep"),
    "wide": (b"<a>" + b"<b/>" * 2_000_000 + b"</a>", "more than 100000 elements"),
    "many comments": (b"<a>" + b"<!---->" * 200_000 + b"</a>", "more than 100000 elements"),
    "many attributes": (
        b"<a " + b" ".join(b'b%d=""' % number for number in range(500_000)) + b"/>",
        "more than 250000 attributes",
    ),
    "UTF-7": (b'<?xml version="1.0" encoding="UTF-7"?><a>+ADw-b/+AD4-</a>', "is in 'UTF-7'; UTF-8 and UTF-16 are read"),
    "EBCDIC": ('<?xml version="1.0" encoding="cp037"?><a/>'.encode("cp037"), "is not UTF-8"),
    "Latin-1": ('<?xml version="1.0" encoding="ISO-8859-1"?><a>é</a>'.encode("latin-1"), "is not UTF-8"),
    "UTF-16 without a mark": ("<a/>".encode("utf-16-le"), "not well-formed XML"),
    "bad UTF-8": (b"<a>\xff\xfe</a>", "byte 3 of the descriptor is not UTF-8"),
    "bad UTF-16": (b"\xff\xfe<\0a\0/\0>\0\0\xd8", "is not UTF-16"),
    "NUL": (b"<a>\0</a>", "not well-formed XML"),
    "empty": (b"", "the descriptor is empty"),
    "blanks": (b"\xef\xbb\xbf \n ", "the descriptor is empty"),
    "text": (b"hello", "not well-formed XML"),
    "not closed": (b"<a><b></a>", "not well-formed XML"),
    "behind the root": (b"<a/><b/>", "not well-formed XML"),
    "cut": (b"<a><b/>", "not well-formed XML"),
    "other root": (b"<html/>", "its root is 'html' in the namespace ''"),
    "other namespace": (b'<Envelope xmlns="http://nosuchspec.com/1"/>', "in the namespace 'http://nosuchspec.com/1'"),
    "no namespace": (b"<Envelope/>", "its root is 'Envelope' in the namespace ''"),
    "XInclude": (
        b'<a xmlns:xi="http://www.w3.org/2001/XInclude"><xi:include href="file:///etc/passwd" parse="text"/></a>',
        "its root is 'a'",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_refuses(case: str) -> None:
    data, reason = HOSTILE[case]
    with pytest.raises(InvalidPackage, match=reason):
        read_descriptor(data)


MANY = '<b a="" c=""/>' * 99_000
FLOODS = {
    "elements": f'<Envelope xmlns="{OVF}">{"<b/>" * 2_000_000}</Envelope>',
    "attributes of one element": f'<Envelope xmlns="{OVF}"><VirtualSystem '
    + " ".join(f'b{number}=""' for number in range(249_000))
    + "/></Envelope>",
    "attributes of many": f'<Envelope xmlns="{OVF}"><VirtualSystem>{MANY}</VirtualSystem></Envelope>',
    "text": f'<Envelope xmlns="{OVF}"><VirtualSystem><Name>{"x" * 8_000_000}</Name></VirtualSystem></Envelope>',
    "devices": f'<Envelope xmlns="{OVF}"><VirtualSystem><VirtualHardwareSection>'
    + "<Item><ResourceType>10</ResourceType><Connection>net</Connection></Item>" * 33_000
    + "</VirtualHardwareSection></VirtualSystem></Envelope>",
}
PEAK = """
import resource, sys
from ovafs.errors import InvalidPackage
from ovafs.formats.ovf.read import read_descriptor
data = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_descriptor(data)
except InvalidPackage:
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("case", FLOODS)
def test_floods_cost_little(case: str) -> None:
    """Without limits a tree of two million elements takes 300 MB, and 249,000 attributes take lxml minutes to list."""
    command = [sys.executable, "-c", PEAK]
    run = subprocess.run(command, input=FLOODS[case].encode(), check=True, capture_output=True, cwd=REPOSITORY)
    assert int(run.stdout) < 110 << 10  # KiB


def test_xinclude_is_only_an_element() -> None:
    data = (
        f'<Envelope xmlns="{OVF}" xmlns:xi="http://www.w3.org/2001/XInclude">'
        '<xi:include href="file:///etc/passwd" parse="text"/><VirtualSystem/></Envelope>'
    )
    found = read_descriptor(data.encode())
    assert len(found.unknown) == 1
    assert 'href="file:///etc/passwd"' in found.unknown[0]


@pytest.mark.parametrize(
    "data",
    [
        "<a>ü</a>".encode(),
        b"\xef\xbb\xbf" + "<a>ü</a>".encode(),
        "<a>ü</a>".encode("utf-16"),
        b"\xfe\xff" + "<a>ü</a>".encode("utf-16-be"),
        '<?xml version="1.0" encoding="UTF-16"?><a>ü</a>'.encode("utf-16"),
        b'<?xml version="1.0" encoding="us-ascii" standalone="yes"?>\n<a>&#xfc;</a>',
        "<?xml version='1.0' encoding='utf-8'?><!-- <!DOCTYPE b> --><a>ü</a>".encode(),
    ],
)
def test_encodings(data: bytes) -> None:
    assert parse_document(data).text == "ü"


def test_a_descriptor_of_4_mb_is_read() -> None:
    """VMware's test library has one."""
    properties = "".join(
        f'<Property ovf:key="key{number}" ovf:type="string" ovf:value="{"v" * 60}"/>' for number in range(40_000)
    )
    data = (
        f'<Envelope xmlns="{OVF}" xmlns:ovf="{OVF}"><VirtualSystem ovf:id="big">'
        f"<ProductSection>{properties}</ProductSection></VirtualSystem></Envelope>"
    )
    assert len(data) > 4_000_000
    (system,) = read_descriptor(data.encode()).systems
    assert system.name == "big"
    assert len(system.unknown[0]) > 4_000_000


def test_leftovers_have_a_limit() -> None:
    """Each piece that is kept repeats all namespaces around it: 5,000 small ones would make 500 MB of these 350 kB."""
    spaces = " ".join(f'xmlns:n{number}="urn:{"x" * 80}{number}"' for number in range(1000))
    data = f'<Envelope xmlns="{OVF}" {spaces}><VirtualSystem/>{"<n1:x/>" * 5000}</Envelope>'
    with pytest.raises(InvalidPackage, match="too many parts that are not understood, and too many namespaces"):
        read_descriptor(data.encode())


def test_names_in_every_dialect() -> None:
    data = (
        f'<e:Envelope xmlns:e="{OVF}/" xmlns:x="urn:x" xmlns:i="{XSI}"><References/><e:References/><x:References/>'
        '<e:Section i:type="e:DiskSection_Type"/><Content i:type="VirtualSystem_Type"/><e:Section/><!-- --><?p?>'
        "</e:Envelope>"
    )
    root = parse_document(data.encode())
    assert [name(child) for child in root] == [
        *("References", "References", "", "DiskSection", "VirtualSystem", "", "", ""),
    ]
    assert len(list(elements(root))) == 6


def test_attributes_and_text() -> None:
    root = parse_document(
        f'<a xmlns:o="{OVF}" o:id="1" plain="2" x:id="3" xmlns:x="urn:x"> t<!--c-->u<b>v</b>w </a>'.encode()
    )
    assert [attribute(root, wanted) for wanted in ("id", "plain", "none")] == ["1", "2", ""]
    assert text_of(root) == "tuw"
    assert text_of(None) == ""


def test_leftovers_stand_by_themselves() -> None:
    root = parse_document(b'<a xmlns:x="urn:x"><x:b c="&lt;"> t </x:b> tail</a>')
    leftovers = Leftovers([1000])
    leftovers.keep(root[0])
    assert leftovers.pieces == ['<x:b xmlns:x="urn:x" c="&lt;"> t </x:b>']
    assert parse_document(leftovers.pieces[0].encode()).get("c") == "<"
