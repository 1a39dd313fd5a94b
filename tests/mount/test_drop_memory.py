"""What ten uploads at once take of the daemon's memory."""

from __future__ import annotations

import gzip
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.attack_tars import END, header
from tests.support.drop import MIB, Place, place_in
from tests.support.images import compare
from tests.support.packages import QCOW2, RAW, STREAM, DiskText, descriptor, import_pool
from tests.support.processes import ENVIRONMENT, run

SIZE = 300 * MIB

# How qemu-img makes the disk, and how the descriptor calls it.
FORMATS = {
    "raw": ("raw", (), RAW, ""),
    "qcow2": ("qcow2", (), QCOW2, ""),
    "qcow2-compressed": ("qcow2", ("-c",), QCOW2, ""),
    "vmdk": ("vmdk", ("-o", "subformat=streamOptimized"), STREAM, ""),
    "gzip": ("raw", (), RAW, 'ovf:compression="gzip"'),
}


def make_disk(path: Path) -> None:
    """Random bytes, text that can be compressed, and holes, in turns."""
    rng = random.Random(1)
    with path.open("wb") as file:
        for start in range(0, SIZE, 3 * MIB):
            file.seek(start)
            file.write(rng.randbytes(MIB))
            file.write(b"%016d" % start * (MIB // 16))
        file.truncate(SIZE)


def make_package(folder: Path, disk: Path, name: str) -> Path:
    form, options, uri, attributes = FORMATS[name]
    image, path = folder / "image", folder / f"{name}.ova"
    run("qemu-img", "convert", "-f", "raw", "-O", form, *options, disk, image)
    if "gzip" in attributes:
        with image.open("rb") as plain, gzip.open(folder / "packed", "wb", 1) as packed:
            shutil.copyfileobj(plain, packed, MIB)
        (folder / "packed").rename(image)
    text = descriptor(DiskText("disk", SIZE, uri, file=attributes), name=name)
    with path.open("wb") as file, image.open("rb") as content:
        file.write(header(b"vm.ovf", len(text)) + text + bytes(-len(text) % 512))
        file.write(header(b"disk", image.stat().st_size))
        shutil.copyfileobj(content, file, MIB)
        file.write(bytes(-image.stat().st_size % 512) + END)
    return path


def highest_memory(place: Place) -> float:
    """Of the daemon, in MiB."""
    status = Path(f"/proc/{place.mount.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


@pytest.mark.slow
def test_ten_uploads_at_once(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    make_disk(disk)
    packages = [make_package(tmp_path, disk, name) for name in FORMATS]
    with place_in(tmp_path) as place:
        idle = highest_memory(place)
        copies = [
            subprocess.Popen(["cp", str(package), str(place.drop / f"{number}-{package.name}")], env=ENVIRONMENT)
            for package in packages
            for number in (1, 2)
        ]
        assert [copy.wait(280) for copy in copies] == [0] * 10
        peak = highest_memory(place)
        print(f"memory of the daemon: idle {idle:.0f} MiB, at most {peak:.0f} MiB")  # noqa: T201 - for who measures
        # The aim is 100; it is 98 to 101, of which requests of the kernel in flight (1 MiB, held twice) are a third.
        assert peak < 105
        with import_pool(place.pool) as pool:
            machines = pool.pool.machines()
        assert len(machines) == 10
        for machine in machines:
            compare(disk, Path(machine.disks[0].volume.path), "raw", "qcow2")
