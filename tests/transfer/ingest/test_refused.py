"""Packages that are refused, and what they leave: nothing, whatever is wrong with them and wherever they end."""

from __future__ import annotations

import gzip
import resource
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import InvalidChoices, InvalidDefinition, InvalidPackage, OvafsError, UnsupportedFeature
from tests.formats.ovf import test_read_xml as xml
from tests.streams.decode import test_disk_file as disk_files
from tests.streams.decode import test_gunzip as gunzip
from tests.streams.decode import test_qcow2_hostile as qcow2
from tests.streams.decode import test_vdi as vdi
from tests.streams.decode import test_vhd as vhd
from tests.streams.decode import test_vmdk_sparse as vmdk_sparse
from tests.streams.decode import test_vmdk_stream as vmdk_stream
from tests.support import attack_tars
from tests.support.attack_tars import END, member
from tests.support.packages import DiskText, archive, content, converted, descriptor, manifest, small_package

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.packages import ImportPool

MIB = 1 << 20
REFUSALS = (InvalidPackage, UnsupportedFeature)


def test_cut_at_every_block(pool: ImportPool) -> None:
    """And in the middle of every block; with the manifest behind, where a cut may even hide it."""
    parts = small_package()
    whole = archive({**parts, "web.mf": manifest(parts)})
    end = len(whole) - len(END)
    last = end - 1024  # the manifest: header and one block
    for cut in (*range(0, end, 512), *range(100, end, 5120)):
        if cut == last:
            continue
        with pytest.raises(InvalidPackage):
            pool.take(whole[:cut])
        pool.assert_whole()
    assert pool.take(whole[:end]).warnings == []
    warnings = pool.take(whole[:last]).warnings
    assert "the archive has neither an end nor a manifest: nothing says that it is whole" in warnings
    pool.assert_whole(2)


def test_cut_with_disks_of_every_kind(pool: ImportPool, tmp_path: Path) -> None:
    data = content(1 << 18)
    disks = {
        "a.qcow2": converted(tmp_path, data, "qcow2", "-o", "cluster_size=4k"),
        "b.vmdk": converted(tmp_path, data, "vmdk", "-o", "subformat=streamOptimized"),
        "c.gz": gzip.compress(data),
    }
    text = descriptor(*(DiskText(name, len(data)) for name in disks))
    for parts in ({"web.ovf": text, **disks}, {**disks, "web.ovf": text}):
        whole = archive(parts)
        for cut in range(0, len(whole) - len(END), 7 * 512):
            with pytest.raises(InvalidPackage):
                pool.take(whole[:cut])
            pool.assert_whole()


@pytest.mark.parametrize("name", attack_tars.REFUSED)
def test_hostile_archives(pool: ImportPool, name: str) -> None:
    """By themselves, and as what follows the first disk of a package."""
    data, _ = attack_tars.REFUSED[name]
    parts = small_package()
    begun = archive({key: parts[key] for key in ("web.ovf", "a.raw")}, end=False)
    for package in (data, begun + data):
        with pytest.raises(REFUSALS):
            pool.take(package)
        pool.assert_whole()


@pytest.mark.parametrize("name", xml.HOSTILE)
def test_hostile_descriptors(pool: ImportPool, name: str) -> None:
    data, _ = xml.HOSTILE[name]
    with pytest.raises(REFUSALS, match=r"web\.ovf"):
        pool.take(archive({"a.raw": content(1 << 16), "web.ovf": data}))
    pool.assert_whole()


HOSTILE_DISKS: dict[str, bytes] = {
    **{f"qcow2: {name}": data for name, (data, message) in qcow2.HOSTILE.items() if message},
    **{f"qcow2, late table: {name}": data for name, data in qcow2.LATE.items()},
    **{f"vmdk: {name}": data for name, (data, _) in vmdk_stream.HOSTILE.items()},
    **{f"sparse vmdk: {name}": data for name, (data, _) in vmdk_sparse.HOSTILE.items()},
    **{f"vdi: {name}": data for name, (data, _) in vdi.HOSTILE.items() if data[64:68] == b"\x7f\x10\xda\xbe"},
    **{f"vhd: {name}": data for name, (data, _) in vhd.HOSTILE.items() if data.startswith(b"conectix")},
    **{f"gzip: {name}": data for name, data in gunzip.DAMAGED.items() if data.startswith(b"\x1f\x8b")},
    **{f"other: {name}": data.ljust(4096, b"\0") for name, data in disk_files.OTHERS.items()},
}


