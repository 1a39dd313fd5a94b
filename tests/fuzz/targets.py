"""What is fuzzed: each target damages something, and asserts what must hold whatever it has become.

Contents or an OvafsError, and nothing else; the same in whatever pieces it comes; nothing left behind by what is
refused; and what is accepted is a volume that qemu-img finds nothing wrong with.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ovafs.errors import OvafsError
from ovafs.formats.manifest import parse_manifest
from ovafs.formats.ovf.read import read_descriptor
from ovafs.transfer.ingest.landing import DryLanding
from ovafs.transfer.ingest.session import Ingest
from ovafs.transfer.ingest.signature import Trust
from ovafs.transfer.ingest.target import TargetFormat
from tests.fuzz.damage import damaged, with_right_checksums
from tests.support.decoding import every, pieces, random_cuts
from tests.support.packages import (
    QCOW2,
    STREAM,
    VHD,
    DiskText,
    archive,
    content,
    converted,
    descriptor,
    import_pool,
    manifest,
    small_package,
)
from tests.support.processes import run
from tests.support.shared import SHARED

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Iterator

    from ovafs.formats.ovf.read_model import Descriptor, PackageDisk
    from tests.support.packages import ImportPool

_CAPACITY = 1 << 16
_SPOOL_LIMIT = 16 << 20


# -- what is good


@cache
def disk_files() -> dict[str, tuple[bytes, str]]:
    """Disk files of every format with the URI that the descriptor has for them, small, and made by QEMU."""
    data = content(_CAPACITY)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        qcow2 = converted(folder, data, "qcow2", "-o", "cluster_size=4k")
        return {
            "raw": (data, ""),
            "qcow2": (qcow2, QCOW2),
            "qcow2, 512": (converted(folder, data, "qcow2", "-o", "cluster_size=512,refcount_bits=1"), QCOW2),
            "qcow2, version 2": (converted(folder, data, "qcow2", "-o", "compat=0.10,cluster_size=1k"), QCOW2),
            "qcow2, compressed": (converted(folder, data, "qcow2", "-c", "-o", "cluster_size=4k"), QCOW2),
            "vmdk, stream": (converted(folder, data, "vmdk", "-o", "subformat=streamOptimized"), STREAM),
            "vmdk, sparse": (converted(folder, data, "vmdk", "-o", "subformat=monolithicSparse"), STREAM),
            "vdi": (converted(folder, data, "vdi"), ""),
            "vhd": (converted(folder, data, "vpc", "-o", "force_size=on"), VHD),
            "vhd, fixed": (converted(folder, data, "vpc", "-o", "subformat=fixed,force_size=on"), VHD),
            "gzip": (gzip.compress(data, mtime=0), ""),
            "gzip of qcow2": (gzip.compress(qcow2, mtime=0), QCOW2),
        }


@cache
def descriptors() -> list[bytes]:
    """Descriptors of our own, and those of the samples where they are."""
    texts = [descriptor(DiskText("d", _CAPACITY), macs=["52:54:00:00:00:01"])]
    if SHARED.is_dir():
        samples = [path.read_bytes() for path in sorted(SHARED.glob("samples/**/*.ovf"))]
        texts += [text for text in samples if len(text) < 100_000]
    return texts


@cache
def packages() -> list[bytes]:
    """Packages in which every kind of member is, in every order."""
    disks = {f"{number}.disk": file for number, file in enumerate(disk_files().values())}
    text = descriptor(*(DiskText(name, _CAPACITY, uri) for name, (_, uri) in disks.items()))
    members = {name: data for name, (data, _) in disks.items()}
    parts = {"vm.ovf": text, **members}
    return [
        archive({"vm.ovf": text, "vm.mf": manifest(parts), **members}),
        archive({**parts, "vm.mf": manifest(parts, "sha1")}),
        archive(small_package(), end=False),
        archive({**members, "vm.ovf": text}),
    ]


# -- what is judged


def _all_qcow2(descriptor: Descriptor) -> dict[PackageDisk, TargetFormat]:
    return {slot.disk: TargetFormat.QCOW2 for system in descriptor.systems for slot in system.disks}


def outcome(data: bytes, cuts: Iterable[int] = ()) -> str:
    """What comes of a package that is only verified; anything but contents and OvafsError is an error of ours."""
    ingest = Ingest(DryLanding("/nowhere"), _SPOOL_LIMIT, Trust(), _all_qcow2)
    try:
        for piece in pieces(data, cuts):
            ingest.receive_data(memoryview(piece))
        contents = ingest.finish()
    except OvafsError as error:
        # How much of a disk that is too large had come when that was seen is no matter.
        text = re.sub(r"holds \d+ bytes at least", "holds too much", str(error))
        return f"{type(error).__name__}: {text}"
    finally:
        ingest.close()
    sizes = [(disk.id, writer.virtual_size) for disk, writer in contents.disks.items()]
    return f"{sizes} {contents.warnings}"


def _same_in_any_pieces(data: bytes, rng: random.Random) -> str:
    whole = outcome(data)
    cuts = rng.choice((every(512, len(data)), every(1000, len(data)), random_cuts(len(data), rng.getrandbits(32))))
    cut = outcome(data, cuts)
    if "the gzip data is damaged" in whole + cut:  # that, or what inflates before the damage: whichever is seen first
        assert not whole.startswith("[")
        assert not cut.startswith("[")
        return whole
    assert cut == whole, f"whole: {whole}\nin pieces: {cut}"
    return whole


def _package_of(file: bytes, uri: str, rng: random.Random) -> bytes:
    """Everything is right but what is in the disk file."""
    attributes = rng.choice(("", "", 'ovf:compression="gzip"')) if file.startswith(b"\x1f\x8b") else ""
    parts = {"vm.ovf": descriptor(DiskText("d", _CAPACITY, uri, file=attributes)), "d": file}
    return archive({**parts, "vm.mf": manifest(parts)} if rng.random() < 0.5 else parts)


@contextlib.contextmanager
def _pool() -> Iterator[ImportPool]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, import_pool(Path(folder) / "pool") as pool:
        yield pool


# -- targets


def fuzz_manifest(rng: random.Random) -> str:
    """A manifest."""
    text = damaged(manifest(small_package(), rng.choice(("sha1", "sha256", "sha512"))), rng)
    try:
        return f"{len(parse_manifest(text))} digests"
    except OvafsError as error:
        return str(error)


def fuzz_descriptor(rng: random.Random) -> str:
    """A descriptor."""
    text = damaged(rng.choice(descriptors()), rng)
    try:
        return f"{len(read_descriptor(text).systems)} systems"
    except OvafsError as error:
        return str(error)


def fuzz_package(rng: random.Random) -> str:
    """A package, anywhere in it."""
    package = damaged(rng.choice(packages()), rng)
    return _same_in_any_pieces(with_right_checksums(package) if rng.random() < 0.7 else package, rng)


def fuzz_disk(rng: random.Random) -> str:
    """A disk file in a package that is right otherwise."""
    file, uri = rng.choice(list(disk_files().values()))
    return _same_in_any_pieces(_package_of(damaged(file, rng), uri, rng), rng)


def fuzz_import(rng: random.Random) -> str:
    """A disk file that is really imported, in every format: a volume without an error, or nothing at all."""
    file, uri = rng.choice(list(disk_files().values()))
    package = _package_of(damaged(file, rng), uri, rng)
    form = rng.choice(list(TargetFormat))
    with _pool() as pool:
        try:
            pool.take(package, cuts=random_cuts(len(package), rng.getrandbits(32)), format=form)
        except OvafsError as error:
            pool.assert_whole()
            return str(error)
        pool.assert_whole(1)
        (disk,) = pool.pool.machines()[0].disks
        if disk.volume.format == "qcow2":
            _check(disk.volume.path, is_kept=form is TargetFormat.KEEP)
        return f"imported as {form}"


def _check(image: str, *, is_kept: bool) -> None:
    """What we wrote is faultless; what came as it is may have leaks (3), and a harmless flag that QEMU counts."""
    checked = run("qemu-img", "check", "-f", "qcow2", image, status=None)
    if not is_kept:
        assert checked.returncode == 0, checked
    elif checked.returncode == 2:  # errors; see qcow2_judge for the flag
        said = (checked.stdout + checked.stderr).splitlines()
        errors = [line for line in said if line.startswith("ERROR") and "OFLAG_COPIED" not in line]
        assert errors == [], checked
    else:
        assert checked.returncode in {0, 3}, checked


TARGETS: dict[str, Callable[[random.Random], str]] = {
    "manifest": fuzz_manifest,
    "descriptor": fuzz_descriptor,
    "package": fuzz_package,
    "disk": fuzz_disk,
    "import": fuzz_import,
}
