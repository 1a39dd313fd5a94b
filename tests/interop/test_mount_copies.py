"""Copies by the tools that people have, each judged by QEMU, GNU tar, bsdtar and oVirt's walk."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.images import convert, create, io
from tests.support.mount import mounted
from tests.support.oracles import assert_same_disk, bsdtar_names, check_qcow2, extract, in_place, sha256, tar_members
from tests.support.pools import KIB, MIB, Image, chain_image, pool_builder, raw_image
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.mount import Mount
    from tests.support.pools import PoolBuilder


class World(NamedTuple):
    """Machines of every shape in one mount."""

    pool: PoolBuilder
    mount: Mount

    @property
    def vms(self) -> Path:
        return self.mount.path / "vms"


MACHINES = ("chain", "raw", "odd", "compressed", "two disks", "diskless")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("copies")
    with pool_builder(folder) as pool:
        images = pool.images
        pool.add("chain", chain_image(images, "chain"), description="three layers: ü & <b>")
        pool.add("raw", raw_image(images / "raw.raw", 32 * MIB, hole=(MIB, 30 * MIB)))
        pool.add("odd", raw_image(images / "odd.raw", 3 * MIB + 512))
        pool.add("compressed", compressed_image(images))
        small = Image(create(images / "small.qcow2", 5 * MIB, cluster_size="4k"), "qcow2")
        io(small.path, "write -P 3 1M 70k", "write -P 4 4M 1k")
        pool.add("two disks", chain_image(images, "first", depth=2), small)
        pool.add("diskless")
        with mounted(pool.path, folder) as mount:
            yield World(pool, mount)


def compressed_image(folder: Path) -> Image:
    raw = raw_image(folder / "plain.raw")
    with raw.path.open("r+b") as file:
        file.seek(3 * MIB)
        file.write(b"compressible " * 40_000)
    path = convert(raw.path, folder / "compressed.qcow2", "raw", "qcow2", "-c")
    raw.path.unlink()
    return Image(path, "qcow2")


def by_tar(ova: Path, copy: Path) -> None:
    """Packed by tar with holes, unpacked again."""
    archive = copy.with_name("archive.tar")
    run("tar", "-cSf", archive, "-C", ova.parent, ova.name)
    run("tar", "-xSf", archive, "-C", copy.parent, f"--transform=s/.*/{copy.name}/")


def by_cat(ova: Path, copy: Path) -> None:
    run("sh", "-c", 'exec cat "$0" > "$1"', ova, copy)


def by_pipe(ova: Path, copy: Path) -> None:
    run("sh", "-c", 'cat "$0" | cat > "$1"', ova, copy)


def by_shutil(ova: Path, copy: Path) -> None:
    shutil.copy2(ova, copy)


def by_sendfile(ova: Path, copy: Path) -> None:
    with ova.open("rb") as source, copy.open("wb") as target:
        offset = 0
        while sent := os.sendfile(target.fileno(), source.fileno(), offset, MIB):
            offset += sent


def command(*words: str) -> Callable[[Path, Path], None]:
    def copy_by(ova: Path, copy: Path) -> None:
        run(*(word.format(ova=ova, copy=copy) for word in words))

    return copy_by


COPIES: dict[str, Callable[[Path, Path], None]] = {
    "cp": command("cp", "{ova}", "{copy}"),
    "cp -a": command("cp", "-a", "{ova}", "{copy}"),
    "cp --sparse=always": command("cp", "--sparse=always", "{ova}", "{copy}"),
    "cp --sparse=never": command("cp", "--sparse=never", "{ova}", "{copy}"),
    "cp --reflink=auto": command("cp", "--reflink=auto", "{ova}", "{copy}"),
    "install": command("install", "-m", "600", "{ova}", "{copy}"),
    "dd bs=7000": command("dd", "if={ova}", "of={copy}", "bs=7000", "status=none"),
    "dd bs=1M": command("dd", "if={ova}", "of={copy}", "bs=1M", "conv=sparse,fsync", "status=none"),
    "dd iflag=direct": command("dd", "if={ova}", "of={copy}", "bs=64k", "iflag=direct", "status=none"),
    "rsync -a": command("rsync", "-a", "{ova}", "{copy}"),
    "rsync -S": command("rsync", "-aS", "{ova}", "{copy}"),
    "rsync -X": command("rsync", "-aX", "{ova}", "{copy}"),
    "rsync --inplace": command("rsync", "-a", "--inplace", "{ova}", "{copy}"),
    "qemu-img": command("qemu-img", "convert", "-f", "raw", "-O", "raw", "{ova}", "{copy}"),
    "bsdtar": command("bsdtar", "-cf", "{copy}", "--format=gnutar", "@{ova}"),
    "tar -S": by_tar,
    "cat": by_cat,
    "pipe": by_pipe,
    "shutil": by_shutil,
    "sendfile": by_sendfile,
}

# These write an archive or an image of their own instead of the same bytes.
OTHER_BYTES = {"bsdtar", "qemu-img"}


@pytest.mark.parametrize("tool", COPIES)
def test_a_copy_by(world: World, tool: str, tmp_path: Path) -> None:
    ova, copy = world.vms / "chain.ova", tmp_path / "copy.ova"
    COPIES[tool](ova, copy)
    if tool not in OTHER_BYTES:
        assert filecmp.cmp(ova, copy, shallow=False)
    if tool != "bsdtar":  # which has other offsets: the judges below look at the disks only
        world.pool.judge("chain", copy)
    else:
        judge_disks(world, "chain", copy, tmp_path)


def judge_disks(world: World, name: str, ova: Path, folder: Path) -> None:
    files = extract(ova, folder / "extracted")[1:]
    for file, image in zip(files, world.pool.disks[name], strict=True):
        check_qcow2(file)
        assert_same_disk(image.path, file, image.format, "qcow2")


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_of_each_shape(world: World, name: str, tmp_path: Path) -> None:
    ova, copy = world.vms / f"{name}.ova", tmp_path / "copy.ova"
    world.pool.judge(name, ova)
    run("cp", ova, copy)
    world.pool.judge(name, copy)
    assert copy.stat().st_size == ova.stat().st_size
    judge_disks(world, name, ova, tmp_path)


def test_cp_keeps_holes_as_holes(world: World, tmp_path: Path) -> None:
    ova = world.vms / "raw.ova"
    for number, mode in enumerate(("auto", "always")):
        copy = tmp_path / str(number)
        run("cp", f"--sparse={mode}", ova, copy)
        assert copy.stat().st_blocks * 512 < ova.stat().st_blocks * 512 + MIB


def test_cp_a_keeps_times_and_extended_attributes(world: World, tmp_path: Path) -> None:
    ova, copy = world.vms / "chain.ova", tmp_path / "copy.ova"
    run("cp", "-a", ova, copy)
    assert copy.stat().st_mtime_ns == ova.stat().st_mtime_ns
    assert copy.stat().st_mode == ova.stat().st_mode
    assert os.getxattr(copy, "user.ovafs.generation") == os.getxattr(ova, "user.ovafs.generation")


# -- rsync ---------------------------------------------------------------------------------------------------------


def transferred(*arguments: str | Path) -> tuple[int, int]:
    """Files that rsync found necessary to transfer, and bytes of them that it sent."""
    stats = run("rsync", "-a", "--stats", *arguments).stdout.replace(",", "")
    files = re.search(r"Number of regular files transferred: (\d+)", stats)
    sent = re.search(r"Literal data: (\d+)", stats)
    assert files
    assert sent
    return int(files[1]), int(sent[1])


def test_a_second_rsync_transfers_nothing(world: World, tmp_path: Path) -> None:
    first, size = transferred(f"{world.mount.path}/", tmp_path / "mirror")
    assert first == len(MACHINES)
    assert size == sum(file.stat().st_size for file in world.vms.iterdir())
    for arguments in ((), ("--delete",), ("--checksum",), ("--modify-window=-1",)):
        assert transferred(*arguments, f"{world.mount.path}/", tmp_path / "mirror") == (0, 0)
    for name in MACHINES:
        world.pool.judge(name, tmp_path / "mirror" / "vms" / f"{name}.ova")


def test_rsync_after_a_restart_transfers_nothing(world: World, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    for expected in (len(MACHINES), 0):
        with mounted(world.pool.path, tmp_path) as mount:
            assert transferred(f"{mount.path}/", mirror)[0] == expected


@pytest.mark.parametrize("kept", [0, 1, 512, 100_000, 2_000_077])
def test_rsync_goes_on_after_a_cut(world: World, kept: int, tmp_path: Path) -> None:
    ova, copy = world.vms / "chain.ova", tmp_path / "chain.ova"
    with ova.open("rb") as source, copy.open("wb") as target:
        target.write(source.read(kept))
    size = ova.stat().st_size
    assert transferred("--append-verify", ova, copy) == (1, size - min(kept, size))
    world.pool.judge("chain", copy)


def test_rsync_repairs_a_copy_that_was_damaged(world: World, tmp_path: Path) -> None:
    ova, copy = world.vms / "chain.ova", tmp_path / "chain.ova"
    run("cp", ova, copy)
    with copy.open("r+b") as file:
        file.seek(200_000)
        file.write(b"damage")
    files, sent = transferred("--checksum", "--no-whole-file", ova, copy)
    assert files == 1
    assert sent < 64 * KIB
    world.pool.judge("chain", copy)


# -- tar on the mount itself ---------------------------------------------------------------------------------------


def test_both_tars_list_the_same_members(world: World) -> None:
    for name in MACHINES:
        ova = world.vms / f"{name}.ova"
        members = tar_members(ova)
        assert members[0].name == "vm.ovf"
        assert bsdtar_names(ova) == [member.name for member in members]
        verbose = run("bsdtar", "-tvf", ova).stdout.splitlines()
        assert [int(line.split()[4]) for line in verbose] == [member.size for member in members]


def test_single_members_come_out_of_the_mount(world: World, tmp_path: Path) -> None:
    ova = world.vms / "two disks.ova"
    ovf, first, second = tar_members(ova)
    text = run("tar", "-xOf", ova, ovf.name).stdout
    assert len(text.encode()) == ovf.size
    assert run("bsdtar", "-xOf", ova, ovf.name).stdout == text
    tmp_path.joinpath("vm.ovf").write_text(text)
    run("xmllint", "--noout", tmp_path / "vm.ovf")
    run("tar", "-xf", ova, "-C", tmp_path, second.name)
    image = world.pool.disks["two disks"][1]
    assert_same_disk(image.path, tmp_path / second.name, image.format, "qcow2")
    assert first.name in text
    assert second.name in text


def test_the_whole_mount_packed_and_unpacked_is_the_same(world: World, tmp_path: Path) -> None:
    archive = tmp_path / "all.tar"
    run("tar", "-cSf", archive, "-C", world.mount.path, ".")
    out = tmp_path / "out"
    out.mkdir()
    run("tar", "-xf", archive, "-C", out)
    for name in MACHINES:
        assert sha256(out / "vms" / f"{name}.ova") == sha256(world.vms / f"{name}.ova")
    stored = sum(file.stat().st_blocks * 512 for file in world.vms.iterdir())
    assert archive.stat().st_size < stored + MIB
    run("tar", "--compare", "-f", archive, "-C", world.mount.path)


def test_disks_can_be_used_where_they_are(world: World, tmp_path: Path) -> None:
    """By tools that take an offset, without a copy: virt-v2v, imageio and oVirt's loop devices work like this."""
    ova = world.vms / "chain.ova"
    disk = tar_members(ova)[1]
    image = world.pool.disks["chain"][0]
    for cache in ("writeback", "none"):
        run("qemu-img", "convert", "-T", cache, "-O", "raw", in_place(ova, disk), tmp_path / "disk.raw")
        assert_same_disk(image.path, tmp_path / "disk.raw", image.format, "raw")
    assert run("file", "--brief", ova).stdout.startswith("POSIX tar archive (GNU)")


def test_checksum_files_hold(world: World, tmp_path: Path) -> None:
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(run("sh", "-c", "sha256sum *.ova", cwd=world.vms).stdout)
    run("sha256sum", "--check", "--strict", "--quiet", sums, cwd=world.vms)