@pytest.mark.parametrize("name", HOSTILE_DISKS)
def test_hostile_disks(pool: ImportPool, name: str) -> None:
    """As the second disk, so that the first one is complete already; with and without gzip."""
    data = HOSTILE_DISKS[name]
    text = descriptor(DiskText("a.raw", 1 << 16), DiskText("b", 1 << 29))
    for file in (data, gzip.compress(data, 1)):
        with pytest.raises(REFUSALS, match="b"):
            pool.take(archive({"web.ovf": text, "a.raw": content(1 << 16), "b": file}))
        pool.assert_whole()


def test_bombs_are_bounded(pool: ImportPool) -> None:
    """What inflates without an end stops at the capacity of the disk, and is never in memory."""
    bomb = gzip.compress(gzip.compress(bytes(256 * MIB), 9), 9)
    zeros = gzip.compress(bytes(128 * MIB), 9)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for file, message in (
        (bomb, "unsupported: gzip disk|gzip"),
        (zeros, "inflates to more than|more than the capacity"),
        (qcow2.bomb(), "does not hold"),
    ):
        with pytest.raises(REFUSALS, match=message):
            pool.take(archive({"web.ovf": descriptor(DiskText("b", MIB)), "b": file}))
        pool.assert_whole()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_files_that_are_none_of_the_package(pool: ImportPool, tmp_path: Path) -> None:
    """Nothing outside the archive is ever opened: a FIFO would block for ever, a canary be read."""
    canary = tmp_path / "canary"
    canary.write_bytes(b"\1" * 512)
    before = canary.stat().st_atime_ns
    for href in (str(canary), f"file://{canary}", "../canary", "http://127.0.0.1:1/x", "a\\b", "x/../../canary"):
        with pytest.raises(InvalidPackage, match="its href"):
            pool.take(archive({"web.ovf": descriptor(DiskText(href, 512)), "canary": b"x" * 512}))
    with pytest.raises(InvalidPackage, match="'canary': the package does not have this file"):
        pool.take(archive({"web.ovf": descriptor(DiskText("canary", 512))}))
    assert canary.stat().st_atime_ns == before
    pool.assert_whole()


def test_packages_that_contradict_themselves(pool: ImportPool) -> None:
    parts = small_package()
    text = parts["web.ovf"]
    other = text.replace(b'ovf:fileRef="f1"', b'ovf:fileRef="f0"')
    again = text.replace(b"ovf:/disk/d1", b"ovf:/disk/d0")
    for package, message in (
        (archive({"web.ovf": text, "other.ovf": text, **parts}.items()), "'other.ovf': is a second descriptor"),
        (archive({"a.raw": parts["a.raw"], "web.ovf": text, "x.OVF": text}), "'x.OVF': is a second descriptor"),
        (archive({**parts, "web.ovf": other}), "is attached twice"),
        (archive({**parts, "web.ovf": again}), "is attached twice"),
        (archive(parts) + member(b"a.raw", b"x"), "data behind the end"),
        (archive([*parts.items(), ("A.raw", b"x")]), "second member of this name"),
        (archive({"big.ovf": bytes(9 * MIB)}), "is 9437184 bytes long, more than 8388608"),
    ):
        with pytest.raises(InvalidPackage, match=message):
            pool.take(package)
        pool.assert_whole()


def test_definitions_that_cannot_be_are_refused_before_a_disk_is_written(pool: ImportPool) -> None:
    parts = small_package(name="x" * 300)
    begun = archive({key: parts[key] for key in ("web.ovf", "a.raw")}, end=False)[:20_000]
    for choices, package, message in (
        ({}, begun, "the name has 300 characters"),
        ({"name": "a\nb"}, b"", "the name .* contains"),
        ({"name": ""}, b"", "the name is empty"),
        ({"memory": 0}, b"", "memory of 0 bytes"),
        ({"memory": 1000}, b"", "memory of 1000 bytes"),
        ({"networks": {"lan": "a\x07"}}, b"", "the network"),
    ):
        with pytest.raises(InvalidDefinition, match=message):
            pool.take(package, **choices)
        pool.assert_whole()
    two = archive({"web.ovf": _two_systems()}, end=False)
    with pytest.raises(InvalidChoices, match="the package has 2 machines; one name is not enough"):
        pool.take(two, name="x")
    pool.assert_whole()


def _two_systems() -> bytes:
    text = descriptor()
    system = text[text.index(b"<VirtualSystem ") : text.index(b"</Envelope>")]
    return text.replace(b"</Envelope>", system + b"</Envelope>")


def test_good_packages_still_import_behind_all_of_it(pool: ImportPool) -> None:
    with pytest.raises(OvafsError):
        pool.take(b"rubbish" * 1000)
    assert pool.take(archive(small_package())).machines[0].name == "web"
    pool.assert_whole(1)
