"""libvirt's domains: a listing of a thousand, reads over NBD, and a guest that writes while it is read."""

from __future__ import annotations

import contextlib
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING

import trio

from ovafs.model import DiskFormat
from ovafs.storage.nbd.volume import open_nbd
from tests.bench import inputs, mounts
from tests.bench.measure import run, take_turns
from tests.support.domains import domain_xml, write_node
from tests.support.guests import CountingGuest, counting_image
from tests.support.libvirtd import own_libvirt
from tests.support.nbd_servers import qemu_nbd
from tests.support.pools import Image
from tests.support.processes import started

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ovafs.formats.nbd import Export
    from ovafs.storage.nbd.volume import NbdVolume
    from tests.bench.measure import Bench
    from tests.support.libvirtd import Libvirt

MIB = 1 << 20
READERS = 4
WATCHED_SECONDS = 5.0
GIB_PER_SECOND = 1.073741824

OVAFS = "ovafs"
NBDCOPY = "nbdcopy"


def hypervisor(bench: Bench) -> None:
    """All of it; needs root, for a libvirt of its own."""
    _listing(bench)
    _nbd(bench)
    _live(bench)


def _listing(bench: Bench) -> None:
    number = 100 if bench.quick else 1000
    folder = bench.scratch / "images"
    folder.mkdir()
    images = inputs.small_images(folder, number)
    domains = [domain_xml(f"vm{count:04}", Image(path, DiskFormat.QCOW2)) for count, path in enumerate(images)]
    uri = write_node(bench.scratch / "node.xml", domains)
    case = f"ls -l of {number:,} domains"
    first, again = [], []
    for _ in range(bench.rounds):
        with mounts.ovafs(uri, bench.scratch / "domains") as mount:
            first.append(bench.timed("ls -l of domains", ["ls", "-l", mount.root / "vms"]))
            time.sleep(1.2)  # until the kernel asks for names again
            again.append(bench.timed("ls -l of domains", ["ls", "-l", mount.root / "vms"]))
    bench.figure(case, "first time", first, "s")
    bench.judge_limit("domains-again", f"{case}, again", bench.figure(case, "again", again, "s"), 2.0)


def _nbd(bench: Bench) -> None:
    size = (256 if bench.quick else 2048) * MIB
    image = inputs.raw_image(bench.scratch / "nbd.raw", size)
    case = "reads over NBD, from qemu-nbd"
    with qemu_nbd(image, "raw") as export:
        subjects = {OVAFS: partial(_read_all, export), NBDCOPY: partial(_nbdcopy, bench, export, size)}
        rates = take_turns(subjects, bench.rounds)
    figures = {subject: bench.figure(case, subject, values, "GB/s") for subject, values in rates.items()}
    rate = statistics.median(figures[OVAFS].values)
    bench.judge("nbd", case, f"{rate:.3g} GB/s", "at least 1.07 GB/s (1 GiB/s)", met=rate >= GIB_PER_SECOND)
    bench.judge_ratio("nbd", case, figures[OVAFS], figures[NBDCOPY], 0.5)


def _read_all(export: Export) -> float:
    """Read a disk as many readers of a mount do; in GB/s."""

    async def reader(volume: NbdVolume, number: int) -> None:
        buffer = memoryview(bytearray(MIB))
        for offset in range(number * MIB, volume.virtual_size - MIB + 1, READERS * MIB):
            await volume.read_into(offset, buffer)

    async def read(volume: NbdVolume) -> float:
        started = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for number in range(READERS):
                nursery.start_soon(reader, volume, number)
        return volume.virtual_size / (time.perf_counter() - started) / 1e9

    with contextlib.closing(open_nbd(export)) as volume:
        return trio.run(read, volume)


def _nbdcopy(bench: Bench, export: Export, size: int) -> float:
    """In GB/s."""
    return size / bench.timed("nbdcopy", ["nbdcopy", export.uri, "null:"]) / 1e9


def _live(bench: Bench) -> None:
    with own_libvirt(bench.scratch / "libvirt") as libvirt:
        disk = counting_image(bench.scratch / "guest.qcow2")
        guest = CountingGuest(libvirt, "guest", disk, "qcow2", bench.scratch)
        guest.start()
        scratch = bench.scratch / "jobs"
        with mounts.ovafs(libvirt.uri, bench.scratch / "live", options=f"scratch={scratch}") as mount:
            file = mount.root / "vms" / "guest.ova"
            _read_beside_the_guest(bench, libvirt, file)
            _guest_beside_the_reader(bench, guest, file)


def _read_beside_the_guest(bench: Bench, libvirt: Libvirt, file: Path) -> None:
    case = "read of a machine that runs"

    def ours() -> float:
        # cp finds out the size first, as a user's cp does; a new backup each time, after the grace of the last.
        time.sleep(3)
        seconds = bench.timed(f"{case}: {OVAFS}", ["dd", f"if={file}", "of=/dev/null", "bs=1M", "status=none"])
        return file.stat().st_size / seconds / 1e6

    def theirs() -> float:
        socket = bench.scratch / "s"
        text = bench.scratch / "job.xml"
        text.write_text(
            f"<domainbackup mode='pull'><server transport='unix' socket='{socket}'/><disks><disk name='vda' "
            f"exportname='vda'><scratch file='{bench.scratch}/theirs'/></disk></disks></domainbackup>"
        )
        begin = ["virsh", "-c", libvirt.uri, "backup-begin", "guest", str(text)]
        time.sleep(3)
        uri = f"nbd+unix:///vda?socket={socket}"
        seconds = bench.timed(f"{case}: {NBDCOPY}", begin, ["nbdcopy", uri, "null:"])
        run("virsh", "-c", libvirt.uri, "domjobabort", "guest")
        return file.stat().st_size / seconds / 1e6

    rates = take_turns({"ovafs, dd": ours, "virsh backup-begin + nbdcopy": theirs}, bench.rounds)
    figures = [bench.figure(case, subject, values, "MB/s") for subject, values in rates.items()]
    bench.judge_ratio("live", case, figures[0], figures[1], 0.5)


def _guest_beside_the_reader(bench: Bench, guest: CountingGuest, file: Path) -> None:
    case = "writes of the guest"

    def pace(beside: contextlib.AbstractContextManager[object]) -> float:
        """Writes of 4 KiB a second."""
        time.sleep(3)
        with beside:
            before, begun = guest.number, time.perf_counter()
            time.sleep(WATCHED_SECONDS)
            return 3 * (guest.number - before) / (time.perf_counter() - begun)

    subjects = {
        "nobody reads": lambda: pace(contextlib.nullcontext()),
        "its file is open": lambda: pace(file.open("rb")),
        "somebody reads all the time": lambda: pace(_reading(file)),
    }
    for subject, values in take_turns(subjects, bench.rounds).items():
        bench.figure(case, subject, values, "writes/s")
    gap = guest.longest_gap()
    bench.judge_limit("guest-gap", "clock of the guest", bench.figure(case, "longest gap", [gap], "s"), 2.0)


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Read the file again and again, past the kernel's cache."""
    command = f"while true; do dd if={file} of=/dev/null bs=1M iflag=nocache status=none; done"
    with started("sh", "-c", command, log=file.parents[2] / "reader.log") as process:
        yield
    process.wait()
