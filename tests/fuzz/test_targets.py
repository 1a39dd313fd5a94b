"""A few tries of every target, always the same ones; and that they reach what they are for."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.targets import TARGETS, outcome, packages

TRIES = {"import": 25}


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_tries(name: str) -> None:
    outcomes = {TARGETS[name](random.Random(number)) for number in range(TRIES.get(name, 60))}
    assert len(outcomes) > 5


def test_what_is_damaged_was_good() -> None:
    assert [outcome(package)[:2] for package in packages()] == ["[("] * 4
