"""Whatever arrives: the contents of a package or an OvafsError, the same in any pieces, and nothing else."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovafs.errors import OvafsError
from ovafs.transfer.ingest.landing import DryLanding
from ovafs.transfer.ingest.session import Ingest
from ovafs.transfer.ingest.signature import Trust
from ovafs.transfer.ingest.target import TargetFormat
from tests.support.decoding import every, mutations, pieces, random_cuts
from tests.support.images import COPIED, hand_made
from tests.support.packages import QCOW2, STREAM, DiskText, archive, descriptor, manifest
from tests.support.vmdk import stream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ovafs.formats.ovf.read_model import Descriptor, PackageDisk

SPOOL_LIMIT = 1 << 20


def _sources() -> dict[str, bytes]:
    """Small packages in which every kind of member and disk is."""
    small = hand_made(cluster_bits=9, size=9 * 512, l1=[2048 | COPIED], l2=[2560 | COPIED, 0, 3072 | COPIED])
    disks = {
        "a.qcow2": small + b"AB" * 512,
        "b.vmdk": stream(b"x" * 3000 + bytes(5192), grain=16).data,
        "c.raw": b"raw" * 1000,
        "d.gz": gzip.compress(b"zip" * 1000, mtime=0),
    }
    uris = (QCOW2, STREAM, "", "")
    text = descriptor(*(DiskText(name, 8192, uri) for name, uri in zip(disks, uris, strict=True)))
    parts = {"vm.ovf": text, **disks}
    return {
        "manifest in front": archive({"vm.ovf": text, "vm.mf": manifest(parts), **disks}),
        "manifest behind": archive({**parts, "vm.mf": manifest(parts, "sha1")}),
        "no manifest": archive(parts),
        "descriptor behind": archive({**disks, "vm.ovf": text}),
    }


SOURCES = _sources()


def _all_qcow2(descriptor: Descriptor) -> dict[PackageDisk, TargetFormat]:
    return {slot.disk: TargetFormat.QCOW2 for system in descriptor.systems for slot in system.disks}


def outcome(data: bytes, cuts: Iterable[int] = ()) -> str:
    """What comes of a package, in a word; anything but contents and OvafsError fails the test."""
    ingest = Ingest(DryLanding("/nowhere"), SPOOL_LIMIT, Trust(), _all_qcow2)
    try:
        for piece in pieces(data, cuts):
            ingest.receive_data(memoryview(piece))
        contents = ingest.finish()
    except OvafsError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        ingest.close()
    sizes = [(disk.id, writer.virtual_size) for disk, writer in contents.disks.items()]
    return f"{sizes} {contents.warnings}"


def assert_same_in_any_pieces(data: bytes, seed: int) -> str:
    whole = outcome(data)
    for cuts in (every(512, len(data)), random_cuts(len(data), seed)):
        assert outcome(data, cuts) == whole
    return whole


@pytest.mark.parametrize("name", SOURCES)
def test_the_packages_are_good(name: str) -> None:
    expected = [("d0", 4608), ("d1", 8192), ("d2", 3072), ("d3", 8192)]
    assert assert_same_in_any_pieces(SOURCES[name], 1).startswith(str(expected))
    assert outcome(SOURCES[name], every(1, len(SOURCES[name]))).startswith(str(expected))


@pytest.mark.parametrize("name", SOURCES)
def test_mutations(name: str) -> None:
    """Bytes changed, inserted and removed, anywhere and in the descriptor."""
    data = SOURCES[name]
    for number, mutated in enumerate(mutations(data, 150, seed=5)):
        assert_same_in_any_pieces(mutated, number)


def test_mutated_members() -> None:
    """The archive, the sizes and the digests are right; what is in a member is not."""
    parts = {"vm.ovf": descriptor(DiskText("d", 8192), DiskText(None, 512)), "d": b""}
    for file in (stream(b"x" * 8192, grain=16).data, gzip.compress(b"z" * 8192), SOURCES["no manifest"][7168:]):
        for number, mutated in enumerate(mutations(file, 60, seed=6)):
            assert_same_in_any_pieces(archive({**parts, "d": mutated}), number)
    for number, mutated in enumerate(mutations(parts["vm.ovf"], 200, seed=7)):
        assert_same_in_any_pieces(archive({"vm.ovf": mutated, "d": b"x" * 8192}), number)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    source=st.sampled_from(sorted(SOURCES)),
    edits=st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=16)), max_size=3),
    cut=st.integers(0, 1 << 20),
    cuts=st.lists(st.integers(0, 1 << 20), max_size=8),
)
def test_edits_and_cuts(source: str, edits: list[tuple[int, bytes]], cut: int, cuts: list[int]) -> None:
    data = bytearray(SOURCES[source])
    for at, new in edits:
        start = at % len(data)
        data[start : start + len(new)] = new
    package = bytes(data[: cut % (len(data) + 1)])
    assert outcome(package, [one % (len(package) + 1) for one in cuts]) == outcome(package)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=2048))
def test_rubbish(data: bytes) -> None:
    assert outcome(data) == outcome(data, every(100, len(data)))


def test_nothing_stays_among_the_temporary_files() -> None:
    before = set(Path(tempfile.gettempdir()).glob(".*.part"))
    outcome(SOURCES["descriptor behind"])
    outcome(SOURCES["descriptor behind"][:9000])
    assert set(Path(tempfile.gettempdir()).glob(".*.part")) == before
