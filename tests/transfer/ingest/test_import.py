"""Packages that are taken: every disk format, order, manifest and oddity, judged by qemu-img."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import msgspec
import pytest

from ovafs.errors import InvalidPackage, UnsupportedFeature
from ovafs.inventory.define import define_machine
from tests.support.attack_tars import END, member
from tests.support.packages import (
    MIB,
    OLDER_VHD,
    QCOW2,
    RAW,
    STREAM,
    VHD,
    DiskText,
    archive,
    content,
    converted,
    descriptor,
    envelope,
    guest_bytes,
    manifest,
    small_package,
)
from tests.support.vmdk import sparse, stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.packages import ImportPool


def _gz(data: bytes) -> bytes:
    return gzip.compress(data, 1)


def _vhd(folder: Path, data: bytes, subformat: str) -> bytes:
    return converted(folder, data, "vpc", "-o", f"subformat={subformat},force_size=on")


# How a disk's content becomes a disk file, with the format that the descriptor names.
DISK_FILES: dict[str, tuple[Callable[[Path, bytes], bytes], str]] = {
    "raw": (lambda _, data: data, RAW),
    "raw without a format": (lambda _, data: data, ""),
    "raw, gzip": (lambda _, data: _gz(data), RAW),
    "qcow2": (lambda folder, data: converted(folder, data, "qcow2"), QCOW2),
    "qcow2, compressed": (lambda folder, data: converted(folder, data, "qcow2", "-c"), QCOW2),
    "qcow2, version 2": (lambda folder, data: converted(folder, data, "qcow2", "-o", "compat=0.10"), QCOW2),
    "qcow2, tables behind": (lambda folder, data: converted(folder, data, "qcow2", "-o", "preallocation=full"), QCOW2),
    "qcow2, called raw": (lambda folder, data: converted(folder, data, "qcow2"), RAW),
    "qcow2, gzip": (lambda folder, data: _gz(converted(folder, data, "qcow2")), QCOW2),
    "qcow2 in a larger member": (lambda folder, data: converted(folder, data, "qcow2") + bytes(9 * 65536), QCOW2),
    "vmdk by qemu": (
        lambda folder, data: converted(folder, data, "vmdk", "-o", "subformat=streamOptimized"),
        STREAM,
    ),
    "vmdk by VirtualBox": (lambda _, data: stream(data, "end").data, STREAM),
    "vmdk, gzip": (lambda _, data: _gz(stream(data, "between").data), STREAM),
    "vmdk monolithicSparse": (
        lambda _, data: sparse(len(data) // 512, {n: data[n << 16 : n + 1 << 16] for n in range(len(data) >> 16)}),
        RAW,
    ),
    "vdi": (lambda folder, data: converted(folder, data, "vdi"), ""),
    "vdi, fixed, gzip": (lambda folder, data: _gz(converted(folder, data, "vdi", "-o", "static=on")), ""),
    "vhd": (lambda folder, data: _vhd(folder, data, "dynamic"), VHD),
    "vhd, called raw": (lambda folder, data: _vhd(folder, data, "dynamic"), RAW),
    "vhd, fixed": (lambda folder, data: _vhd(folder, data, "fixed"), OLDER_VHD),
    "vhd, fixed, gzip": (lambda folder, data: _gz(_vhd(folder, data, "fixed")), VHD),
}


@pytest.mark.parametrize("form", ["qcow2", "raw"])
@pytest.mark.parametrize("kind", DISK_FILES)
def test_disk_formats(pool: ImportPool, tmp_path: Path, kind: str, form: str) -> None:
    make, uri = DISK_FILES[kind]
    data = content()
    file = make(tmp_path, data)
    text = descriptor(DiskText("disk", len(data), uri, f'ovf:size="{len(file)}"'))
    package = archive({"web.ovf": text, "disk": file})
    first = pool.take(package, format=form)
    late = pool.take(archive({"disk": file, "web.ovf": text}), format=form)
    for imported in (first, late):
        volume = imported.machines[0].disks[0].volume
        assert volume.format == form
        assert guest_bytes(volume.path, form, tmp_path) == data
    assert "disk: came before the descriptor; it was stored twice" in late.warnings
    assert first.warnings == []
    pool.assert_whole(2)


@pytest.mark.parametrize("name", ["disk.vhd", "DISK.VHD", "disk.vpc", "disk.vhd.gz"])
def test_a_fixed_vhd_is_known_by_its_name(pool: ImportPool, tmp_path: Path, name: str) -> None:
    data = content(1 << 16)
    file = _vhd(tmp_path, data, "fixed")
    file = _gz(file) if name.endswith(".gz") else file
    package = archive({"web.ovf": descriptor(DiskText(name, len(data), "")), name: file})
    assert guest_bytes(pool.take(package).machines[0].disks[0].volume.path, "qcow2", tmp_path) == data
    with pytest.raises(InvalidPackage, match="ends like a fixed VHD"):
        pool.take(archive({"web.ovf": descriptor(DiskText("d", len(data), "")), "d": _vhd(tmp_path, data, "fixed")}))


@pytest.mark.parametrize("step", [1, 511, 512, 70_000])
def test_any_pieces(pool: ImportPool, tmp_path: Path, step: int) -> None:
    parts = small_package()
    package = archive({**parts, "web.mf": manifest(parts)})
    imported = pool.take(package, cuts=range(0, len(package), step))
    disks = [guest_bytes(disk.volume.path, "qcow2", tmp_path) for disk in imported.machines[0].disks]
    assert disks == [parts["a.raw"], parts["b.raw"]]
    pool.assert_whole(1)


def test_chunks(pool: ImportPool, tmp_path: Path) -> None:
    data = content()
    file = _gz(data)
    size = len(file) // 3 + 1
    chunks = {f"d.gz.{n:09}": file[n * size : (n + 1) * size] for n in range(3)}
    text = descriptor(DiskText("d.gz", len(data), RAW, f'ovf:chunkSize="{size}" ovf:compression="gzip"'))
    digests = manifest({"web.ovf": text, **chunks, "d.gz": file})
    for members in (
        {"web.ovf": text, "web.mf": digests, **chunks},
        {"web.ovf": text, **chunks, "web.mf": digests},
        {**chunks, "web.ovf": text},
    ):
        imported = pool.take(archive(members))
        assert guest_bytes(imported.machines[0].disks[0].volume.path, "qcow2", tmp_path) == data
    broken = {"web.ovf": text, **dict(list(chunks.items())[:2])}
    with pytest.raises(InvalidPackage, match=r"'d.gz': the file ends inside its gzip data"):
        pool.take(archive(broken))
    pool.assert_whole(3)


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
@pytest.mark.parametrize("place", ["front", "middle", "behind"])
def test_manifests(pool: ImportPool, algorithm: str, place: str) -> None:
    parts = small_package()
    names = ["web.ovf", "a.raw", "b.raw"]
    names.insert({"front": 1, "middle": 2, "behind": 3}[place], "web.mf")
    whole = {**parts, "web.mf": manifest(parts, algorithm)}
    assert pool.take(archive((name, whole[name]) for name in names)).warnings == []
    for victim in parts:
        changed = bytearray(whole[victim])
        changed[len(changed) // 2 if victim != "web.ovf" else changed.index(b"512<")] ^= 1
        with pytest.raises(InvalidPackage, match=f"{victim}.*{algorithm.upper()} digest is not the one"):
            pool.take(archive((name, bytes(changed) if name == victim else whole[name]) for name in names))
        pool.assert_whole(1)


def test_of_several_digests_all_must_be_right(pool: ImportPool) -> None:
    parts = small_package()
    wrong = manifest(parts) + manifest({**parts, "a.raw": b""}, "sha1")
    with pytest.raises(InvalidPackage, match=r"'a.raw': its SHA1 digest"):
        pool.take(archive({**parts, "web.mf": wrong}))
    pool.assert_whole()


def test_odd_manifests(pool: ImportPool) -> None:
    parts = small_package()
    more = manifest({"web.ovf": parts["web.ovf"], "readme.txt": b"", "a.raw": parts["a.raw"]})
    imported = pool.take(archive({**parts, "web.mf": more, "web.cert": b"x", "extra": b"y"}))
    assert imported.warnings == [
        "web.cert: does not begin with a line 'SHA256(NAME.mf)= SIGNATURE'",
        "extra: not in the descriptor, ignored",
        "readme.txt: listed, but not in the package",
        "b.raw: not in the manifest, so not verified",
        "extra: not in the manifest, so not verified",
    ]
    with pytest.raises(InvalidPackage, match=r"'other.mf': is a second manifest"):
        pool.take(archive({**parts, "web.mf": manifest(parts), "other.mf": manifest(parts)}))
    with pytest.raises(InvalidPackage, match="not of the form"):
        pool.take(archive({**parts, "web.mf": b"nonsense"}))
    pool.assert_whole(1)


def test_a_manifest_behind_what_was_not_hashed(pool: ImportPool) -> None:
    parts = small_package()
    parts["web.ovf"] = parts["web.ovf"].replace(b"<Envelope ", b'<Envelope xmlns:ovirt="http://www.ovirt.org/ovf" ')
    assert pool.take(archive({"web.ovf": parts["web.ovf"], "web.mf": manifest(parts), **parts}.items())).warnings == []
    with pytest.raises(InvalidPackage, match=r"pack the .mf file right behind the .ovf file"):
        pool.take(archive({**parts, "web.mf": manifest(parts)}))
    pool.assert_whole(1)


def test_tolerated_members(pool: ImportPool) -> None:
    parts = small_package()
    members = member(b"./", typeflag=b"5") + member(b"./._web.ovf", b"x") + member(b"./web.ovf", parts["web.ovf"])
    members += (
        member(b"pad") + member(b"a.raw", parts["a.raw"]) + member(b"pad", b"x") + member(b"b.raw", parts["b.raw"])
    )
    imported = pool.take(members + END + bytes(8192))
    assert imported.warnings == [": a directory, ignored", "._web.ovf: a AppleDouble file, ignored"]


def test_an_archive_without_an_end(pool: ImportPool) -> None:
    parts = small_package()
    assert pool.take(archive({**parts, "web.mf": manifest(parts)}, end=False)).warnings == []
    warnings = pool.take(archive(parts, end=False)).warnings
    assert warnings[0] == "the archive has neither an end nor a manifest: nothing says that it is whole"
    with pytest.raises(InvalidPackage, match=r"'b.raw': is listed, but the archive stops before it"):
        pool.take(archive({name: parts[name] for name in ("web.ovf", "a.raw")}, end=False))
    text = descriptor(DiskText("a.raw", 1 << 16), more='<File ovf:id="iso" ovf:href="cd.iso"/>')
    members = {"web.ovf": text, "a.raw": parts["a.raw"]}
    with pytest.raises(InvalidPackage, match=r"'cd.iso': is listed, but the archive stops"):
        pool.take(archive(members, end=False))
    assert pool.take(archive(members)).warnings[0] == "cd.iso: listed, but not in the package"
    pool.assert_whole(3)


def test_sizes_that_differ(pool: ImportPool, tmp_path: Path) -> None:
    data = content(1 << 16)
    qcow2 = converted(tmp_path, data, "qcow2")
    imported = pool.take(archive({"web.ovf": descriptor(DiskText("d", 5, QCOW2, 'ovf:size="7"')), "d": qcow2}))
    assert imported.warnings == [
        f"d: the descriptor says 7 bytes, the archive {len(qcow2)}",
        "d: the descriptor says 5 bytes, the disk has 65536",
    ]
    text = descriptor(DiskText("d", 1 << 17, RAW, f'ovf:size="{1 << 17}"'))
    with pytest.raises(InvalidPackage, match="a raw disk of 65536 bytes, where the descriptor says 131072"):
        pool.take(archive({"web.ovf": text, "d": data}))
    pool.assert_whole(1)


@pytest.mark.parametrize("more", [1, 4096, 1 << 20, 100 << 20])
def test_a_raw_disk_in_gzip_that_is_larger_than_it_may_be(pool: ImportPool, more: int) -> None:
    text = descriptor(DiskText("d.gz", MIB, RAW, 'ovf:compression="gzip"'))
    for data in (b"\1" * (MIB + more), b"\1" * MIB + bytes(more)):
        with pytest.raises(InvalidPackage, match=r"'d.gz': (holds .* more than the capacity|.* inflates to more than)"):
            pool.take(archive({"web.ovf": text, "d.gz": _gz(data)}))
    with pytest.raises(InvalidPackage, match="neither the file nor the descriptor says how large"):
        pool.take(archive({"web.ovf": descriptor(DiskText("d.gz", None)), "d.gz": _gz(b"\1" * 512)}))
    pool.assert_whole()


@pytest.mark.parametrize("form", ["qcow2", "raw"])
def test_disks_without_a_file_are_empty(pool: ImportPool, tmp_path: Path, form: str) -> None:
    data = content(1 << 16)
    text = descriptor(DiskText("a", 1 << 16), DiskText(None, 3 * MIB), DiskText(None, 3 * MIB))
    imported = pool.take(archive({"web.ovf": text, "a": data}), format=form)
    disks = [guest_bytes(disk.volume.path, form, tmp_path) for disk in imported.machines[0].disks]
    assert disks == [data, bytes(3 * MIB), bytes(3 * MIB)]
    assert [text for text in imported.warnings if "it is empty" in text] == [
        f"disk 'disk{number}': has no file in the package; it is empty" for number in (1, 2)
    ]
    with pytest.raises(InvalidPackage, match="the disk 'd0' has neither a file nor a capacity"):
        pool.take(archive({"web.ovf": descriptor(DiskText(None, None))}))
    pool.assert_whole(1)


def test_disks_that_are_refused(pool: ImportPool) -> None:
    data = content(1 << 16)
    changes = descriptor(DiskText("a", 1 << 16, extra='ovf:parentRef="d1"'), DiskText("b", 1 << 16))
    with pytest.raises(UnsupportedFeature, match="the disk 'd0' holds changes to the disk 'd1'"):
        pool.take(archive({"web.ovf": changes, "a": data, "b": data}))
    for uri, expected in ((STREAM, "'a': is called vmdk but is not"), (QCOW2, "'a': is called qcow2 but is not")):
        with pytest.raises(InvalidPackage, match=expected):
            pool.take(archive({"web.ovf": descriptor(DiskText("a", 1 << 16, uri)), "a": data}))
    with pytest.raises(InvalidPackage, match="'a': the package does not have this file"):
        pool.take(archive({"web.ovf": descriptor(DiskText("a", 1 << 16))}))
    pool.assert_whole()


def test_hardware_without_the_disks(pool: ImportPool) -> None:
    """A lone machine gets them; of two machines nobody knows whose they are."""
    text = descriptor(DiskText("a", 1 << 16)).replace(b"ovf:/disk/d0", b"")
    imported = pool.take(archive({"web.ovf": text, "a": content(1 << 16)}))
    assert len(imported.machines[0].disks) == 1
    assert "the hardware does not mention the disks 'd0'; they are attached behind the others" in imported.warnings
    end = text.index(b"</Envelope>")
    two = text[:end] + text[text.index(b"<VirtualSystem ") : end] + text[end:]
    other = descriptor(DiskText("a", 1 << 16)).replace(b"<rasd:ResourceType>17<", b"<rasd:ResourceType>99<")
    for refused in (two, other):
        with pytest.raises(InvalidPackage, match="lists disks that no machine has"):
            pool.take(archive({"web.ovf": refused, "a": content(1 << 16)}))
    pool.assert_whole(1)


def test_no_disk_at_all(pool: ImportPool) -> None:
    imported = pool.take(archive({"web.ovf": descriptor()}))
    assert imported.machines[0].disks == ()
    text = descriptor(DiskText("cd.iso", 512, "http://www.ecma-international.org/publications/standards/Ecma-119.htm"))
    imported = pool.take(archive({"web.ovf": text, "cd.iso": b"\1" * 512}))
    assert imported.machines[0].disks == ()
    assert "the medium cd.iso is left out" in imported.warnings
    with pytest.raises(InvalidPackage, match="describes no virtual system"):
        pool.take(archive({"web.ovf": envelope("<References/>")}))
    with pytest.raises(InvalidPackage, match=r"there is no descriptor \(\*.ovf\)"):
        pool.take(archive({"a": b"x"}))


def test_names_that_are_taken(pool: ImportPool) -> None:
    uuid = "0f0e0d0c-0b0a-4908-8706-050403020100"
    package = archive(small_package(uuid=uuid, macs=["52:54:00:00:00:01", "52:54:00:00:00:01", "01:00:5e:00:00:01"]))
    first, second, third = (pool.take(package) for _ in range(3))
    assert [one.machines[0].name for one in (first, second, third)] == ["web", "web-2", "web-3"]
    assert first.machines[0].uuid == uuid
    assert second.machines[0].uuid not in {uuid, third.machines[0].uuid}
    assert first.machines[0].nics[0].mac == "52:54:00:00:00:01"
    assert any("52:54:00:00:00:01 is taken; it has 52:54:00:" in text for text in first.warnings)
    assert any("01:00:5e:00:00:01 is a multicast address; it has" in text for text in first.warnings)
    assert f"the UUID {uuid} is taken; the machine has a new one" in second.warnings
    assert "the name is taken; the machine is called 'web-2'" in second.warnings
    macs = [nic.mac for machine in pool.pool.machines() for nic in machine.nics]
    assert len(set(macs)) == len(macs) == 9
    pool.assert_whole(3)


def test_a_name_that_is_taken_while_the_package_comes(pool: ImportPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process registers the same name just before this import does."""
    register = pool.pool.register

    def late(*arguments: object) -> None:
        monkeypatch.setattr(pool.pool, "register", register)
        pool.pool.add(msgspec.structs.replace(define_machine("web"), uuid="0f0e0d0c-0b0a-4908-8706-050403020100"))
        register(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pool.pool, "register", late)
    imported = pool.take(archive(small_package()))
    assert imported.machines[0].name == "web-2"
    pool.assert_whole(2)


