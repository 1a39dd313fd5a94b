"""An open file keeps its generation to the end; what changes its images meanwhile is refused, or is an error."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.mount import mounted
from tests.support.pools import KIB, MIB, Image, answers, chain_image, eventually, judge_ova, pool_builder, raw_image
from tests.support.processes import run, started

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.mount import Mount
    from tests.support.pools import PoolBuilder

# Large, so that most of a file is in no page cache when its first half has been read.
SIZE = 48 * MIB
HALF = 16 * MIB


class World(NamedTuple):
    pool: PoolBuilder
    mount: Mount

    @property
    def vms(self) -> Path:
        return self.mount.path / "vms"

    def add(self, name: str) -> Path:
        """A machine on a large raw image; returns its .ova."""
        self.pool.add(name, raw_image(self.pool.images / f"{name}.raw", SIZE, seed=len(name), hole=(MIB, 2 * MIB)))
        return self.vms / f"{name}.ova"

    def image(self, name: str) -> Path:
        return self.pool.disks[name][0].path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("generations")
    with pool_builder(folder) as pool, mounted(pool.path, folder) as mount:
        pool.add("bystander", chain_image(pool.images, "bystander"))
        yield World(pool, mount)


@pytest.fixture(autouse=True)
def _others_are_unharmed(world: World) -> Iterator[None]:
    """Whatever happens to a machine, the others answer."""
    before = (world.vms / "bystander.ova").read_bytes()
    yield
    assert (world.vms / "bystander.ova").read_bytes() == before
    world.pool.judge("bystander", world.vms / "bystander.ova")


def rest(file: int, start: int) -> bytes:
    """Read on to the end in large pieces, as cp does."""
    pieces = []
    while piece := os.pread(file, MIB, start):
        pieces.append(piece)
        start += len(piece)
    return b"".join(pieces)


def piece_or_errno(file: int, length: int, offset: int) -> bytes | int | None:
    try:
        return os.pread(file, length, offset)
    except OSError as error:
        return error.errno


@contextlib.contextmanager
def half_read(file: Path) -> Iterator[tuple[int, bytes]]:
    """An open file whose first half has been read."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        start = b""
        while len(start) < HALF:
            start += os.pread(descriptor, HALF - len(start), len(start))
        yield descriptor, start
    finally:
        os.close(descriptor)


def whole(world: World, name: str, tmp_path: Path) -> bytes:
    """The file's bytes now, judged; read past the kernel's cache, so that nothing of them is cached."""
    copy = tmp_path / f"{name}.ova"
    run("dd", f"if={world.vms}/{name}.ova", f"of={copy}", "bs=1M", "iflag=direct", "status=none")
    world.pool.judge(name, copy)
    return copy.read_bytes()


# -- the definition changes ------------------------------------------------------------------------------------


def test_a_definition_that_changes_while_it_is_read(world: World, tmp_path: Path) -> None:
    file = world.add("redefined")
    before = whole(world, "redefined", tmp_path)
    with half_read(file) as (old, start):
        world.pool.change("redefined", description="x" * 50_000)
        with file.open("rb") as new:
            assert b"x" * 50_000 in new.read(128 * KIB)
            assert os.fstat(new.fileno()).st_ino != os.fstat(old).st_ino
        assert start + rest(old, HALF) == before
        assert os.fstat(old).st_size == len(before)
    assert whole(world, "redefined", tmp_path) != before


def test_a_machine_that_is_removed_while_it_is_read(world: World, tmp_path: Path) -> None:
    file = world.add("gone")
    before = whole(world, "gone", tmp_path)
    with half_read(file) as (old, start):
        world.pool.pool.remove("gone")
        eventually(lambda: not file.exists(), "the name goes")
        assert start + rest(old, HALF) == before


def test_a_machine_and_its_image_that_are_removed_while_it_is_read(world: World, tmp_path: Path) -> None:
    file = world.add("deleted")
    before = whole(world, "deleted", tmp_path)
    with half_read(file) as (old, start):
        world.pool.pool.remove("deleted")
        world.image("deleted").unlink()
        eventually(lambda: not file.exists(), "the name goes")
        assert start + rest(old, HALF) == before


