"""Many processes at once while the catalog changes: nobody gets a wrong byte, nothing is left open."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.mount import Mount, mounted
from tests.support.oracles import sha256
from tests.support.pools import MIB, answers, chain_image, eventually, raw_image
from tests.support.processes import run, started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.pools import PoolBuilder

WORKERS = 8


def open_images(mount: Mount, pool: PoolBuilder) -> list[str]:
    """Images that the daemon holds open."""
    held = []
    for link in Path(f"/proc/{mount.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            held.append(os.readlink(link))
    return [name for name in held if Path(name.removesuffix(" (deleted)")).is_relative_to(pool.images)]


def assert_idle(mount: Mount, pool: PoolBuilder) -> None:
    """The kernel tells of closed files a moment later."""
    eventually(lambda: not open_images(mount, pool), "the daemon closes the images")


@contextlib.contextmanager
def meanwhile(action: Callable[[int], None]) -> Iterator[None]:
    """Repeat ``action`` in a thread, with the number of the round, for the time of the ``with``."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def repeat() -> None:
        number = 0
        try:
            while not stop.is_set():
                action(number)
                number += 1
        except BaseException as failure:  # noqa: BLE001 - shown by the test itself
            failures.append(failure)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not failures, failures


def test_eight_copies_while_other_machines_change(pool: PoolBuilder, tmp_path: Path) -> None:
    pool.add("wanted", chain_image(pool.images, "wanted"), raw_image(pool.images / "large.raw", 16 * MIB))
    pool.add("changing", raw_image(pool.images / "changing.raw"))

    def change(number: int) -> None:
        pool.change("changing", description=f"revision {number}")
        pool.add(f"new {number}")
        if number:
            pool.pool.remove(f"new {number - 1}")

    with mounted(pool.path, tmp_path) as mount:
        vms = mount.path / "vms"

        def look(_: int) -> None:
            listing = run("ls", "-l", vms, status=None)
            # A machine may go between its listing and its look-up; nothing else may be wrong.
            assert all("No such file" in line and "new " in line for line in listing.stderr.splitlines())
            assert {"wanted.ova", "changing.ova"} <= {line.rsplit(" ", 1)[-1] for line in listing.stdout.splitlines()}

        with meanwhile(change), meanwhile(look):
            for round_ in range(3):
                copies = [tmp_path / f"{round_}-{number}.ova" for number in range(WORKERS)]
                with contextlib.ExitStack() as stack:
                    running = [
                        stack.enter_context(started("cp", vms / "wanted.ova", copy, log=tmp_path / "cp.log"))
                        for copy in copies
                    ]
                    assert [process.wait(120) for process in running] == [0] * WORKERS
                assert len({sha256(copy) for copy in copies}) == 1
        assert (tmp_path / "cp.log").read_text() == ""
        pool.judge("wanted", copies[0])
        assert_idle(mount, pool)


# Reads a file whole, again and again; whatever it opened must be one generation from end to end. The kernel looks a
# name up a second time when an open fails with ESTALE, not a third time: that needs two changes within milliseconds.
_READER = """
import errno, hashlib, os, sys
path, left = sys.argv[1], int(sys.argv[2])
while left:
    try:
        file = open(path, "rb", buffering=0)
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        continue
    left -= 1
    with file:
        inode = os.fstat(file.fileno()).st_ino
        print(inode, hashlib.file_digest(file, "sha256").hexdigest())
"""


def test_readers_of_a_machine_that_changes_all_the_time(pool: PoolBuilder, tmp_path: Path) -> None:
    pool.add("changing", chain_image(pool.images, "changing"))

    def change(number: int) -> None:
        pool.change("changing", description=f"revision {number}")
        time.sleep(0.02)

    with mounted(pool.path, tmp_path) as mount:
        file = mount.path / "vms" / "changing.ova"
        with contextlib.ExitStack() as stack:
            command = [sys.executable, "-c", _READER, str(file), "40"]
            logs = [tmp_path / f"{number}.log" for number in range(WORKERS)]
            readers = [stack.enter_context(started(*command, log=log)) for log in logs]
            with meanwhile(change):
                assert [reader.wait(120) for reader in readers] == [0] * WORKERS
        seen: dict[str, set[str]] = {}
        for line in "".join(log.read_text() for log in logs).splitlines():
            inode, digest = line.split()
            seen.setdefault(inode, set()).add(digest)
        assert len(seen) > 3, "the definition did not change while it was read"
        assert all(len(digests) == 1 for digests in seen.values()), "one inode, two contents"
        pool.judge("changing", file)
        assert_idle(mount, pool)


