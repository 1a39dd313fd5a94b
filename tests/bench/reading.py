"""Sequential reads, copies and random reads of one OVA, beside every peer."""

from __future__ import annotations

import contextlib
import itertools
import sys
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ovafs.model import DiskFormat
from tests.bench import inputs, mounts
from tests.bench.measure import run, take_turns
from tests.bench.random_reader import drop_cached_pages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.bench.measure import Bench

OVAFS = "ovafs"
MINIMAL = "minimal pyfuse3"
C_EXAMPLE = "passthrough_ll"
C_EXAMPLE_AHEAD = "passthrough_ll, read-ahead 1 MiB"
PLAIN = "plain file"
CONVERT_TAR = "qemu-img convert + tar"

MOUNTS = (OVAFS, MINIMAL, C_EXAMPLE, C_EXAMPLE_AHEAD)


class Rig(NamedTuple):
    """One OVA's bytes, shown by every peer at the same time."""

    label: str
    image_format: DiskFormat
    sources: list[Path]  # the image and its backing files
    files: dict[str, Path]  # by subject, all with the same content

    @property
    def size(self) -> int:
        return self.files[PLAIN].stat().st_size

    def warm(self, subject: str) -> None:
        """Read the subject's source: a kernel that evicts what lies idle (DAMON) may have dropped it meanwhile."""
        for path in self.sources if subject in {OVAFS, CONVERT_TAR} else [self.files[PLAIN]]:
            inputs.warm(path)


def raw(bench: Bench) -> None:
    """An OVA of 4 GiB from a raw image."""
    image = inputs.raw_image(bench.scratch / "disk.raw", _data(bench))
    with _rig(bench, "raw", [image], DiskFormat.RAW) as rig:
        _read_and_copy(bench, rig)


def chain(bench: Bench) -> None:
    """An OVA of 4 GiB from a chain of three qcow2 images with 10,000 extents."""
    images = inputs.chain(bench.scratch, _data(bench), 1_000 if bench.quick else 10_000)
    with _rig(bench, "chain", images, DiskFormat.QCOW2) as rig:
        _read_and_copy(bench, rig)


def _data(bench: Bench) -> int:
    return 256 << 20 if bench.quick else 4 << 30


@contextlib.contextmanager
def _rig(bench: Bench, label: str, sources: list[Path], image_format: DiskFormat) -> Iterator[Rig]:
    plain_folder = bench.scratch / "plain"
    plain_folder.mkdir()
    plain = plain_folder / "vm.ova"
    pool = inputs.make_pool(bench.scratch / "pool", [inputs.machine("vm", sources[0], image_format)])
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(mounts.ovafs(pool, bench.scratch / "ovafs")).root / "vms" / "vm.ova"
        run("cp", ours, plain)  # as sparse as ovafs says its file is: cp treats all peers alike
        program = mounts.build_c_example(bench.scratch)
        peers = {
            MINIMAL: mounts.minimal(plain, bench.scratch / "minimal"),
            C_EXAMPLE: mounts.c_example(program, plain_folder, bench.scratch / "c"),
            C_EXAMPLE_AHEAD: mounts.c_example(program, plain_folder, bench.scratch / "c-1024", 1024),
        }
        files = {name: stack.enter_context(peer).root / "vm.ova" for name, peer in peers.items()}
        yield Rig(label, image_format, sources, {OVAFS: ours, **files, PLAIN: plain})


def _read_and_copy(bench: Bench, rig: Rig) -> None:
    _sequential(bench, rig)
    _random(bench, rig)
    _copy(bench, rig)


def _sequential(bench: Bench, rig: Rig) -> None:
    case = f"sequential read, {rig.label}"

    def read(subject: str) -> float:
        """In GB/s."""
        # The plain file stays in the page cache: it is the source.
        rig.warm(subject)
        keep = [] if subject == PLAIN else ["iflag=nocache"]
        file = rig.files[subject]
        seconds = bench.timed(f"{case}: {subject}", ["dd", f"if={file}", "of=/dev/null", "bs=1M", "status=none", *keep])
        return rig.size / seconds / 1e9

    for subject in MOUNTS:
        drop_cached_pages(rig.files[subject])
    rates = take_turns({subject: partial(read, subject) for subject in rig.files}, bench.rounds)
    figures = {subject: bench.figure(case, subject, values, "GB/s") for subject, values in rates.items()}
    bench.judge_ratio(f"sequential-{rig.label}-minimal", case, figures[OVAFS], figures[MINIMAL], 0.9)
    for peer in (C_EXAMPLE, C_EXAMPLE_AHEAD):
        bench.judge_ratio(f"sequential-{rig.label}-c", case, figures[OVAFS], figures[peer], 2)


def _random(bench: Bench, rig: Rig) -> None:
    for block_size, reads in ((4 << 10, 10_000), (128 << 10, 4_000)):
        for readers in (1, 8):
            _random_reads(bench, rig, block_size, readers, min(reads, rig.size // block_size // 2))


def _random_reads(bench: Bench, rig: Rig, block_size: int, readers: int, reads: int) -> None:
    case = f"random {block_size >> 10} KiB, {readers} reader{'s'[: readers - 1]}, {rig.label}"
    subjects = (OVAFS, MINIMAL, C_EXAMPLE)
    seeds = {subject: itertools.count() for subject in subjects}

    def read(subject: str) -> float:
        """In reads per second."""
        numbers = [str(number) for number in (block_size, readers, reads, next(seeds[subject]))]
        command = [sys.executable, "-m", "tests.bench.random_reader", str(rig.files[subject]), *numbers]
        bench.record(f"{case}: {subject}", command)
        rig.warm(subject)
        return reads / float(run(*command))

    rates = take_turns({subject: partial(read, subject) for subject in subjects}, bench.rounds)
    figures = {subject: bench.figure(case, subject, values, "reads/s") for subject, values in rates.items()}
    bench.judge_ratio(f"random-{block_size >> 10}k-{readers}", case, figures[OVAFS], figures[MINIMAL], 0.7)


def _copy(bench: Bench, rig: Rig) -> None:
    case = f"cp, {rig.label}"
    target, converted = bench.scratch / "copy.ova", bench.scratch / "converted.qcow2"

    def clean() -> None:
        target.unlink(missing_ok=True)
        converted.unlink(missing_ok=True)
        run("sync", "-f", bench.scratch)

    def copy(subject: str) -> float:
        rig.warm(subject)
        seconds = bench.timed(f"{case}: {subject}", ["cp", rig.files[subject], target])
        if subject != PLAIN:
            drop_cached_pages(rig.files[subject])
        clean()
        return seconds

    def convert() -> float:
        image_format = rig.image_format.value
        rig.warm(CONVERT_TAR)
        seconds = bench.timed(
            f"{case}: {CONVERT_TAR}",
            ["qemu-img", "convert", "-f", image_format, "-O", "qcow2", rig.sources[0], converted],
            ["tar", "-C", bench.scratch, "-cf", target, converted.name],
        )
        clean()
        return seconds

    subjects = {subject: partial(copy, subject) for subject in (OVAFS, MINIMAL, C_EXAMPLE, PLAIN)}
    seconds = take_turns({**subjects, CONVERT_TAR: convert}, bench.rounds)
    figures = {subject: bench.figure(case, subject, values, "s") for subject, values in seconds.items()}
    for key, peer, at_most in (("minimal", MINIMAL, 1 / 0.9), ("c", C_EXAMPLE, 0.5), ("convert", CONVERT_TAR, 0.5)):
        bench.judge_time(f"cp-{rig.label}-{key}", case, figures[OVAFS], figures[peer], at_most)
