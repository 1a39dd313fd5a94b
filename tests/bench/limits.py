"""What limits each case, in words: written by people who looked, printed beside the figures of every run."""

from __future__ import annotations

LIMITS: dict[str, str] = {}
