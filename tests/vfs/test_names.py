"""File names: safe, unique, and steady when other machines come and go."""

from __future__ import annotations

import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovafs.vfs.names import file_names
from tests.support.strategies import texts, uuids

if TYPE_CHECKING:
    import random


def uuid(number: int) -> str:
    return f"{number:08x}-1111-4222-8333-444444444444"


def name_of(machine_name: str, suffix: str = ".ova") -> str:
    (name,) = file_names([(uuid(1), machine_name)], suffix)
    return name.decode()


@pytest.mark.parametrize(
    ("machine_name", "file_name"),
    [
        ("web", "web.ova"),
        ("My VM 1", "My VM 1.ova"),
        ("Büro 中文 😀 & <x> \"q\" 'r'", "Büro 中文 😀 & <x> \"q\" 'r'.ova"),
        ("a/b", "a_b.ova"),
        ("../../etc/passwd", "_._.._etc_passwd.ova"),
        ("a\0b\nc\td\x7fe\x85f", "a_b_c_d_e_f.ova"),
        (".hidden", "_hidden.ova"),
        (" .hidden", "_hidden.ova"),
        (".", "_.ova"),
        ("..", "_..ova"),
        ("...", "_...ova"),
        ("", "unnamed.ova"),
        (" \u3000\t ", "unnamed.ova"),
        ("  web \u00a0", "web.ova"),
        ("web.ova", "web.ova.ova"),
        ("a=b::c:d", "a_b:_c:d.ova"),
        ("\udcff\ud800", "__.ova"),
        ("e\u0301", "\u00e9.ova"),
        ("\u212b", "\u00c5.ova"),
    ],
)
def test_safe(machine_name: str, file_name: str) -> None:
    assert name_of(machine_name) == file_name


@pytest.mark.parametrize(
    ("machine_name", "kept"),
    [("a" * 251, 251), ("a" * 252, 251), ("é" * 200, 125), ("中" * 200, 83), ("😀" * 70, 62), ("a" * 250 + " b", 250)],
)
def test_long_names_are_cut_between_characters(machine_name: str, kept: int) -> None:
    name = name_of(machine_name)
    assert len(name.encode()) <= 255
    assert name == machine_name[:kept] + ".ova"


def test_another_suffix() -> None:
    assert name_of("a" * 300, ".ovf.txt") == "a" * 247 + ".ovf.txt"


def test_every_clashing_name_gets_digits() -> None:
    machines = [(uuid(1), "web"), (uuid(2), "web"), (uuid(3), "db")]
    assert file_names(machines) == {
        b"web~00000001.ova": uuid(1),
        b"web~00000002.ova": uuid(2),
        b"db.ova": uuid(3),
    }


@pytest.mark.parametrize(
    ("first", "second"),
    [("Web", "web"), ("STRASSE", "straße"), ("é", "e\u0301"), ("É", "e\u0301"), ("a/b", "a_b"), ("", "unnamed")],
)
def test_names_that_some_client_takes_for_one(first: str, second: str) -> None:
    names = file_names([(uuid(1), first), (uuid(2), second)])
    assert all(b"~0000000" in name for name in names)


def test_long_names_that_differ_behind_the_cut() -> None:
    names = list(file_names([(uuid(1), "a" * 300 + "1"), (uuid(2), "a" * 300 + "2")]))
    assert names == [b"a" * 242 + b"~00000001.ova", b"a" * 242 + b"~00000002.ova"]


def test_more_digits_where_eight_do_not_tell() -> None:
    first, second = "00000001-aaaa-4222-8333-444444444444", "00000001-bbbb-4222-8333-444444444444"
    assert set(file_names([(first, "web"), (second, "web")])) == {
        b"web~00000001aaaa4222.ova",
        b"web~00000001bbbb4222.ova",
    }


def test_a_machine_named_like_the_result_of_a_clash() -> None:
    digits = uuid(1).replace("-", "")
    machines = [(uuid(1), "web"), (uuid(2), "web")]
    machines += [(uuid(3), f"web~{digits[:8]}"), (uuid(4), f"web~{digits[:16]}"), (uuid(5), f"web~{digits}")]
    names = file_names(machines)
    assert sorted(names.values()) == [uuid(number) for number in range(1, 6)]
    assert b"web~00000002.ova" in names


def test_the_same_uuid_twice_in_two_spellings() -> None:
    with pytest.raises(ValueError, match="same UUID"):
        file_names([(uuid(10), "web"), (uuid(10).upper(), "web")])


def machine_lists() -> st.SearchStrategy[list[tuple[str, str]]]:
    names = st.one_of(st.sampled_from(["web", "WEB", "Web ", "é", "e\u0301", "", "."]), texts(), st.text(max_size=300))
    return st.lists(st.tuples(uuids(), names), max_size=30, unique_by=lambda machine: machine[0])


@given(machine_lists(), st.randoms())
def test_properties(machines: list[tuple[str, str]], order: random.Random) -> None:
    names = file_names(machines)
    assert sorted(names.values()) == sorted(uuid for uuid, _ in machines)
    for name in names:
        text = name.decode()
        assert len(name) <= 255
        assert text == unicodedata.normalize("NFC", text)
        assert text.endswith(".ova")
        assert not text.startswith((".", " "))
        assert not any(bad in text for bad in ("/", "\0", "=", "::"))
        assert not any(unicodedata.category(character) == "Cc" for character in text)
    folded = [name.decode().casefold() for name in names]
    assert max(Counter(folded).values(), default=1) == 1
    shuffled = list(machines)
    order.shuffle(shuffled)
    assert file_names(shuffled) == names


@given(machine_lists(), st.data())
def test_a_name_depends_on_clashing_machines_only(machines: list[tuple[str, str]], data: st.DataObject) -> None:
    """Machines with other names come and go; the names of the rest stay what they are."""
    names = {uuid: name for name, uuid in file_names(machines).items()}
    stay = [machine for machine in machines if data.draw(st.booleans()) or b"~" in names[machine[0]]]
    remaining = {uuid: name for name, uuid in file_names(stay).items()}
    assert remaining == {uuid: names[uuid] for uuid, _ in stay}
