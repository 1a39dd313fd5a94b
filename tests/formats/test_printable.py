"""Text from outside, for people."""

from __future__ import annotations

import pytest

from ovafs.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, größer", "plain text, größer"),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        ("\x9b\u202e\ud800", "\\x9b\\u202e\\ud800"),
    ],
)
def test_what_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
