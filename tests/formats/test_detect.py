"""Detection by magic, on files that the formats' own programs made."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import subprocess
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest

from ovafs.formats.detect import HEAD_SIZE, detect_format, matching_formats
from tests.support import images

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("form", "options", "name"),
    [
        ("qcow2", "compat=0.10", "qcow2"),
        ("qcow2", "compat=1.1", "qcow2"),
        ("qcow", "", "qcow2"),
        ("vmdk", "subformat=monolithicSparse", "vmdk"),
        ("vmdk", "subformat=streamOptimized", "vmdk"),
        ("vmdk", "subformat=monolithicFlat", "vmdk"),
        ("vdi", "", "vdi"),
        ("vhdx", "", "vhdx"),
        ("vpc", "subformat=dynamic", "vhd"),
        ("qed", "", "qed"),
        ("parallels", "", "parallels"),
        ("raw", "", "raw"),
    ],
)
def test_images_made_by_qemu(tmp_path: Path, form: str, options: str, name: str) -> None:
    path = tmp_path / "image"
    command = ["qemu-img", "create", "-q", "-f", form, *(["-o", options] if options else []), str(path), "4M"]
    subprocess.run(command, check=True, capture_output=True)
    with path.open("rb") as file:
        assert detect_format(file.read(HEAD_SIZE)) == name


def test_luks(tmp_path: Path) -> None:
    with images.encrypted(tmp_path / "image", "1M", "luks").open("rb") as file:
        assert detect_format(file.read(HEAD_SIZE)) == "luks"


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("vm.ovf"))
    return buffer.getvalue()


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("disk.img", b"x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (gzip.compress(b"disk"), "gzip"),
        (bz2.compress(b"disk"), "bzip2"),
        (lzma.compress(b"disk"), "xz"),
        (_tar(), "tar"),
        (_zip(), "zip"),
        (b"", "raw"),
        (bytes(512), "raw"),
        (b"\xeb\x63\x90" + bytes(507) + b"\x55\xaa", "raw"),
    ],
)
def test_other_files(data: bytes, name: str) -> None:
    assert detect_format(data) == name


def test_files_of_several_formats() -> None:
    """Made so that two programs take them for different things."""
    assert matching_formats(bytes(512)) == ()
    assert matching_formats(b"QFI\xfb".ljust(512)) == ("qcow2",)
    assert matching_formats(b"QFI\xfb".ljust(0x40) + b"\x7f\x10\xda\xbe") == ("qcow2", "vdi")
    assert matching_formats(b"\x1f\x8b".ljust(257) + b"ustar") == ("tar", "gzip")
