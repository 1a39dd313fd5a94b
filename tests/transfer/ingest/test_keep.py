"""The target format ``keep``: qcow2 disks stay byte for byte as they came, or are refused; all others become qcow2."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import InvalidPackage, NoSpace, UnsupportedFeature
from ovafs.storage.chain import open_chain
from ovafs.transfer.ingest.choices import ImportChoices
from ovafs.transfer.ingest.package import import_package
from ovafs.transfer.ingest.target import TargetFormat
from tests.streams.decode.test_qcow2_hostile import HOSTILE, LATE
from tests.streams.decode.test_qcow2_judge import BROKEN
from tests.support import images
from tests.support.decoding import every, pieces
from tests.support.filesystems import in_memory
from tests.support.oracles import check_qcow2
from tests.support.packages import (
    MIB,
    QCOW2,
    RAW,
    STREAM,
    DiskText,
    archive,
    content,
    converted,
    descriptor,
    guest_bytes,
    import_pool,
    manifest,
)
from tests.support.processes import ENVIRONMENT, REPOSITORY
from tests.support.vmdk import stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.packages import ImportPool

OPTIONS = {
    "as it is": (),
    "compressed": ("-c",),
    "version 2": ("-o", "compat=0.10"),
    "tables behind": ("-o", "preallocation=full"),
    "subclusters": ("-o", "extended_l2=on,cluster_size=16k"),
    "unordered, 512 B": ("-W", "-o", "cluster_size=512"),
}


def assert_kept(path: str, file: bytes, data: bytes, folder: Path) -> None:
    """The volume is the file, and by qemu-img a sound image of the disk."""
    assert Path(path).read_bytes() == file
    check_qcow2(path)
    assert guest_bytes(path, "qcow2", folder) == data


@pytest.mark.parametrize("name", OPTIONS)
def test_byte_for_byte(pool: ImportPool, tmp_path: Path, name: str) -> None:
    data = content()
    file = converted(tmp_path, data, "qcow2", *OPTIONS[name])
    text = descriptor(DiskText("disk", len(data), QCOW2, f'ovf:size="{len(file)}"'))
    package = {"web.ovf": text, "disk": file}
    for members in (package, {**package, "web.mf": manifest(package)}, {"disk": file, "web.ovf": text}):
        imported = pool.take(archive(members), format="keep")
        volume = imported.machines[0].disks[0].volume
        assert volume.format == "qcow2"
        assert_kept(volume.path, file, data, tmp_path)
    pool.assert_whole(3)


def test_gzip_and_chunks(pool: ImportPool, tmp_path: Path) -> None:
    """What is kept is what was compressed, and what was cut into chunks."""
    data = content()
    file = converted(tmp_path, data, "qcow2", "-o", "preallocation=metadata")
    packed = gzip.compress(file, 1)
    for name, whole, attributes in (
        ("d.gz", packed, 'ovf:compression="gzip"'),
        ("d", file, ""),
        ("d", file, f'ovf:size="{len(file)}"'),
        ("d.gz", packed, 'ovf:compression="gzip"'),
    ):
        step = len(whole) // 3 + 1
        chunks = {f"{name}.{n:09}": whole[n * step : (n + 1) * step] for n in range(3)}
        for members, more in ((chunks, f'ovf:chunkSize="{step}" '), ({name: whole}, "")):
            text = descriptor(DiskText(name, len(data), QCOW2, more + attributes))
            imported = pool.take(archive({"web.ovf": text, **members}), format="keep")
            assert_kept(imported.machines[0].disks[0].volume.path, file, data, tmp_path)


def test_long_runs_of_zeros_become_holes(pool: ImportPool, tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(content(1 << 20))
    os.truncate(raw, 64 * MIB)
    image = images.convert(raw, tmp_path / "disk.qcow2", "raw", "qcow2", "-o", "preallocation=full")
    file = image.read_bytes() + bytes(300_000)
    assert len(file) > 64 * MIB
    package = archive({"web.ovf": descriptor(DiskText("disk", 64 * MIB, QCOW2)), "disk": file})
    volume = pool.take(package, format="keep").machines[0].disks[0].volume
    assert Path(volume.path).read_bytes() == file
    assert os.stat(volume.path).st_blocks * 512 < 3 * MIB


OTHERS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "raw": (lambda data: data, RAW),
    "raw, gzip": (gzip.compress, RAW),
    "vmdk": (lambda data: stream(data, "end").data, STREAM),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_become_qcow2(pool: ImportPool, tmp_path: Path, name: str) -> None:
    make, uri = OTHERS[name]
    data = content()
    package = archive({"web.ovf": descriptor(DiskText("disk", len(data), uri)), "disk": make(data)})
    volume = pool.take(package, format="keep").machines[0].disks[0].volume
    assert volume.format == "qcow2"
    assert guest_bytes(volume.path, "qcow2", tmp_path) == data


def test_a_raw_disk_with_a_qcow2_inside_of_it(pool: ImportPool, tmp_path: Path) -> None:
    """An image of an image: what is in the package decides once, and the catalog remembers it."""
    inner = converted(tmp_path, content(), "qcow2")
    outer = converted(tmp_path, inner, "qcow2")
    package = archive({"web.ovf": descriptor(DiskText("disk", len(inner), QCOW2)), "disk": outer})
    volume = pool.take(package, format="keep").machines[0].disks[0].volume
    assert_kept(volume.path, outer, inner, tmp_path)
    chain = open_chain(volume.path, volume.format)
    assert chain.virtual_size == len(inner)
    chain.close()


HOSTILE_FILES = {
    **{name: data for name, (data, message) in HOSTILE.items() if message},
    **LATE,
    **{f"judged: {name}": data for name, (data, _) in BROKEN.items()},
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_what_is_refused_leaves_nothing(pool: ImportPool, *, packed: bool) -> None:
    for name, data in HOSTILE_FILES.items():
        file = gzip.compress(data, 1) if packed else data
        text = descriptor(DiskText("disk", 1 << 29, QCOW2, 'ovf:compression="gzip"' if packed else ""))
        package = archive({"web.ovf": text, "disk": file})
        with pytest.raises((InvalidPackage, UnsupportedFeature)):
            pool.take(package, format="keep")
        assert pool.files == [], name
        choices = ImportChoices(format=TargetFormat.KEEP)
        cut = (memoryview(piece) for piece in pieces(package, every(100_003, len(package))))
        with pytest.raises((InvalidPackage, UnsupportedFeature)):
            import_package(pool.pool, cut, "x", choices, dry=True)
    pool.assert_whole()


def test_a_dry_run_judges_all_of_it_and_stores_nothing(pool: ImportPool, tmp_path: Path) -> None:
    data = content()
    for options in OPTIONS.values():
        file = converted(tmp_path, data, "qcow2", *options)
        package = archive({"web.ovf": descriptor(DiskText("disk", len(data), QCOW2)), "disk": file})
        choices = ImportChoices(format=TargetFormat.KEEP)
        cut = pieces(package, every(100_003, len(package)))
        pieced = (memoryview(piece) for piece in cut)
        assert import_package(pool.pool, pieced, "x", choices, dry=True).machines[0].name == "web"
    pool.assert_whole()


def test_a_cut_file_is_not_kept(pool: ImportPool, tmp_path: Path) -> None:
    file = converted(tmp_path, content(), "qcow2")
    text = descriptor(DiskText("disk", 2 * MIB, QCOW2))
    for length in (100, 5 * 65536, len(file) // 2, len(file) - 65536):
        with pytest.raises((InvalidPackage, UnsupportedFeature)):
            pool.take(archive({"web.ovf": text, "disk": file[:length]}), format="keep")
    pool.assert_whole()


def test_a_full_pool(tmp_path: Path) -> None:
    data = content(8 * MIB)
    file = converted(tmp_path, data, "qcow2")
    package = archive({"web.ovf": descriptor(DiskText("disk", len(data), QCOW2)), "disk": file})
    with in_memory(tmp_path, "tmpfs", "size=4M") as path:
        path.chmod(0o700)
        with import_pool(path / "pool") as small:
            with pytest.raises(NoSpace, match=r"\.part: cannot be written: No space left on device; make room"):
                small.take(package, format="keep")
            small.assert_whole()


KILLED = """
import os, signal, sys
from ovafs.inventory.pool import Pool
from ovafs.transfer.ingest.choices import ImportChoices
from ovafs.transfer.ingest.package import PackageImport
from ovafs.transfer.ingest.target import TargetFormat

pool, package, length = sys.argv[1:]
running = PackageImport(Pool(pool), "x", ImportChoices(format=TargetFormat.KEEP))
data = open(package, "rb").read()
running.receive_data(data[: int(length)])
if int(length) >= len(data):
    running.commit("x")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed(pool: ImportPool, tmp_path: Path) -> None:
    data = content()
    file = converted(tmp_path, data, "qcow2")
    package = tmp_path / "web.ova"
    package.write_bytes(archive({"web.ovf": descriptor(DiskText("disk", len(data), QCOW2)), "disk": file}))
    for length in (1_000_000, len(package.read_bytes()) - 1024, 1 << 40):
        command = [sys.executable, "-c", KILLED, str(pool.path), str(package), str(length)]
        done = subprocess.run(command, env=ENVIRONMENT, cwd=REPOSITORY, check=False)
        assert done.returncode == -signal.SIGKILL
        assert len(pool.files) == 1
        with pytest.raises(InvalidPackage):  # tidies up
            pool.take(b"no package")
    pool.assert_whole(1)
    assert_kept(pool.pool.machines()[0].disks[0].volume.path, file, data, tmp_path)
