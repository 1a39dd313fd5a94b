"""What a catalog keeps beside definitions: states and descriptors come and go with their machines."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from ovafs.errors import InvalidDefinition, MachineNotFound
from ovafs.inventory.attachments import MAX_DESCRIPTOR, Attachments
from ovafs.inventory.pool import Pool, create_pool
from ovafs.model import Machine, StateKind, definition_digest, state_of
from tests.support.definitions import machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEXTS = {StateKind.NVRAM: b"=0=QUJD", StateKind.TPM: b"RUZH" * 1000}
KEPT = Attachments({state_of(text).digest: text for text in TEXTS.values()}, b"<Envelope/>")


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    create_pool(str(tmp_path / "pool"))
    with contextlib.closing(Pool(str(tmp_path / "pool"))) as opened:
        yield opened


def with_states(name: str) -> Machine:
    return machine(name, nvram=state_of(TEXTS[StateKind.NVRAM]), tpm=state_of(TEXTS[StateKind.TPM]))


def sql(pool: Pool, statement: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(f"{pool.path}/catalog.sqlite", isolation_level=None)) as connection:
        return connection.execute(statement).fetchall()


def test_states_and_descriptor_are_kept(pool: Pool) -> None:
    machines = [with_states("a"), with_states("b"), machine("c")]
    pool.register(machines, [], KEPT)
    assert pool.machines() == machines
    for one in machines[:2]:
        assert {kind: pool.read_state(one, kind) for kind in one.states} == TEXTS
    assert [pool.read_descriptor(one) for one in machines] == [b"<Envelope/>"] * 3
    assert sql(pool, "SELECT count(*) FROM descriptors") == [(1,)]
    pool.remove("a")
    assert pool.read_descriptor(machines[0]) is None
    assert pool.read_descriptor(machines[1]) == b"<Envelope/>"
    pool.remove("b")
    pool.remove("c")
    assert sql(pool, "SELECT (SELECT count(*) FROM descriptors), (SELECT count(*) FROM states)") == [(0, 0)]


def test_a_new_definition_keeps_them_or_drops_states(pool: Pool) -> None:
    one = with_states("a")
    pool.register([one], [], KEPT)
    renamed = pool.replace(msgspec.structs.replace(one, name="b"))
    assert pool.read_state(renamed, StateKind.TPM) == TEXTS[StateKind.TPM]
    assert pool.read_descriptor(renamed) == b"<Envelope/>"
    without = pool.replace(msgspec.structs.replace(renamed, tpm=None))
    assert pool.find("b") == without
    assert sql(pool, "SELECT kind FROM states") == [("nvram",)]
    with pytest.raises(MachineNotFound, match="the state of the tpm of 'b' is gone"):
        pool.read_state(renamed, StateKind.TPM)
    with pytest.raises(InvalidDefinition, match="'b' cannot get another state of its tpm"):
        pool.replace(renamed)
    assert pool.find("b") == without


def test_a_state_without_its_text_is_refused(pool: Pool) -> None:
    with pytest.raises(InvalidDefinition, match="'a' has a state of its tpm, but not the text of it"):
        pool.add(with_states("a"))
    assert pool.machines() == []


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE states SET size = -1", r"the state of its tpm \(-1 bytes, digest '[0-9a-f]{64}'\) cannot be"),
        ("UPDATE states SET digest = 'x'", "the state of its tpm"),
        ("UPDATE states SET kind = 'soul' WHERE kind = 'tpm'", "a state of the unknown kind 'soul'"),
    ],
)
def test_rows_that_others_spoilt_harm_their_machine_only(pool: Pool, statement: str, reason: str) -> None:
    pool.register([with_states("a"), machine("c")], [], KEPT)
    sql(pool, statement)
    machines, damaged = pool.snapshot()
    assert [one.name for one in machines] == ["c"]
    assert [one.name for one in damaged] == ["a"]
    with pytest.raises(InvalidDefinition, match=reason):
        pool.find("a")
    pool.remove("a")
    assert sql(pool, "SELECT count(*) FROM states") == [(0,)]


def test_texts_that_others_spoilt(pool: Pool) -> None:
    one = with_states("a")
    pool.register([one], [], KEPT)
    sql(pool, "UPDATE states SET data = X'00'")
    with pytest.raises(InvalidDefinition, match="the state of the nvram of 'a' is damaged in the catalog"):
        pool.read_state(one, StateKind.NVRAM)
    for spoil in ("UPDATE descriptors SET data = X'00'", "UPDATE descriptors SET data = zeroblob(100)"):
        sql(pool, spoil)
        with pytest.raises(InvalidDefinition, match="the descriptor of 'a' is damaged in the catalog"):
            pool.read_descriptor(one)


def test_a_large_descriptor_comes_back_whole(pool: Pool) -> None:
    text = b"<x/>" * (MAX_DESCRIPTOR // 4)
    pool.register([machine("a")], [], Attachments({}, text))
    assert pool.read_descriptor(pool.find("a")) == text
    assert sql(pool, "SELECT length(data) < 100000 FROM descriptors") == [(1,)]


def test_states_are_part_of_what_a_definition_is() -> None:
    digests = {definition_digest(one) for one in (machine("a"), with_states("a"))}
    assert len(digests) == 2
