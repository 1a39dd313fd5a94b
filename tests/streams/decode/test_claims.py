"""The queue of claims, and which ranges were kept."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ovafs.streams.decode.claims import NEVER, Claim, Claims, KeptRanges, Use
from ovafs.streams.decode.zeros import data_runs

batches = st.lists(
    st.lists(
        st.builds(Claim, st.integers(0, 100), st.integers(1, 9), st.sampled_from(Use), st.integers(0, 1 << 63)),
        max_size=6,
    ),
    max_size=6,
)


@given(batches, st.data())
def test_claims_come_out_in_order_whenever_they_went_in(added: list[list[Claim]], data: st.DataObject) -> None:
    queue = Claims()
    waiting: list[Claim] = []
    for batch in added:
        queue.add(list(batch))
        waiting += batch
        for _ in range(data.draw(st.integers(0, len(waiting)))):
            claim = queue.pop()
            assert claim.start == min(one.start for one in waiting)
            waiting.remove(claim)
        assert len(queue) == len(waiting) <= queue.weight
        assert queue.next_start == min((one.start for one in waiting), default=NEVER)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), max_size=8))
def test_kept_ranges(gaps_and_lengths: list[tuple[int, int]]) -> None:
    kept, bytes_kept = KeptRanges(), set()
    position = 0
    for gap, length in gaps_and_lengths:
        kept.add(position + gap, position + gap + length)
        bytes_kept |= set(range(position + gap, position + gap + length))
        position += gap + length
    for offset in range(position + 2):
        end = offset
        while end in bytes_kept:
            end += 1
        assert kept.end_of(offset) == end


@given(st.lists(st.sampled_from([b"\0", b"x", b"\0" * 4096, b"x" * 4096, b"\0" * 4095 + b"x"])), st.integers(0, 9000))
def test_runs_of_data(parts: list[bytes], offset: int) -> None:
    """Together they are all that is not zeros; and no aligned block of zeros is among them."""
    data = b"".join(parts)
    runs = list(data_runs(memoryview(data), offset))
    rest = bytearray(data)
    for start, end in runs:
        assert 0 <= start < end <= len(data)
        rest[start:end] = bytes(end - start)
        for block in range(start + -(offset + start) % 4096, end - 4095, 4096):
            assert any(data[block : block + 4096])
    assert not any(rest)
    assert all(first[1] < second[0] for first, second in pairwise(runs))


def test_weight_is_memory() -> None:
    """One claim in each of many batches, and many claims in one."""
    for batch, count in ((1, 20_000), (50_000, 2)):
        tracemalloc.start()
        queue = Claims()
        for number in range(count):
            queue.add([Claim(number << 40 | index << 16, 65536, Use.DATA, index) for index in range(batch)])
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert 0.5 < held / (queue.weight * 25) < 1.5
