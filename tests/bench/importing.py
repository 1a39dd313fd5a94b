"""Taking packages apart, beside ``tar`` and what turns the unpacked disk into a volume."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ovafs.inventory.pool import create_pool
from ovafs.model import DiskFormat
from tests.bench import inputs, mounts
from tests.bench.measure import run, take_turns
from tests.support.packages import QCOW2, RAW, STREAM, DiskText, descriptor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.bench.measure import Bench

OURS = "ovafs import"
MIB = 1 << 20

# With this name space a descriptor says that no manifest comes with it: oVirt writes none.
OVIRT = (b"<Envelope ", b'<Envelope xmlns:ovirt="http://www.ovirt.org/ovf" ')


class Peer(NamedTuple):
    """What makes a volume of the unpacked disk file: the words before source and target."""

    subject: str
    words: Sequence[str]


def importing(bench: Bench) -> None:
    """Every kind of package, to the formats that the pool has."""
    size = 256 * MIB if bench.quick else 4 << 30
    with _ovirt_package(bench, size) as package:
        for form in (DiskFormat.QCOW2, DiskFormat.RAW):
            _compare(bench, f"import of a qcow2 disk to {form}", package, form, _convert(QCOW2, form), 0.7)
    with _package(bench, _half_text(bench, size // 4), QCOW2) as package:
        _digests(bench, package)
        _until_visible(bench, package)
    with _package(bench, _stream_optimized(bench, size // 4), STREAM) as package:
        peer = _convert(STREAM, DiskFormat.QCOW2)
        _compare(bench, "import of a streamOptimized VMDK to qcow2", package, DiskFormat.QCOW2, peer, 0.8)
    with _package(bench, _mostly_zeros(bench, size), RAW) as package:
        peer = Peer("tar + cp --sparse=always", ["cp", "--sparse=always"])
        _compare(bench, "import of a raw disk, 90 % zeros, to raw", package, DiskFormat.RAW, peer, 0.5)


# -- packages


def _descriptor(disk: Path, form: str) -> bytes:
    return descriptor(DiskText(disk.name, inputs.virtual_size(disk, form), form))


@contextlib.contextmanager
def _ovirt_package(bench: Bench, size: int) -> Iterator[Path]:
    """A package as ovafs and oVirt write it."""
    image = inputs.raw_image(bench.scratch / "disk.raw", size)
    pool = inputs.make_pool(bench.scratch / "pool", [inputs.machine("vm", image, DiskFormat.RAW)])
    run(sys.executable, "-m", "ovafs", "export", "-q", pool, "vm", bench.scratch / "vm.ova")
    image.unlink()
    shutil.rmtree(pool)
    yield bench.scratch / "vm.ova"
    (bench.scratch / "vm.ova").unlink()


@contextlib.contextmanager
def _package(bench: Bench, disk: Path, form: str) -> Iterator[Path]:
    """A package of one disk, made with GNU tar; nothing in it is hashed, as in those of oVirt."""
    text = bench.scratch / "vm.ovf"
    text.write_bytes(_descriptor(disk, form).replace(*OVIRT))
    package = bench.scratch / "vm.ova"
    run("tar", "-C", bench.scratch, "-cf", package, text.name, disk.name)
    yield package
    for path in (package, disk, text):
        path.unlink()


def _half_text(bench: Bench, size: int) -> Path:
    """A qcow2 image of text."""
    raw = inputs.text_image(bench.scratch / "text.raw", size)
    return _converted(raw, bench.scratch / "disk.qcow2", "qcow2")


def _stream_optimized(bench: Bench, size: int) -> Path:
    raw = inputs.text_image(bench.scratch / "text.raw", size)
    return _converted(raw, bench.scratch / "disk.vmdk", "vmdk", "-o", "subformat=streamOptimized")


def _mostly_zeros(bench: Bench, size: int) -> Path:
    """A raw disk that is all there; in each 10 MiB the first has data."""
    path = bench.scratch / "disk.raw"
    with inputs.raw_image(bench.scratch / "data.raw", 16 * MIB).open("rb") as source, path.open("wb") as target:
        block = source.read(MIB)
        for _ in range(size // (10 * MIB)):
            target.write(block + bytes(9 * MIB))
    return path


def _converted(raw: Path, target: Path, form: str, *options: str) -> Path:
    run("qemu-img", "convert", "-f", "raw", "-O", form, *options, raw, target)
    raw.unlink()
    return target


def _convert(source: str, form: DiskFormat) -> Peer:
    name = {QCOW2: "qcow2", STREAM: "vmdk"}[source]
    return Peer("tar + qemu-img convert", ["qemu-img", "convert", "-f", name, "-O", str(form)])


# -- times


def _compare(bench: Bench, case: str, package: Path, form: DiskFormat, peer: Peer, at_most: float) -> None:
    """The import puts everything on stable storage; so must the peer in the second comparison."""
    durable = f"{peer.subject} + sync"
    seconds = _in_turns(
        bench,
        package,
        {
            OURS: partial(_import, bench, case, package, form),
            peer.subject: partial(_unpack, bench, case, package, peer, peer.subject),
            durable: partial(_unpack, bench, case, package, peer, durable),
        },
    )
    figures = {subject: bench.figure(case, subject, values, "s") for subject, values in seconds.items()}
    bench.judge_time("import", case, figures[OURS], figures[peer.subject], at_most)
    bench.judge_time("import-durable", case, figures[OURS], figures[durable], at_most)


def _in_turns(bench: Bench, package: Path, subjects: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    def one(subject: Callable[[], float]) -> float:
        run("sync", "-f", bench.scratch)
        inputs.warm(package)
        return subject()

    return take_turns({name: partial(one, subject) for name, subject in subjects.items()}, bench.rounds)


def _import(bench: Bench, case: str, package: Path, form: DiskFormat) -> float:
    pool = bench.scratch / "target"
    create_pool(str(pool))
    command: list[str | Path] = [sys.executable, "-m", "ovafs", "import", "-q", "--format", str(form), pool, package]
    seconds = bench.timed(f"{case}: {OURS}", command)
    shutil.rmtree(pool)
    return seconds


def _unpack(bench: Bench, case: str, package: Path, peer: Peer, subject: str) -> float:
    folder, volume = bench.scratch / "unpacked", bench.scratch / "volume"
    folder.mkdir()
    disk = folder / run("tar", "tf", package).split()[1]
    commands: list[list[str | Path]] = [["tar", "-C", folder, "-xf", package], [*peer.words, disk, volume]]
    if subject.endswith("sync"):
        commands.append(["sync", volume])
    seconds = bench.timed(f"{case}: {subject}", *commands)
    shutil.rmtree(folder)
    volume.unlink()
    return seconds


def _digests(bench: Bench, package: Path) -> None:
    """With a manifest right behind the descriptor; and where one may still come, with whatever algorithm."""
    checked, unknown = bench.scratch / "checked.ova", bench.scratch / "unknown.ova"
    with _members(bench, package) as folder:
        text, disk = folder / "vm.ovf", next(folder.glob("disk.*"))
        text.write_bytes(_descriptor(disk, QCOW2))
        lines = [f"SHA256({path.name})= {_sha256(path)}\n" for path in (text, disk)]
        (folder / "vm.mf").write_text("".join(lines))
        run("tar", "-C", folder, "-cf", checked, text.name, "vm.mf", disk.name)
        run("tar", "-C", folder, "-cf", unknown, text.name, disk.name)
    case = "import with digests"
    subjects = {"SHA-256": checked, "all three, no manifest yet": unknown, "none": package}
    seconds = _in_turns(
        bench, package, {name: partial(_import, bench, case, path, DiskFormat.QCOW2) for name, path in subjects.items()}
    )
    figures = {subject: bench.figure(case, subject, values, "s") for subject, values in seconds.items()}
    bench.judge_time("import-digests", case, figures["SHA-256"], figures["none"], 1.25)
    checked.unlink()
    unknown.unlink()


@contextlib.contextmanager
def _members(bench: Bench, package: Path) -> Iterator[Path]:
    folder = bench.scratch / "members"
    folder.mkdir()
    run("tar", "-C", folder, "-xf", package)
    yield folder
    shutil.rmtree(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _until_visible(bench: Bench, package: Path) -> None:
    """From the first byte written to ``drop/`` to the machine in ``vms/``, less the time of the copy itself."""
    case = "upload to drop/, from cp's end to the machine in vms/"
    pool = bench.scratch / "target"
    waits = []
    for _ in range(bench.rounds):
        create_pool(str(pool))
        with mounts.ovafs(pool, bench.scratch / "ovafs") as mount:
            seen = threading.Event()
            watcher = threading.Thread(target=_watch, args=(mount.root / "vms", seen))
            watcher.start()
            bench.timed(case, ["cp", package, mount.root / "drop" / "vm.ova"])
            copied = time.perf_counter()
            seen.wait(mounts.PATIENCE)
            waits.append(max(0.0, time.perf_counter() - copied))
            watcher.join()
        shutil.rmtree(pool)
    bench.judge_limit("import-visible", case, bench.figure(case, "ovafs", waits, "s"), 1)


def _watch(folder: Path, seen: threading.Event) -> None:
    deadline = time.monotonic() + mounts.PATIENCE
    while time.monotonic() < deadline and not any(folder.iterdir()):
        time.sleep(0.01)
    seen.set()
