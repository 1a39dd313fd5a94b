"""Escaping: what a parser, and oVirt's edits before the parser, leave of a text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from lxml import etree

from ovafs.errors import InvalidDefinition
from ovafs.formats.ovf.xmltext import escape
from tests.support.strategies import texts


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain text, 中文 😀", "plain text, 中文 😀"),
        ("a & b < c > \"d\" 'e'", "a &amp; b &lt; c &gt; &quot;d&quot; 'e'"),
        ("a\tb\nc\rd", "a&#9;b&#10;c&#13;d"),
        ("fe80::1 and :::", "fe80:&#58;1 and :&#58;&#58;"),
        ("a:b", "a:b"),
        ('xmlns="x" xmlns:y=', "xmlns&#61;&quot;x&quot; xmlns:y="),
    ],
)
def test_how_it_is_written(text: str, written: str) -> None:
    assert escape(text) == written


@given(texts())
def test_a_parser_reads_it_back(text: str) -> None:
    document = f'<?xml version="1.0" encoding="UTF-8"?><a b="{escape(text)}">{escape(text)}</a>'
    edited = re.sub(r"xmlns=[^-\s]*", "", re.sub(r"[\r\n]", "", document))
    assert edited == document
    assert "::" not in document
    element = etree.fromstring(document.encode())
    assert (element.text or "") == text
    assert element.get("b") == text


@pytest.mark.parametrize("character", ["\0", "\x01", "\x08", "\x0b", "\x1f", "\udcff", "\ufffe", "\uffff"])
def test_what_xml_cannot_carry_is_refused(character: str) -> None:
    with pytest.raises(InvalidDefinition, match=f"U\\+{ord(character):04X}"):
        escape(f"a{character}b")
