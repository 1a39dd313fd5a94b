"""What is measured: images made by qemu's own tools and pools that show them. Everything lies in the scratch folder."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import time
import uuid
from typing import TYPE_CHECKING

from ovafs.inventory.pool import Pool, create_pool
from ovafs.model import Disk, DiskFormat, Machine, Volume
from tests.bench.measure import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

CLUSTER = 64 << 10


def machine(name: str, image: Path, image_format: DiskFormat) -> Machine:
    """A machine with one disk."""
    now = int(time.time())
    volume = Volume(uuid=str(uuid.uuid4()), path=str(image), format=image_format)
    disk = Disk(uuid=str(uuid.uuid4()), alias=f"{name}_Disk1", volume=volume, boot=True)
    return Machine(uuid=str(uuid.uuid4()), name=name, memory=1 << 30, created=now, modified=now, disks=(disk,))


def make_pool(path: Path, machines: Iterable[Machine]) -> Path:
    """A pool with these machines, registered through the catalog; ovafs opens their images when it is mounted.

    Images that were made a moment ago are written to disk first: asking for the holes of a file does that otherwise,
    in the middle of a measurement.
    """
    create_pool(str(path))
    with contextlib.closing(Pool(str(path))) as pool:
        for one in machines:
            pool.add(one)
    run("sync", "-f", path)
    return path


def forget_plans(pool: Path) -> None:
    """Bring a pool back to the state of never having been mounted."""
    shutil.rmtree(pool / "cache", ignore_errors=True)


def warm(path: Path) -> None:
    """Bring a file into the page cache."""
    run("dd", f"if={path}", "of=/dev/null", "bs=1M", "status=none")


def raw_image(path: Path, size: int) -> Path:
    """Incompressible data without a hole."""
    block = os.urandom(16 << 20)
    with path.open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
    return path


def virtual_size(image: Path, form: str) -> int:
    """Guest bytes of an image; ``form`` as a descriptor names it."""
    name = "vmdk" if "vmdk" in form else "qcow2" if "qcow" in form else "raw"
    size: int = json.loads(run("qemu-img", "info", "-f", name, "--output=json", str(image)))["virtual-size"]
    return size


def text_image(path: Path, size: int) -> Path:
    """Made-up text, which deflate brings to about half."""
    source = random.Random(0)
    words = ["".join(source.choices("etaoinshrdlu", k=source.randint(2, 9))) for _ in range(4096)]
    block = " ".join(source.choices(words, k=2_500_000)).encode()[: 8 << 20]
    with path.open("wb") as file:
        for number in range(size // len(block)):
            turn = number * 4099
            file.write(block[turn:] + block[:turn])
    return path


def chain(folder: Path, data: int, extents: int) -> list[Path]:
    """A chain of three qcow2 images, the top first, holding ``data`` bytes in ``extents`` runs.

    Neighbouring runs lie in different layers with a cluster of nothing between them, so none can be joined.
    """
    clusters = data // CLUSTER
    runs, start = [], 0
    for number in range(extents):
        length = clusters * (number + 1) // extents - clusters * number // extents
        runs.append((start * CLUSTER, length * CLUSTER))
        start += length + 1
    size = start * CLUSTER
    images: list[Path] = []
    for layer, name in enumerate(("base", "middle", "top")):
        backing = ["-b", str(images[0]), "-F", "qcow2"] if images else []
        image = folder / f"{name}.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", *backing, str(image), str(size))
        _write_runs(image, runs[layer::3])
        images.insert(0, image)
    return images


def scattered(path: Path, size: int, clusters: int) -> Path:
    """A qcow2 with ``clusters`` single clusters of data in random places, written in random order.

    The images that guests leave after years look like this: every L2 table in use, hardly two neighbours together.
    """
    run("qemu-img", "create", "-q", "-f", "qcow2", str(path), str(size))
    places = random.Random(0).sample(range(size // CLUSTER), clusters)
    _write_runs(path, [(place * CLUSTER, CLUSTER) for place in places], "l2-cache-size=128M")
    return path


def compressed(path: Path, raw: Path, compression: str) -> Path:
    """A copy of ``raw`` with every cluster compressed by "zlib" or "zstd"."""
    run("qemu-img", "convert", "-q", "-c", "-O", "qcow2", "-o", f"compression_type={compression}", str(raw), str(path))
    return path


def small_images(folder: Path, number: int) -> list[Path]:
    """Many images of 10 GiB with 64 KiB of data each: one made by qemu, the others copies without its holes."""
    first = folder / "0.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", str(first), "10G")
    _write_runs(first, [(1 << 30, CLUSTER)])
    content = first.read_bytes()
    pieces = [(at, content[at : at + CLUSTER].rstrip(b"\0")) for at in range(0, len(content), CLUSTER)]
    images = [first]
    for count in range(1, number):
        image = folder / f"{count}.qcow2"
        fd = os.open(image, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        for at, piece in pieces:
            os.pwrite(fd, piece, at)
        os.truncate(fd, len(content))
        os.close(fd)
        images.append(image)
    return images


def _write_runs(image: Path, runs: Sequence[tuple[int, int]], *options: str) -> None:
    """Write the runs (offset, bytes), each with a byte of its own."""
    commands = "".join(f"write -q -P {1 + at // CLUSTER % 255} {at} {length}\n" for at, length in runs)
    spec = ",".join(["driver=qcow2", f"file.filename={image}", *options])
    subprocess.run(
        ["qemu-io", "-t", "unsafe", "--image-opts", spec],
        input=commands,
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )
