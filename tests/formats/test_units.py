"""Sizes and durations as people write and read them."""

from __future__ import annotations

import pytest

from ovafs.units import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("90m", 5400), ("24h", 86400), ("7d", 604800), ("2w", 1209600), (" 1.5 h ", 5400), ("0s", 0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "24", "h", "-1h", "1h30m", "1 hour", "1e9s", "inf", "9999999s", "٣h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write for example 24h"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0.9, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (4800, "1 h 20 min"), (273600, "3 d 4 h")],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
