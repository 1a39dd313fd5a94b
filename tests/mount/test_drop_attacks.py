"""Every hostile file of the lower layers, dropped into one mount: refused, nothing left, the daemon as before."""

from __future__ import annotations

import errno
import os
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.formats.ovf import test_read_xml as xml
from tests.support import attack_tars, vmdk
from tests.support.drop import MIB, Place, place_in
from tests.support.images import hand_made
from tests.support.mount import PATIENCE
from tests.support.packages import DiskText, archive, content, descriptor, import_pool, small_package
from tests.support.pools import eventually
from tests.support.processes import is_traced, started
from tests.transfer.ingest.test_refused import HOSTILE_DISKS

if TYPE_CHECKING:
    from collections.abc import Iterator

REFUSED = {errno.EINVAL, errno.EOPNOTSUPP}

FIRST = content(1 << 16)


def with_disk(data: bytes) -> bytes:
    """A package whose first disk is good, and complete before the second one begins."""
    text = descriptor(DiskText("a.raw", len(FIRST)), DiskText("b", 1 << 29))
    return archive({"web.ovf": text, "a.raw": FIRST, "b": data})


def packages() -> Iterator[tuple[str, bytes]]:
    """Everything that is hostile, by name."""
    for name, (data, _) in attack_tars.REFUSED.items():
        yield f"tar: {name}", data
    for name, (data, _) in xml.HOSTILE.items():
        yield f"descriptor: {name}", archive({"a.raw": FIRST, "web.ovf": data})
    for name, data in HOSTILE_DISKS.items():
        yield name, with_disk(data)


def refuse(place: Place, name: str, package: bytes) -> str:
    """Drop a package that is to be refused, look at what is left, and return the report."""
    before = os.listdir(place.pool / "volumes")
    target, report = place.drop / "evil.ova", place.drop / "evil.ova.report.txt"
    failed = 0
    try:
        with target.open("wb", buffering=0) as file:
            for start in range(0, len(package), MIB):
                file.write(package[start : start + MIB])
    except OSError as error:
        failed = error.errno or 0
    text = report.read_text() if report.exists() else ""
    assert failed in REFUSED, f"{name}: {os.strerror(failed)}: {text}"
    assert "Nothing was registered" in text, name
    assert all(character.isprintable() or character == "\n" for character in text), name
    target.unlink()
    report.unlink()
    assert os.listdir(place.pool / "volumes") == before, name
    return text


def highest_memory(place: Place) -> int:
    """Of the daemon, in bytes."""
    status = Path(f"/proc/{place.mount.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10  # type: ignore[index]


def open_files(place: Place) -> list[str]:
    """Of the daemon, sorted; without the sockets and pipes of its event loop."""
    links = Path(f"/proc/{place.mount.pid}/fd").iterdir()
    return sorted(str(link.readlink()) for link in links)


@pytest.mark.parametrize("form", ["qcow2", "keep"])
def test_the_whole_corpus_in_one_mount(tmp_path: Path, form: str) -> None:
    good = archive(small_package())
    with place_in(tmp_path, f"drop_format={form}") as place:
        place.mount.expect_log("evil.ova: not imported")
        (place.drop / "first.ova").write_bytes(good)
        files, memory = open_files(place), highest_memory(place)
        for name, package in packages():
            refuse(place, name, package)
        assert place.machines() == ["web"]
        assert open_files(place) == files
        # The largest descriptors that are read take the most: 8 MiB of text, 100,000 nodes.
        assert highest_memory(place) - memory < 64 * MIB
        (place.drop / "last.ova").write_bytes(good)
        assert place.machines() == ["web", "web-2"]
        assert sorted(os.listdir(place.mount.path / "vms")) == ["web-2.ova", "web.ova"]
        with import_pool(place.pool) as pool:
            pool.assert_whole(2)


def test_nothing_that_a_package_names_is_opened(tmp_path: Path) -> None:
    """Not a file of the host, not a connection, as the kernel sees it: whatever names are in disks and descriptors."""
    canary, trace = tmp_path / "canary", tmp_path / "trace"
    canary.write_bytes(b"secret" * 1000)
    named = [
        with_disk(hand_made(backing=str(canary).encode())),
        with_disk(hand_made(backing=b"nbd://127.0.0.1:10809/x")),
        with_disk(hand_made(backing=b'json:{"driver":"file","filename":"%s"}' % str(canary).encode())),
        with_disk(hand_made(incompatible=4, extensions=_data_file(str(canary).encode()))),
        with_disk(vmdk.descriptor("monolithicFlat", f'RW 2 FLAT "{canary}" 0').ljust(4096, b"\0")),
        with_disk(vmdk.header(2048) + vmdk.descriptor(extent=f'RW 2 FLAT "{canary}" 0').ljust(10240, b"\0")),
        *(
            archive({"web.ovf": descriptor(DiskText(href, 512))})
            for href in (str(canary), f"file://{canary}", "canary")
        ),
        archive({"web.ovf": descriptor(DiskText("http://127.0.0.1:10809/disk", 512))}),
        archive({"web.ovf": b'<!DOCTYPE x [<!ENTITY e SYSTEM "file://%s">]><x>&e;</x>' % str(canary).encode()}),
    ]
    with place_in(tmp_path) as place:
        place.mount.expect_log("evil.ova: not imported")
        strace = ("strace", "-f", "-qq", "-e", "trace=open,openat,openat2,connect,execve,socket", "-o", trace)
        with started(*strace, "-p", str(place.mount.pid), log=tmp_path / "strace.log") as tracer:
            eventually(lambda: is_traced(place.mount.pid), "strace is attached")
            for number, package in enumerate(named):
                assert "secret" not in refuse(place, str(number), package)
            (place.drop / "web.ova").write_bytes(archive(small_package()))
            tracer.terminate()
            tracer.wait(PATIENCE)
        calls = trace.read_text()
    assert "/volumes/" in calls, "the good package was seen"
    assert [line for line in calls.splitlines() if "canary" in line or re.search(r"connect|execve|AF_INET", line)] == []
    assert place.machines() == ["web"]


def _data_file(name: bytes) -> bytes:
    """The header extension with the name of an external data file."""
    return struct.pack(">II", 0x44415441, len(name)) + name + bytes(-len(name) % 8)
