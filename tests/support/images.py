"""Disk images for tests: made by qemu-img and qemu-io, or by hand where those refuse; and qemu-img as the judge."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ovafs.streams.extents import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from ovafs.streams.extents import ExtentMap

COPIED = 1 << 63
COMPRESSED = 1 << 62


def run(*command: object) -> str:
    """Output of a program that must succeed; its messages are in the failure."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.args}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


# -- made by QEMU ---------------------------------------------------------------------------------------------


def create(
    path: Path, size: int | str, *, backing: str | None = None, backing_format: str = "qcow2", **options: str
) -> Path:
    """A new qcow2 image; ``options`` as in ``qemu-img create -o``."""
    command: list[object] = ["qemu-img", "create", "-q", "-f", "qcow2"]
    if options:
        command += ["-o", ",".join(f"{key}={value}" for key, value in options.items())]
    if backing is not None:
        command += ["-b", backing, "-F", backing_format]
    run(*command, path, size)
    return path


def encrypted(path: Path, size: str, form: str = "qcow2") -> Path:
    """A new image that is encrypted by LUKS: a LUKS file, or a qcow2 image with LUKS inside."""
    prefix = "encrypt." if form == "qcow2" else ""
    options = [f"{prefix}key-secret=key", f"{prefix}iter-time=10", *(["encrypt.format=luks"] if prefix else [])]
    command = ["qemu-img", "create", "-q", "-f", form, "--object", "secret,id=key,data=secret"]
    for _ in range(50):
        done = subprocess.run([*command, "-o", ",".join(options), str(path), size], capture_output=True, check=False)
        # It measures how fast the machine derives keys, and gives up when its clock does not move meanwhile.
        if b"Unable to get accurate CPU usage" not in done.stderr:
            break
    assert done.returncode == 0, done
    return path


def io(path: Path, *commands: str, form: str = "qcow2") -> None:
    """Run qemu-io commands ("write -P 7 64k 128k", "discard 0 1M") on an image."""
    script = [word for command in commands for word in ("-c", command)]
    output = run("qemu-io", "-f", form, "-d", "unmap", *script, path)
    assert "failed" not in output.lower(), output


