"""Text from outside, for people: names in packages may hold what a terminal obeys."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` with every character escaped that is not to be seen: controls, line breaks, halves of pairs."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
