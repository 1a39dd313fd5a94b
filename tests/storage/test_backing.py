"""Which format a file is opened as when none is recorded, and where its backing file lies."""

from __future__ import annotations

import gzip
import struct
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import ImageUnavailable, InvalidImage, OvafsError, UnsupportedFeature
from ovafs.model import DiskFormat
from ovafs.storage.backing import choose_format
from ovafs.storage.chain import open_chain
from tests.support.chains import opened, read
from tests.support.images import create, hand_made, run, stored_bytes

if TYPE_CHECKING:
    from pathlib import Path


def test_safe_guesses(tmp_path: Path) -> None:
    (raw := tmp_path / "a.img").write_bytes(b"\xeb\x63" + bytes(1000))
    assert choose_format(str(raw), None) == DiskFormat.RAW
    assert choose_format(str(create(tmp_path / "b.img", "1M")), None) == DiskFormat.QCOW2
    (empty := tmp_path / "empty").touch()
    assert choose_format(str(empty), None) == DiskFormat.RAW


@pytest.mark.parametrize("name", ["empty.qcow2", "cut.QCOW2", "fixed.vhd", "flat.vmdk"])
def test_a_name_of_another_format_is_not_taken_for_a_raw_disk(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"" if name.startswith("empty") else b"QF" + bytes(1000))
    with pytest.raises(UnsupportedFeature, match=f"named {path.suffix} and does not begin as such") as caught:
        choose_format(str(path), None)
    assert "add format= with raw, qcow2, qcow, vmdk" in caught.value.hint
    assert choose_format(str(path), DiskFormat.RAW) == DiskFormat.RAW


@pytest.mark.parametrize(("name", "safe"), [("a.qcow2", True), ("a.qcow", True), ("a.img", False), ("qcow2", False)])
def test_qcow2_that_names_a_backing_file_is_believed_by_its_own_name_only(
    tmp_path: Path, name: str, safe: bool
) -> None:
    create(tmp_path / "base.qcow2", "1M")
    path = create(tmp_path / name, "1M", backing="base.qcow2")
    if safe:
        assert choose_format(str(path), None) == DiskFormat.QCOW2
        return
    with pytest.raises(UnsupportedFeature, match="could have written") as caught:
        choose_format(str(path), None)
    assert "add format= with raw, qcow2, qcow, vmdk" in caught.value.hint


def test_what_the_user_says_counts(tmp_path: Path) -> None:
    create(tmp_path / "base.qcow2", "1M")
    path = create(tmp_path / "a.img", "1M", backing="base.qcow2")
    assert choose_format(str(path), DiskFormat.RAW) == DiskFormat.RAW
    assert choose_format(str(path), DiskFormat.QCOW2) == DiskFormat.QCOW2
    with pytest.raises(ImageUnavailable):
        choose_format(str(tmp_path / "absent"), DiskFormat.RAW)


def test_other_formats_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.vmdk"
    run("qemu-img", "create", "-q", "-f", "vmdk", path, "1M")
    with pytest.raises(UnsupportedFeature, match="format vmdk") as caught:
        choose_format(str(path), None)
    assert "format= with raw, qcow2, qcow, vmdk" in caught.value.hint
    (path := tmp_path / "a.img.gz").write_bytes(gzip.compress(b"disk"))
    with pytest.raises(UnsupportedFeature, match="format gzip"):
        choose_format(str(path), None)


@pytest.mark.parametrize(
    ("header", "feature"),
    [
        ({"incompatible": 4}, "external data file"),
        ({"crypt": 1}, "encryption"),
    ],
)
def test_broken_qcow2_is_refused_for_what_it_is(tmp_path: Path, header: dict[str, int], feature: str) -> None:
    (path := tmp_path / "a.qcow2").write_bytes(hand_made(**header))  # type: ignore[arg-type]
    with pytest.raises(UnsupportedFeature, match=feature):
        choose_format(str(path), None)


def test_recorded_qcow2_must_be_qcow2(tmp_path: Path) -> None:
    (path := tmp_path / "a.qcow2").write_bytes(bytes(65536))
    with pytest.raises(InvalidImage, match="is recorded as qcow2"):
        open_chain(str(path), DiskFormat.QCOW2)


# -- backing files ------------------------------------------------------------------------------------------------


