"""One upload: any order of writes gives the same import, and what is wrong is said once and for all."""

from __future__ import annotations

import itertools
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovafs.errors import IncompletePackage, InvalidPackage, NoSpace, OvafsError, StaleHandle, WrittenTwice
from ovafs.transfer.ingest.choices import ImportChoices
from ovafs.transfer.ingest.package import Imported, PackageImport
from ovafs.transfer.ingest.spool import Spool
from ovafs.vfs.drop.upload import Occasion, State, Upload
from tests.support.packages import archive, content, guest_bytes, import_pool, small_package

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.packages import ImportPool

PACKAGE = archive(small_package())


class Recorder:
    """An import that keeps what it is given; complete at a given length."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.received = bytearray()
        self.commits: list[str] = []
        self.is_closed = False
        self.failure: Exception | None = None

    def receive_data(self, data: bytes | memoryview) -> None:
        if self.failure is not None:
            raise self.failure
        self.received += data

    def shortfall(self) -> IncompletePackage | None:
        missing = self.length - len(self.received)
        return IncompletePackage(f"{missing} bytes are missing", missing=missing) if missing > 0 else None

    @property
    def has_ended(self) -> bool:
        return len(self.received) >= self.length

    def commit(self, default_name: str, *_: object) -> Imported:
        self.commits.append(default_name)
        return Imported([], [])

    def close(self) -> None:
        self.is_closed = True


def upload_to(recorder: Recorder, folder: str, limit: int = 1 << 30) -> Upload:
    return Upload(lambda: recorder, lambda: Spool(folder), limit, threading.Lock())  # type: ignore[arg-type, return-value]


def finish(upload: Upload, occasion: Occasion = Occasion.CLOSE) -> None:
    upload.try_commit("vm", occasion)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[ImportPool]:
    with import_pool(tmp_path / "pool") as opened:
        yield opened


def real_upload(pool: ImportPool) -> Upload:
    return Upload(
        lambda: PackageImport(pool.pool, "imported", ImportChoices()),
        lambda: Spool(pool.pool.volumes_path),
        1 << 30,
        threading.Lock(),
    )


PIECES = st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.booleans()), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(PIECES, st.randoms(use_true_random=False), st.sampled_from([0, 30, 1 << 20]))
def test_any_order_with_any_holes_gives_the_same_bytes(
    pieces: list[tuple[bytes, bool]], order: object, limit: int
) -> None:
    """Pieces that are holes are never written; with a small limit gaps close early, so only in order then."""
    parts = [bytes(len(data)) if is_hole else data for data, is_hole in pieces]
    whole = b"".join(parts)
    starts = [sum(map(len, parts[:number])) for number in range(len(parts))]
    writes = [(start, data) for start, data, (_, is_hole) in zip(starts, parts, pieces, strict=True) if not is_hole]
    if limit > 100:
        order.shuffle(writes)  # type: ignore[attr-defined]
    recorder = Recorder(len(whole))
    with tempfile.TemporaryDirectory() as folder:
        upload = upload_to(recorder, folder, limit)
        for start, data in writes:
            upload.write(start, data)
        upload.set_size(len(whole))
        # A gap at the very beginning is no hole of a package: nothing can be imported from it.
        if pieces[0][1] and upload.position == 0:
            if writes:
                with pytest.raises(IncompletePackage):
                    finish(upload)
            upload.discard()
            return
        finish(upload)
        assert upload.state is State.COMMITTED
    assert recorder.received == whole
    assert recorder.commits == ["vm"]
    assert recorder.is_closed


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, len(PACKAGE) - 1), max_size=8), st.randoms(use_true_random=False))
def test_any_order_gives_the_same_machine(cuts: list[int], order: object) -> None:
    edges = [0, *sorted(set(cuts)), len(PACKAGE)]
    writes = [(start, PACKAGE[start:end]) for start, end in itertools.pairwise(edges)]
    order.shuffle(writes)  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder, import_pool(Path(folder, "pool")) as pool:
        upload = real_upload(pool)
        for start, data in writes:
            upload.write(start, data)
        finish(upload, Occasion.SYNC)
        pool.assert_whole(1)
        (machine,) = pool.pool.machines()
        assert machine.name == "web"
        assert upload.imported is not None
        assert upload.imported.machines == [machine]


def test_nothing_written_is_no_error_and_no_import(tmp_path: Path) -> None:
    recorder = Recorder(10)
    upload = upload_to(recorder, str(tmp_path))
    finish(upload)
    upload.set_size(100)
    finish(upload)
    assert upload.state is State.OPEN
    assert recorder.commits == []


def test_an_incomplete_upload_says_so_and_goes_on(tmp_path: Path) -> None:
    recorder = Recorder(10)
    upload = upload_to(recorder, str(tmp_path))
    upload.write(0, b"12345")
    for _ in range(2):
        with pytest.raises(IncompletePackage, match="5 bytes are missing"):
            finish(upload)
    upload.write(5, b"67890")
    finish(upload)
    finish(upload)
    assert recorder.commits == ["vm"]


def test_a_gap_is_not_a_hole_while_more_must_come(tmp_path: Path) -> None:
    """The size says that a package of ten bytes cannot be complete, whatever is in the gap."""
    recorder = Recorder(10)
    upload = upload_to(recorder, str(tmp_path))
    upload.write(0, b"12")
    upload.write(4, b"56")
    with pytest.raises(IncompletePackage):
        finish(upload)
    upload.write(2, b"34")
    upload.write(6, b"7890")
    finish(upload)
    assert recorder.received == b"1234567890"


def test_a_gap_is_no_hole_for_fsync(tmp_path: Path) -> None:
    recorder = Recorder(10)
    upload = upload_to(recorder, str(tmp_path))
    upload.write(0, b"12")
    upload.write(4, b"567890")
    with pytest.raises(IncompletePackage, match="bytes from 2 on have not come yet"):
        finish(upload, Occasion.SYNC)
    upload.write(2, b"34")
    finish(upload, Occasion.SYNC)
    assert recorder.received == b"1234567890"


def test_a_look_does_not_commit(tmp_path: Path) -> None:
    recorder = Recorder(4)
    upload = upload_to(recorder, str(tmp_path))
    upload.write(0, b"1234")
    upload.try_commit(None, Occasion.CLOSE)
    assert recorder.commits == []
    finish(upload)
    assert recorder.commits == ["vm"]


def test_late_data_for_a_hole_must_be_zeros(tmp_path: Path) -> None:
    recorder = Recorder(10)
    upload = upload_to(recorder, str(tmp_path), limit=2)
    upload.write(0, b"12")
    upload.write(4, b"5678")  # more than can wait: the gap is a hole now
    assert recorder.received == b"12\0\x005678"
    upload.write(2, b"\0\0")
    with pytest.raises(WrittenTwice, match="bytes 2 to 4"):
        upload.write(2, b"34")
    with pytest.raises(WrittenTwice):
        finish(upload)
    assert upload.state is State.FAILED
    assert recorder.is_closed
    assert recorder.commits == []


def test_bytes_that_were_taken_in_cannot_change(tmp_path: Path) -> None:
    upload = upload_to(Recorder(10), str(tmp_path))
    upload.write(0, b"12345")
    with pytest.raises(WrittenTwice):
        upload.write(4, b"5")


def test_bytes_that_wait_can_change(tmp_path: Path) -> None:
    recorder = Recorder(6)
    upload = upload_to(recorder, str(tmp_path))
    upload.write(2, b"xx56")
    upload.write(2, b"34")
    upload.write(0, b"12")
    assert recorder.received == b"123456"


def test_a_size_that_takes_bytes_away_is_refused(tmp_path: Path) -> None:
    upload = upload_to(Recorder(10), str(tmp_path))
    upload.write(0, b"12345")
    upload.set_size(5)
    upload.set_size(8)
    upload.set_size(6)
    with pytest.raises(WrittenTwice):
        upload.set_size(4)
    assert upload.size == 6


def test_after_the_commit_only_padding_comes(tmp_path: Path) -> None:
    upload = upload_to(Recorder(4), str(tmp_path))
    upload.write(0, b"1234")
    finish(upload)
    upload.write(4, b"\0\0")
    upload.set_size(6)
    assert upload.size == 6
    for offset, data in ((6, b"x"), (0, b"1"), (3, b"\0")):
        with pytest.raises(WrittenTwice):
            upload.write(offset, data)
    with pytest.raises(WrittenTwice):
        upload.set_size(7)
    assert upload.state is State.COMMITTED


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (InvalidPackage("bad"), InvalidPackage),
        (OSError(28, "No space left on device"), NoSpace),
        (ValueError("a bug"), ValueError),
    ],
)
def test_the_first_failure_is_the_last_word(tmp_path: Path, failure: Exception, expected: type[Exception]) -> None:
    recorder = Recorder(10)
    recorder.failure = failure
    upload = upload_to(recorder, str(tmp_path))
    with pytest.raises(expected):
        upload.write(0, b"12345")
    with pytest.raises(OvafsError):
        upload.write(5, b"6")
    with pytest.raises(OvafsError):
        finish(upload)
    with pytest.raises(OvafsError):
        upload.set_size(9)
    assert recorder.is_closed


def test_a_removed_upload_takes_its_volumes_along(pool: ImportPool) -> None:
    upload = real_upload(pool)
    upload.write(0, PACKAGE[:100_000])
    assert len(pool.files) == 2
    upload.discard()
    upload.discard()
    pool.assert_whole(0)
    with pytest.raises(StaleHandle):
        upload.write(100_000, b"x")


@pytest.mark.parametrize("cut", [1, 511, 512, 20_000, len(PACKAGE) - 1024 - 512])
def test_a_package_that_is_cut_is_never_registered(pool: ImportPool, cut: int) -> None:
    upload = real_upload(pool)
    upload.write(0, PACKAGE[:cut])
    with pytest.raises(IncompletePackage):
        finish(upload)
    assert pool.pool.machines() == []
    upload.write(cut, PACKAGE[cut:])
    finish(upload)
    pool.assert_whole(1)


def test_a_digest_that_does_not_fit_refuses_the_package(pool: ImportPool) -> None:
    parts = small_package()
    wrong = archive({**parts, "web.mf": b"SHA256(a.raw)= " + b"0" * 64 + b"\n"})
    upload = real_upload(pool)
    with pytest.raises(InvalidPackage, match="digest"):
        upload.write(0, wrong)
    assert upload.state is State.FAILED
    pool.assert_whole(0)


def test_skipped_holes_of_a_raw_disk_are_zeros(pool: ImportPool, tmp_path: Path) -> None:
    start = PACKAGE.index(content(1 << 16, 1)) + (1 << 14)  # its second quarter is zeros
    upload = real_upload(pool)
    upload.write(0, PACKAGE[:start])
    upload.write(start + (1 << 14), PACKAGE[start + (1 << 14) :])
    assert upload.position == start
    finish(upload)
    (machine,) = pool.pool.machines()
    assert guest_bytes(machine.disks[0].volume.path, "qcow2", tmp_path) == content(1 << 16, 1)