@contextmanager
def qemu_holds(path: Path, *options: str) -> Iterator[None]:
    """A qemu-io process that has the image open; ``-r`` among the options: for reading."""
    process = subprocess.Popen(
        ["qemu-io", *options, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write("length\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert "iB" in line or "bytes" in line, line
        yield
    finally:
        process.communicate("quit\n", timeout=30)


def scatter(path: Path, size: int, *, seed: int, count: int = 12, form: str = "qcow2", zeros: bool = True) -> None:
    """Random writes, zero writes and discards of random lengths all over the first ``size`` bytes."""
    rng = random.Random(seed)
    commands = []
    for number in range(count):
        start = rng.randrange(0, size, 512)
        length = min(rng.choice([512, 4096, 65536, 200 * 1024]), size - start)
        verb = rng.choice(["write", "write", "write", "write -z", "discard"] if zeros else ["write"])
        pattern = f" -P {(seed * 31 + number) % 255 + 1}" if verb == "write" else ""
        commands.append(f"{verb}{pattern} {start} {length}")
    io(path, *commands, form=form)


def make_chain(folder: Path, depth: int, size: int = 8 << 20, *, raw_base: bool = False, name: str = "disk") -> Path:
    """``depth`` files with relative backing names and scattered content each; returns the top."""
    base = folder / f"{name}-1.{'raw' if raw_base else 'qcow2'}"
    if raw_base:
        run("qemu-img", "create", "-q", "-f", "raw", base, size)
        scatter(base, size, seed=1, form="raw", zeros=False)
    else:
        create(base, size)
        scatter(base, size, seed=1)
    for number in range(2, depth + 1):
        top = folder / f"{name}-{number}.qcow2"
        create(top, size, backing=base.name, backing_format="raw" if base.suffix == ".raw" else "qcow2")
        scatter(top, size, seed=number, count=6)
        base = top
    return base


# -- made by hand ----------------------------------------------------------------------------------------------


def hand_made(
    *,
    version: int = 3,
    cluster_bits: int = 16,
    size: int = 1 << 29,
    l1_size: int = 1,
    l1_offset: int = 3,
    refcount_offset: int = 1,
    refcount_clusters: int = 1,
    snapshots: int = 0,
    snapshots_offset: int = 0,
    backing: bytes = b"",
    crypt: int = 0,
    incompatible: int = 0,
    header_length: int = 104,
    refcount_order: int = 4,
    after_header: bytes = b"",
    extensions: bytes = b"",
    l1: Sequence[int] = (),
    l2: Sequence[int] = (),
    tail: bytes = b"",
) -> bytes:
    """A qcow2 file: header, refcount table, refcount block, L1 table, L2 table, then ``tail``, a cluster each.

    Offsets below 16 are counted in clusters, so that the default layout holds for every cluster size.
    """
    cluster = 1 << cluster_bits

    def place(offset: int) -> int:
        return offset * cluster if offset < 16 else offset

    extra = after_header + extensions + (bytes(8) if version >= 3 else b"")
    backing_offset = (header_length if version >= 3 else 72) + len(extra) if backing else 0
    fields = (version, backing_offset, len(backing), cluster_bits, size, crypt, l1_size, place(l1_offset))
    header = struct.pack(">4sIQIIQIIQ", b"QFI\xfb", *fields)
    header += struct.pack(">QIIQ", place(refcount_offset), refcount_clusters, snapshots, snapshots_offset)
    if version >= 3:
        header += struct.pack(">QQQII", incompatible, 0, 0, refcount_order, header_length)
    blocks = [
        header + extra + backing,
        struct.pack(">Q", 2 * cluster),
        struct.pack(">H", 1) * 8,
        struct.pack(f">{len(l1)}Q", *l1),
        *([struct.pack(f">{len(l2)}Q", *l2)] if l2 else []),
    ]
    return b"".join(block.ljust(cluster, b"\0") for block in blocks) + tail


def deflated(data: bytes) -> bytes:
    """A raw deflate stream with the 4 KiB window that qcow2 uses."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -12)
    return stream.compress(data) + stream.flush()


def compressed_entry(offset: int, length: int, cluster_bits: int = 16) -> int:
    """The L2 entry of a compressed cluster of ``length`` bytes at ``offset``."""
    sectors = (offset % 512 + length + 511) // 512 - 1
    return COMPRESSED | sectors << (70 - cluster_bits) | offset


def sparse_qcow2(path: Path, size: int, clusters: Iterable[tuple[int, bytes]], cluster_bits: int = 16) -> Path:
    """A valid qcow2 with the given guest cluster numbers (ascending) and first bytes; fast where QEMU takes minutes.

    Layout: header, L1 table, L2 tables (each before the first data that it maps, as QEMU places them), refcounts last.
    """
    cluster = 1 << cluster_bits
    entries = cluster // 8
    l1_size = -(-size // (cluster * entries))
    l1 = [0] * l1_size
    used = 1 + -(-l1_size * 8 // cluster)
    with path.open("wb") as file:
        table: list[int] = []
        table_at = -1

        def finish() -> None:
            if table_at >= 0:
                file.seek(l1[table_at] & ~COPIED)
                file.write(struct.pack(f">{entries}Q", *table))

        for number, head in clusters:
            if number // entries != table_at:
                finish()
                table, table_at = [0] * entries, number // entries
                l1[table_at] = used * cluster | COPIED
                used += 1
            table[number % entries] = used * cluster | COPIED
            file.seek(used * cluster)
            file.write(head)
            used += 1
        finish()
        counts = cluster // 2
        blocks = 1
        while blocks * counts < used + blocks + -(-blocks * 8 // cluster):
            blocks += 1
        table_clusters = -(-blocks * 8 // cluster)
        total = used + table_clusters + blocks
        header = struct.pack(">4sIQIIQIIQ", b"QFI\xfb", 3, 0, 0, cluster_bits, size, 0, l1_size, cluster)
        header += struct.pack(">QIIQ", used * cluster, table_clusters, 0, 0) + struct.pack(">QQQII", 0, 0, 0, 4, 104)
        file.seek(0)
        file.write(header)
        file.seek(cluster)
        file.write(struct.pack(f">{l1_size}Q", *l1))
        file.seek(used * cluster)
        first = used + table_clusters
        file.write(struct.pack(f">{blocks}Q", *((first + block) * cluster for block in range(blocks))))
        file.seek(first * cluster)
        file.write(b"\0\1" * total)
        file.truncate(total * cluster)
    return path


# -- QEMU as the judge ------------------------------------------------------------------------------------------


class MapEntry(NamedTuple):
    """A run of ``qemu-img map``: ``stored`` unless it reads as zeros without being looked up."""

    start: int
    length: int
    depth: int
    stored: bool
    zero: bool
    offset: int | None


def qemu_map(path: Path, form: str = "qcow2") -> list[MapEntry]:
    """``qemu-img map --output=json``."""
    entries = json.loads(run("qemu-img", "map", "--output=json", "-f", form, path))
    return [MapEntry(e["start"], e["length"], e["depth"], e["data"], e["zero"], e.get("offset")) for e in entries]


def convert(path: Path, target: Path, form: str = "qcow2", to: str = "raw", *options: str) -> Path:
    """``qemu-img convert``: the guest's bytes as QEMU sees them."""
    run("qemu-img", "convert", "-f", form, "-O", to, *options, path, target)
    return target


def compare(first: Path, second: Path, first_format: str = "qcow2", second_format: str = "qcow2") -> None:
    """``qemu-img compare`` finds no difference."""
    run("qemu-img", "compare", "-f", first_format, "-F", second_format, first, second)


def stored_bytes(extents: ExtentMap) -> int:
    """Guest bytes that are stored somewhere (DATA and COMPRESSED)."""
    return sum(extent.length for extent in extents if extent.kind != Kind.ZERO)
