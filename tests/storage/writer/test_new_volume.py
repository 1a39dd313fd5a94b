"""Names of new volumes: publishing, and what is swept after an end that nobody planned."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import WriteFailed
from ovafs.model import NATIVE_FORMATS, DiskFormat
from ovafs.storage.writer.new_volume import NewVolume, leftovers, sweep, sync_directory
from ovafs.storage.writer.qcow2 import Qcow2Writer
from ovafs.storage.writer.raw import RawWriter
from tests.support.filesystems import on_loop
from tests.support.oracles import check_qcow2
from tests.support.processes import ENVIRONMENT, run
from tests.support.written import check_report

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
UUID = "01234567-89ab-cdef-0123-456789abcdef"
OTHER = "11111111-89ab-cdef-0123-456789abcdef"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def publish(folder: Path, disk_format: DiskFormat, data: bytes) -> NewVolume:
    volume = NewVolume.name(str(folder), disk_format)
    writer = (Qcow2Writer if disk_format is DiskFormat.QCOW2 else RawWriter)(volume.part_path, 4 * MIB)
    writer.write_at(0, memoryview(data))
    writer.finish()
    volume.publish()
    return volume


def test_a_volume_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    volume = publish(tmp_path, DiskFormat.QCOW2, b"x")
    assert names(tmp_path) == [f"{volume.uuid}.qcow2"]
    assert volume.path == str(tmp_path / f"{volume.uuid}.qcow2")
    check_qcow2(volume.path)
    volume.publish()
    sync_directory(str(tmp_path))
    assert sweep(str(tmp_path), known=(), unfinished=()) == []
    volume.withdraw()
    volume.withdraw()
    assert names(tmp_path) == []


def test_a_name_that_is_taken(tmp_path: Path) -> None:
    volume = NewVolume(str(tmp_path), UUID, DiskFormat.RAW)
    with pytest.raises(WriteFailed, match=r"raw: cannot get its name: No such file"):
        volume.publish()
    (tmp_path / f"{UUID}.raw").write_bytes(b"precious")
    RawWriter(volume.part_path, 1).finish()
    with pytest.raises(WriteFailed, match=r"cannot get its name: File exists"):
        volume.publish()
    assert (tmp_path / f"{UUID}.raw").read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["", "../../etc/passwd", UUID.upper(), UUID + "\n", UUID + "/x"])
def test_names_are_ours(name: str) -> None:
    with pytest.raises(ValueError, match="is not a volume's UUID"):
        NewVolume("/pool/volumes", name, DiskFormat.RAW)


def test_sweep_takes_leftovers_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / f".{UUID}.part").write_bytes(b"left")
    (tmp_path / f".{OTHER}.part").write_bytes(b"waits for a resume")
    third = UUID.replace("0", "3")
    (tmp_path / f"{third}.qcow2").write_bytes(b"published, not registered")
    kept = [f".{OTHER}.part", f"{UUID}.qcow2", f"{OTHER}.raw"]
    kept += [".x.part", f"{UUID}.part", f".{UUID}.part2", f"a.{UUID}.part", f".{UUID.upper()}.part", "disk.qcow2"]
    kept += [f"{third}.vmdk", f".{third}.qcow2"]
    for name in kept:
        (tmp_path / name).touch()
    fourth, fifth = UUID.replace("0", "4"), UUID.replace("0", "5")
    (tmp_path / f".{fourth}.part").mkdir()
    (tmp_path / f".{fifth}.part").symlink_to("disk.qcow2")
    os.mkfifo(tmp_path / f".{UUID.replace('0', '6')}.part")
    kept += [f".{fourth}.part", f".{fifth}.part", f".{UUID.replace('0', '6')}.part"]
    expected = [str(tmp_path / f".{UUID}.part"), str(tmp_path / f"{third}.qcow2")]
    arguments = {"known": {OTHER}, "unfinished": {third, OTHER}}
    assert leftovers(str(tmp_path), **arguments) == expected
    assert sweep(str(tmp_path), **arguments) == expected
    assert names(tmp_path) == sorted(kept)
    assert sweep(str(tmp_path), **arguments) == []


def test_sweep_says_when_there_is_no_directory(tmp_path: Path) -> None:
    with pytest.raises(WriteFailed, match="cannot be listed: No such file"):
        sweep(str(tmp_path / "none"), known=(), unfinished=())
    with pytest.raises(WriteFailed, match="cannot be put on stable storage"):
        sync_directory(str(tmp_path / "none"))


_ENDLESS = """
import os, random, sys
from ovafs.storage.writer.qcow2 import Qcow2Writer
writer = Qcow2Writer(sys.argv[1], 1 << 34, max_tables=2)
rng = random.Random(5)
parent = os.getppid()
number = 0
while os.getppid() == parent:  # a test that was ended itself leaves nobody behind
    number += 1
    writer.write_at(rng.randrange(1 << 34 - 17) << 17, memoryview(bytes([number % 255 + 1]) * (96 << 10)))
    if number == 60:
        print("begun", flush=True)
"""


def test_killed_in_the_middle(tmp_path: Path) -> None:
    volume = NewVolume.name(str(tmp_path), DiskFormat.QCOW2)
    command = [sys.executable, "-c", _ENDLESS, volume.part_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        assert sweep(str(tmp_path), known=(), unfinished=()) == []  # it is being written
        process.send_signal(signal.SIGKILL)
    assert names(tmp_path) == [f".{volume.uuid}.part"]
    os.link(volume.part_path, tmp_path / "copy")
    report = check_report(tmp_path / "copy")
    assert not report.get("corruptions"), report
    assert not report.get("check-errors"), report
    assert report["leaks"] > 0
    assert sweep(str(tmp_path), known=(), unfinished=()) == [volume.part_path]
    run("qemu-img", "check", "-q", "-r", "all", "-f", "qcow2", tmp_path / "copy", status=None)
    check_qcow2(tmp_path / "copy")


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_power_cut(tmp_path: Path, kind: str) -> None:
    with on_loop(tmp_path, kind) as folder:
        data = bytes(range(1, 256)) * 12000
        volumes = [publish(folder, disk_format, data) for disk_format in NATIVE_FORMATS]
        sync_directory(str(folder))
        unfinished = RawWriter(NewVolume.name(str(folder), DiskFormat.RAW).part_path, 4 * MIB)
        unfinished.write_at(0, memoryview(data))
        run("xfs_io", "-x", "-c", "shutdown", folder)
        unfinished.discard()
        run("umount", folder)
        run("mount", "-o", "loop", tmp_path / f"{kind}.img", folder)
        sweep(str(folder), known={volume.uuid for volume in volumes}, unfinished=())
        found = [name for name in names(folder) if name != "lost+found"]
        assert found == sorted(os.path.basename(volume.path) for volume in volumes)
        for volume in volumes:
            output = run("qemu-img", "convert", "-f", volume.format, "-O", "raw", volume.path, tmp_path / "out")
            assert output.stderr == ""
            assert (tmp_path / "out").read_bytes() == data.ljust(4 * MIB, b"\0")