def test_copies_of_a_machine_that_comes_and_goes(pool: PoolBuilder, tmp_path: Path) -> None:
    machine = pool.add("flickers", chain_image(pool.images, "flickers"))
    with mounted(pool.path, tmp_path) as mount:
        file = mount.path / "vms" / "flickers.ova"
        whole = sha256(file)

        def flicker(number: int) -> None:
            if number % 2:
                pool.pool.add(machine)
            else:
                pool.pool.remove("flickers")

        copied = 0
        with meanwhile(flicker):
            for number in range(150):
                copy = tmp_path / f"{number}.ova"
                result = run("cp", file, copy, status=None)
                if result.returncode == 0:
                    assert sha256(copy) == whole
                    copied += 1
                else:
                    assert re.search("No such file or directory|Stale file handle", result.stderr)
        assert copied
        assert_idle(mount, pool)


def test_readers_that_are_killed_leave_nothing_open(pool: PoolBuilder, tmp_path: Path) -> None:
    pool.add("disk", raw_image(pool.images / "disk.raw", 64 * MIB))
    with mounted(pool.path, tmp_path) as mount:
        file = mount.path / "vms" / "disk.ova"
        with contextlib.ExitStack() as stack:
            readers = []
            for number in range(WORKERS):
                command = ["dd", f"if={file}", "of=/dev/null", "bs=64k", "iflag=direct", f"skip={number}"]
                readers.append(stack.enter_context(started(*command, log=tmp_path / "dd.log")))
            eventually(lambda: bool(open_images(mount, pool)), "a reader has opened the file")
            for reader in readers:
                reader.send_signal(signal.SIGKILL)
            assert {reader.wait(60) for reader in readers} <= {0, -signal.SIGKILL}
        assert_idle(mount, pool)
        pool.judge("disk", file)


def test_a_broken_machine_among_many_readers(pool: PoolBuilder, tmp_path: Path) -> None:
    pool.add("sound", raw_image(pool.images / "sound.raw"))
    pool.add("flaky", raw_image(pool.images / "flaky.raw"))
    flaky, away = pool.images / "flaky.raw", pool.images / "away"

    def toggle(number: int) -> None:
        time.sleep(0.2)
        (flaky if number % 2 == 0 else away).rename(away if number % 2 == 0 else flaky)

    with mounted(pool.path, tmp_path) as mount:
        mount.expect_log("(WARNING|ERROR) flaky: .*(cannot be opened|changed while it was in use)")
        vms = mount.path / "vms"
        sound = sha256(vms / "sound.ova")
        seen = set()

        def look() -> bool:
            assert sha256(vms / "sound.ova") == sound
            assert set(os.listdir(vms)) == {"sound.ova", "flaky.ova"}
            seen.add(run("cat", vms / "flaky.ova", status=None).returncode)
            return seen == {0, 1}

        with meanwhile(toggle):
            for _ in range(3):
                seen.clear()
                eventually(look, "the machine is there at times, and broken at times", patience=60)
        (flaky if flaky.exists() else away).rename(pool.images / "gone")
        eventually(lambda: not answers(vms / "flaky.ova"), "the loss of the image shows")
        assert_idle(mount, pool)


def test_thousands_of_opens_leave_nothing_open(pool: PoolBuilder, tmp_path: Path) -> None:
    pool.add("disk", chain_image(pool.images, "disk"))
    with mounted(pool.path, tmp_path) as mount:
        vms = mount.path / "vms"
        for _ in range(2000):
            os.close(os.open(vms / "disk.ova", os.O_RDONLY))
        handles = [os.open(vms / "disk.ova", os.O_RDONLY) for _ in range(500)]
        held = open_images(mount, pool)
        for handle in handles:
            os.close(handle)
        assert len(held) == 3, "handles of one generation share its files"
        assert_idle(mount, pool)
        subprocess.run(["find", mount.path, "-type", "f", "-exec", "head", "-c1", "{}", ";"], check=True, timeout=60)