def test_a_damaged_catalog_harms_no_import(pool: ImportPool) -> None:
    pool.take(archive(small_package()))
    with pool.pool._change() as connection:
        connection.execute("UPDATE machines SET kind = 'thing', name = CAST(x'ff' AS TEXT)")
    assert pool.take(archive(small_package())).machines[0].name == "web"


def test_what_comes_before_the_descriptor_is_limited(pool: ImportPool) -> None:
    parts = small_package()
    late = archive({"a.raw": parts["a.raw"], "b.raw": parts["b.raw"], "web.ovf": parts["web.ovf"]})
    assert len(pool.take(late, spool_limit=1 << 17).machines[0].disks) == 2
    with pytest.raises(
        InvalidPackage, match=r"'b.raw': .*128 KiB at the most.*pack the .ovf file first.*--spool-limit"
    ):
        pool.take(late, spool_limit=(1 << 17) - 1)
    many = archive({**{f"f{n}": b"x" for n in range(3000)}, **parts})
    assert pool.take(many).machines[0].disks  # no file is open for each of them
    pool.assert_whole(2)


def test_tables_behind_the_data_are_limited_too(pool: ImportPool, tmp_path: Path) -> None:
    data = content(4 * MIB)
    file = converted(tmp_path, data, "qcow2", "-o", "preallocation=full,cluster_size=4k")
    package = archive({"web.ovf": descriptor(DiskText("d", len(data), QCOW2)), "d": file})
    imported = pool.take(package)
    assert guest_bytes(imported.machines[0].disks[0].volume.path, "qcow2", tmp_path) == data
    with pytest.raises(InvalidPackage, match=r"'d': .*64.* KiB at the most.*qemu-img convert.*--spool-limit"):
        pool.take(package, spool_limit=1 << 16)
    pool.assert_whole(1)