def test_an_image_that_is_replaced_by_another_while_it_is_read(world: World, tmp_path: Path) -> None:
    file = world.add("replaced")
    before = whole(world, "replaced", tmp_path)
    other = raw_image(world.pool.images / "other.raw", SIZE, seed=77)
    with half_read(file) as (old, start):
        other.path.rename(world.image("replaced"))
        assert start + rest(old, HALF) == before
    after = whole(world, "replaced", tmp_path)
    assert after != before


# -- an image changes in place ---------------------------------------------------------------------------------


def test_an_image_that_is_written_to_while_it_is_read(world: World, tmp_path: Path) -> None:
    """By a program that takes no locks: every read gives the old bytes or an error."""
    file = world.add("written")
    before = whole(world, "written", tmp_path)
    world.mount.expect_log(r"ERROR written: read at \d+ \(member .*\): .*written.raw: the file changed while")
    with half_read(file) as (old, start):
        assert start == before[:HALF]
        with world.image("written").open("r+b") as image:
            image.seek(40 * MIB)
            image.write(b"new bytes")
        answers = [piece_or_errno(old, 256 * KIB, offset) for offset in range(HALF, len(before), 256 * KIB)]
        right = [before[offset : offset + 256 * KIB] for offset in range(HALF, len(before), 256 * KIB)]
        assert all(answer in {errno.ESTALE, piece} for answer, piece in zip(answers, right, strict=True))
        assert answers.count(errno.ESTALE) > 100
        with file.open("rb") as new:
            assert os.fstat(new.fileno()).st_ino != os.fstat(old).st_ino
            assert b"new bytes" in new.read()
    after = whole(world, "written", tmp_path)
    assert len(after) == len(before)
    assert world.mount.log().count("ERROR written: ") == 1


def test_an_image_that_is_cut_while_it_is_read(world: World, tmp_path: Path) -> None:
    file = world.add("cut")
    before = whole(world, "cut", tmp_path)
    world.mount.expect_log("ERROR cut: read at .*cut.raw: the file changed while")
    with half_read(file) as (old, _):
        os.truncate(world.image("cut"), 24 * MIB)
        with pytest.raises(OSError) as caught:
            rest(old, 40 * MIB)
        assert caught.value.errno == errno.ESTALE
    assert len(whole(world, "cut", tmp_path)) < len(before)


def test_cp_of_an_image_that_is_cut_fails(world: World, tmp_path: Path) -> None:
    """The whole tool: no copy that looks complete."""
    file = world.add("torn")
    world.mount.expect_log("ERROR torn: ")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with started("cp", file, fifo, log=tmp_path / "cp.log") as cp:
        with fifo.open("rb", buffering=0) as reader:
            assert reader.read(4096)
            os.truncate(world.image("torn"), 24 * MIB)
            while reader.read(MIB):
                pass
        assert cp.wait(60) == 1
    assert "Stale file handle" in (tmp_path / "cp.log").read_text()


def test_a_name_looked_up_before_an_image_changed_opens_the_new_content(world: World, tmp_path: Path) -> None:
    file = world.add("stale")
    for number in range(5):
        before = file.stat()
        with world.image("stale").open("r+b") as image:
            image.seek(3 * MIB)
            image.write(f"revision {number}".encode())
        with file.open("rb") as stream:
            content = stream.read(6 * MIB)
            assert f"revision {number}".encode() in content
            assert os.fstat(stream.fileno()).st_ino != before.st_ino
    whole(world, "stale", tmp_path)


def test_a_change_shows_in_stat(world: World) -> None:
    file = world.add("watched")
    before = file.stat()
    os.truncate(world.image("watched"), SIZE + MIB)
    eventually(lambda: file.stat().st_ino != before.st_ino, "the new generation shows")
    assert file.stat().st_size > 0
    assert file.stat().st_mtime_ns > before.st_mtime_ns


# -- programs that take QEMU's locks -----------------------------------------------------------------------------