def overlay(path: Path, name: str, form: str | None = None) -> Path:
    """An overlay of 1 MiB, whose header records the backing format only if one is given."""
    extension = b""
    if form is not None:
        extension = struct.pack(">II", 0xE2792ACA, len(form)) + form.encode().ljust(-(-len(form) // 8) * 8, b"\0")
    path.write_bytes(hand_made(size=1 << 20, backing=name.encode(), extensions=extension))
    return path


async def test_backing_format_is_taken_from_the_header(tmp_path: Path) -> None:
    """A raw base that holds a qcow2 header is read as raw, whatever it looks like."""
    (base := tmp_path / "base.img").write_bytes(hand_made(backing=b"/etc/shadow"))
    with opened(overlay(tmp_path / "a.qcow2", "base.img", "raw")) as disk:
        assert await read(disk, 0, 4096) == base.read_bytes()[:4096]
        assert len(disk.files) == 2


def test_unrecorded_backing_format_is_guessed_safely(tmp_path: Path) -> None:
    top = overlay(tmp_path / "a.qcow2", "base.img")
    (tmp_path / "base.img").write_bytes(bytes(4096))
    with opened(top) as disk:
        assert len(disk.files) == 2
    create(tmp_path / "base.img", "1M")
    with opened(top) as disk:
        assert stored_bytes(disk.extents) == 0
    (tmp_path / "base.img").write_bytes(hand_made(backing=b"/etc/shadow"))
    with pytest.raises(UnsupportedFeature, match="could have written") as caught:
        open_chain(str(top), DiskFormat.QCOW2)
    assert caught.value.hint == f"record its format: qemu-img rebase -u -F FORMAT -b BACKING {top}"
    assert f"(backing file of {top})" in str(caught.value)


@pytest.mark.parametrize("form", ["vmdk", "vpc", "luks", "host_device", ""])
def test_other_backing_formats_are_named(tmp_path: Path, form: str) -> None:
    (tmp_path / "base.img").write_bytes(b"KDMV" + bytes(4092))
    top = overlay(tmp_path / "a.qcow2", "base.img", form)
    with pytest.raises(UnsupportedFeature) as caught:
        open_chain(str(top), DiskFormat.QCOW2)
    assert caught.value.feature.startswith(f"format {form or 'vmdk (by its first bytes)'}")


@pytest.mark.parametrize(
    ("name", "feature"),
    [
        ("nbd://127.0.0.1:1/x", "protocol 'nbd'"),
        ("nbd:unix:/socket", "protocol 'nbd'"),
        ("json:{}", "protocol 'json'"),
        ("https://host/disk", "protocol 'https'"),
        ("a:b.qcow2", "protocol 'a'"),
        ("fat:rw:/tmp", "protocol 'fat'"),
        ("file:base.img", "relative file name"),
        ("file:", "relative file name"),
        (":base.img", "protocol ''"),
    ],
)
def test_protocols_are_refused_by_name(tmp_path: Path, name: str, feature: str) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        open_chain(str(overlay(tmp_path / "a.qcow2", name, "raw")), DiskFormat.QCOW2)
    assert feature in caught.value.feature


def test_a_colon_behind_a_slash_is_a_files_name(tmp_path: Path) -> None:
    (tmp_path / "a:b.img").write_bytes(bytes(512))
    with opened(overlay(tmp_path / "a.qcow2", "./a:b.img", "raw")) as disk:
        assert len(disk.files) == 2


def test_names_start_at_the_overlay_not_at_what_it_links_to(tmp_path: Path) -> None:
    """As QEMU does: a linked overlay finds its base beside the link."""
    (tmp_path / "there").mkdir()
    overlay(tmp_path / "there" / "a.qcow2", "base.img", "raw")
    (tmp_path / "a.qcow2").symlink_to("there/a.qcow2")
    (tmp_path / "base.img").write_bytes(bytes(512))
    run("qemu-io", "-r", "-f", "qcow2", "-c", "read 0 512", tmp_path / "a.qcow2")
    with opened(tmp_path / "a.qcow2") as disk:
        assert disk.files[1].path == str(tmp_path / "base.img")


def test_an_error_two_files_down_names_file_and_overlay(tmp_path: Path) -> None:
    overlay(tmp_path / "2.qcow2", "1.img", "raw")
    overlay(tmp_path / "3.qcow2", "2.qcow2", "qcow2")
    with pytest.raises(OvafsError) as caught:
        open_chain(str(tmp_path / "3.qcow2"), DiskFormat.QCOW2)
    assert isinstance(caught.value, ImageUnavailable)
    assert caught.value.summary == (
        f"{tmp_path}/1.img: cannot be opened: No such file or directory (backing file of {tmp_path}/2.qcow2)"
    )
