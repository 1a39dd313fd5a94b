"""The judge of archives, judged: on archives whose fate with oVirt's importer is known."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.support.ovirt_walker import WalkerError, walk

if TYPE_CHECKING:
    from pathlib import Path

FIRST, SECOND = "e0000000-0000-4000-8000-000000000000", "e0000001-0000-4000-8000-000000000001"
MAPPING = {FIRST: "/images/1", SECOND: "/images/2"}
GOOD = (("vm.ovf", 10931), ("tpm.dat", 19), (FIRST, 1024), (SECOND, 512))


def archive(path: Path, *members: tuple[str, int], ustar: bool = False) -> Path:
    """A tar with members of these names and sizes, made by Python's tarfile; the data is all "x"."""
    with path.open("wb") as file:
        for name, size in members:
            member = tarfile.TarInfo(name)
            member.size = size
            if name.endswith("/"):
                member.type = tarfile.DIRTYPE
            file.write(member.tobuf(tarfile.USTAR_FORMAT if ustar else tarfile.GNU_FORMAT))
            file.write(b"x" * size + bytes(-size % 512))
        file.write(bytes(1024))
    return path


def test_a_good_archive(tmp_path: Path) -> None:
    disks = walk(archive(tmp_path / "a", *GOOD), MAPPING)
    assert disks == [(FIRST, 13312, 1024, "/images/1"), (SECOND, 14848, 512, "/images/2")]
    with tarfile.open(tmp_path / "a") as tar:
        assert [(disk.name, disk.offset) for disk in disks] == [
            (member.name, member.offset_data) for member in tar if member.name in MAPPING
        ]


@pytest.mark.parametrize(
    "members",
    [
        ((SECOND, 512), (FIRST, 1024), ("vm.ovf", 7)),
        (("VM.OVF", 7), ("pad", 1536), (FIRST, 1024), ("pad", 0), (SECOND, 512), ("nvram.dat", 513)),
    ],
)
def test_orders_and_pads_that_it_likes(tmp_path: Path, members: tuple[tuple[str, int], ...]) -> None:
    assert {disk.name for disk in walk(archive(tmp_path / "a", *members), MAPPING)} == set(MAPPING)


def test_ustar_is_read_too(tmp_path: Path) -> None:
    assert len(walk(archive(tmp_path / "a", *GOOD, ustar=True), MAPPING)) == 2


def test_sizes_from_8_gib(tmp_path: Path) -> None:
    member = tarfile.TarInfo(FIRST)
    member.size = 9_000_000_000 // 512 * 512
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.truncate(512 + member.size + 1024)
    assert walk(path, {FIRST: "/images/1"}) == [(FIRST, 512, member.size, "/images/1")]


@pytest.mark.parametrize(
    "members",
    [
        (("vm.ovf", 7), (FIRST, 1000), (SECOND, 512)),
        (("vm.ovf", 7), ("vm.mf", 200), (FIRST, 1024), (SECOND, 512)),
        (("vm.ovf", 7), (FIRST, 1024), (SECOND, 512), ("vm.mf", 200)),
        (("vm.ovf", 7), (f"./{FIRST}", 1024), (SECOND, 512)),
        (("vm.ovf", 7), (f"{FIRST}.qcow2", 1024), (SECOND, 512)),
        (("disks/", 0), *GOOD),
        (("vm.ovf", 7), (FIRST, 1024), (SECOND, 512), ("x" * 120, 512)),
        (("vm.ovf", 7), ("pad", 100), (FIRST, 1024), (SECOND, 512)),
        (("vm.ovf", 7), (FIRST, 1024)),
    ],
)
def test_what_breaks_an_import(tmp_path: Path, members: tuple[tuple[str, int], ...]) -> None:
    with pytest.raises(WalkerError):
        walk(archive(tmp_path / "a", *members), MAPPING)


def test_pax_headers_break_an_import(tmp_path: Path) -> None:
    data = b"x" * 1024
    with tarfile.open(tmp_path / "a", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo(FIRST)
        member.size, member.mtime = len(data), 1.5
        tar.addfile(member, io.BytesIO(data))
    with pytest.raises(WalkerError):
        walk(tmp_path / "a", {FIRST: "/images/1"})


def test_an_archive_without_an_end(tmp_path: Path) -> None:
    path = archive(tmp_path / "a", *GOOD)
    path.write_bytes(path.read_bytes()[:-1024])
    with pytest.raises(WalkerError, match="end mark"):
        walk(path, MAPPING)