def write_with_qemu(image: Image, pattern: int) -> str:
    """Try to write; returns QEMU's complaint, or nothing."""
    result = run("qemu-io", "-f", image.format, "-c", f"write -P {pattern} 64k 64k", image.path, status=None)
    return result.stderr if result.returncode else ""


def can_be_opened(file: Path) -> bool:
    with contextlib.suppress(OSError), file.open("rb"):
        return True
    return False


def test_an_open_file_keeps_writers_away(world: World, tmp_path: Path) -> None:
    image = chain_image(world.pool.images, "guarded")
    world.pool.add("guarded", image)
    file = world.vms / "guarded.ova"
    before = whole(world, "guarded", tmp_path)
    with file.open("rb"):
        assert 'Failed to get "write" lock' in write_with_qemu(image, 0xA1)
        backing = Image(world.pool.images / "guarded-1.raw", "raw")
        assert 'Failed to get "write" lock' in write_with_qemu(backing, 0xA1)
        assert whole(world, "guarded", tmp_path) == before
    assert write_with_qemu(image, 0xA1) == ""
    after = whole(world, "guarded", tmp_path)
    assert after != before


def test_looking_does_not_keep_writers_away(world: World) -> None:
    world.add("looked")
    assert (world.vms / "looked.ova").stat().st_size
    assert write_with_qemu(Image(world.image("looked"), "raw"), 0xA2) == ""


def test_a_machine_that_runs_is_busy_until_it_stops(world: World, tmp_path: Path) -> None:
    image = chain_image(world.pool.images, "running")
    world.pool.add("running", image)
    file = world.vms / "running.ova"
    world.mount.expect_log("WARNING running: .*running-3.qcow2: another process writes to it; shut the machine down")
    socket = tmp_path / "nbd"
    with started("qemu-nbd", "-t", "-k", socket, "-f", "qcow2", image.path, log=tmp_path / "nbd.log"):
        eventually(socket.exists, "qemu-nbd serves the image")
        for attempt in (file.stat, file.read_bytes):
            with pytest.raises(OSError) as caught:
                attempt()
            assert caught.value.errno == errno.EBUSY
        run("qemu-io", "-f", "raw", "-c", "write -P 7 1M 64k", f"nbd+unix:///?socket={socket}")
        assert "running.ova" in os.listdir(world.vms)
    eventually(lambda: answers(file), "the machine can be read when it has stopped")
    copy = tmp_path / "running.ova"
    run("cp", file, copy)
    world.pool.judge("running", copy)


def test_a_machine_that_was_looked_at_and_then_started_is_busy_at_open(world: World, tmp_path: Path) -> None:
    image = chain_image(world.pool.images, "started")
    world.pool.add("started", image)
    file = world.vms / "started.ova"
    assert file.stat().st_size
    socket = tmp_path / "nbd"
    with started("qemu-nbd", "-t", "-k", socket, "-f", "qcow2", image.path, log=tmp_path / "nbd.log"):
        eventually(socket.exists, "qemu-nbd serves the image")
        world.mount.expect_log("WARNING started: .*started-3.qcow2: another process writes to it")
        with pytest.raises(OSError) as caught:
            file.read_bytes()
        assert caught.value.errno == errno.EBUSY
    eventually(lambda: can_be_opened(file), "the machine can be read when it has stopped")
    judge_ova(file, world.pool.pool.find("started"), [image])


def test_a_machine_whose_template_runs_elsewhere_can_be_read(world: World, tmp_path: Path) -> None:
    """Readers share: another process that only reads the image, and a running machine on the same backing file."""
    image = chain_image(world.pool.images, "shared")
    world.pool.add("shared", image)
    overlay = world.pool.images / "shared-overlay.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image.path, overlay)
    socket = tmp_path / "nbd"
    with started("qemu-nbd", "-t", "-k", socket, "-f", "qcow2", overlay, log=tmp_path / "nbd.log"):
        eventually(socket.exists, "qemu-nbd serves the overlay")
        run("qemu-io", "-f", "raw", "-c", "write -P 7 1M 64k", f"nbd+unix:///?socket={socket}")
        world.pool.judge("shared", world.vms / "shared.ova")
