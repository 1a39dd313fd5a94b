"""Descriptors: of real writers, and of those who want a file of the host."""

from __future__ import annotations

import pytest

from ovafs.errors import ImageError, InvalidImage, UnsupportedFeature
from ovafs.formats.vmdk.descriptor import DescriptorExtent, parse_descriptor, parse_extents, write_extents
from tests.support.decoding import mutations
from tests.support.vmdk import descriptor

OVFTOOL = (
    b'# Disk DescriptorFile\nversion=1 \nCID=0078626b \nparentCID=ffffffff \ncreateType="streamOptimized" \n \n'
    b'# Extent description\nRDONLY 4194304 SPARSE "generated-stream.vmdk"\n \n# The Disk Data Base \n#DDB\n \n'
    b'ddb.adapterType = "lsilogic" \nddb.geometry.cylinders = "261" \n \n'
)
VIRTUALBOX = (
    b'# Disk DescriptorFile\nversion=1\nCID=a46cecc7\nparentCID=ffffffff\ncreateType="streamOptimized"\n\n'
    b'# Extent description\nRDONLY 8192 SPARSE "sp\xc3\xa4ce \xe8\x99\x9a-disk001.vmdk"\n\n'
    b"# The disk Data Base \n#DDB\n\n"
    b'ddb.geometry.cylinders="8"\nddb.uuid.image="c40d4923"\nddb.comment="Converted image from /tmp/vbx/d2.raw"\n'
)
OPEN_OVF = b'# Disk DescriptorFile\nCID=1\nparentCID=ffffffff\ncreateType=streamOptimized\nRDONLY 9 SPARSE "x.vmdk"\n'
XEN_ORCHESTRA_OLD = descriptor().replace(b"\n", b"\n        ")
VMWARE = descriptor(before='encoding="windows-1252"\nisNativeSnapshot="no"\n', extent='RW 2048 SPARSE "caf\xe9.vmdk"')


@pytest.mark.parametrize(
    "text", [OVFTOOL, VIRTUALBOX, OPEN_OVF, XEN_ORCHESTRA_OLD, VMWARE, OVFTOOL.replace(b"\n", b"\r\n")]
)
def test_descriptors_of_real_writers(text: bytes) -> None:
    assert parse_descriptor(text, "disk") == "streamOptimized"
    assert parse_descriptor(memoryview(text.ljust(20 * 512, b"\0")), "disk") == "streamOptimized"
    assert parse_descriptor(text.replace(b"streamOptimized", b"monolithicSparse"), "disk") == "monolithicSparse"


def test_what_is_left_of_a_longer_text() -> None:
    assert parse_descriptor(descriptor() + b'\0"\n', "disk") == "streamOptimized"


def test_a_name_that_is_not_utf_8() -> None:
    assert parse_descriptor(descriptor(extent='RW 1 SPARSE "caf\u00e9"').decode().encode("latin-1"), "disk")


SPARSE = 'RW 2048 SPARSE "disk.vmdk"'
REFUSED = {
    "flat, absolute": (descriptor("monolithicFlat", 'RW 2 FLAT "/etc/passwd" 0'), "extent of type 'FLAT'"),
    "flat, relative": (descriptor("monolithicFlat", 'RW 2 FLAT "../../etc/passwd" 0'), "extent of type 'FLAT'"),
    "flat, bare": (descriptor("monolithicSparse", 'RW 2 FLAT "secret.img" 0'), "extent of type 'FLAT'"),
    "vmfs": (descriptor("vmfs", 'RW 2 VMFS "/etc/passwd"'), "extent of type 'VMFS'"),
    "vmfs sparse": (descriptor("vmfsSparse", 'RW 2 VMFSSPARSE "x"'), "extent of type 'VMFSSPARSE'"),
    "zero extent": (descriptor(extent="RW 2 ZERO"), "extent of type 'ZERO'"),
    "sparse elsewhere": (descriptor(extent='RW 2 SPARSE "/dev/sda"'), "not a bare file name"),
    "sparse above": (descriptor(extent='RW 2 SPARSE ".."'), "not a bare file name"),
    "sparse, backslash": (descriptor(extent='RW 2 SPARSE "a\\\\b"'), "not a bare file name"),
    "sparse without a name": (descriptor(extent="RW 2 SPARSE"), "not a bare file name"),
    "two extents": (descriptor(extent=f"{SPARSE}\n{SPARSE}"), "VMDK of 2 extents"),
    "no extent": (descriptor(extent=""), "VMDK of 0 extents"),
    "another type": (descriptor("twoGbMaxExtentSparse"), "createType 'twoGbMaxExtentSparse'"),
    "no type": (descriptor().replace(b"createType", b"ddb.type"), "createType ''"),
    "type twice": (descriptor(before='createType="monolithicFlat"\n'), "sets 'createtype' twice"),
    "type twice, other case": (descriptor(before='CREATETYPE="monolithicFlat"\n'), "sets 'createtype' twice"),
    "parent": (descriptor(parent="12345678"), "with a parent"),
    "parent's name": (descriptor(before='parentFileNameHint="/etc/passwd"\n'), "with a parent"),
    "other lines": (descriptor(before="include /etc/passwd\n"), "neither an assignment nor an extent"),
    "no signature": (b"version=1\n" + descriptor(), "signature"),
    "nothing": (b"", "signature"),
    "zeros": (bytes(512), "signature"),
    "random": (b"\xff\xfe\xfd" * 100, "signature"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_descriptors_that_are_refused(name: str) -> None:
    text, message = REFUSED[name]
    with pytest.raises((InvalidImage, UnsupportedFeature), match=message):
        parse_descriptor(text, "disk")


SPLIT = descriptor(
    "twoGbMaxExtentSparse",
    'RW 4192256 SPARSE "disk-s001.vmdk"\nRDONLY 2048 SPARSE "disk s002.vmdk"',
    before='encoding="UTF-8"\n',
)


def test_a_descriptor_of_several_files() -> None:
    found = parse_extents(SPLIT, "disk")
    first = DescriptorExtent(4192256, "SPARSE", "disk-s001.vmdk", 0)
    assert found == ("twoGbMaxExtentSparse", [first, DescriptorExtent(2048, "SPARSE", "disk s002.vmdk", 0)])
    flat = descriptor("monolithicFlat", 'RW 2048 FLAT "disk-flat.vmdk" 128')
    assert parse_extents(flat, "disk") == ("monolithicFlat", [DescriptorExtent(2048, "FLAT", "disk-flat.vmdk", 128)])
    assert parse_extents(descriptor("vmfs", 'RW 2048 VMFS "disk-flat.vmdk"'), "disk")[1][0].kind == "VMFS"


def test_it_is_written_with_other_names() -> None:
    names = {"disk-s001.vmdk": "/proc/self/fd/7", "disk s002.vmdk": "/proc/self/fd/8"}
    text = write_extents(*parse_extents(SPLIT, "disk"), names)
    assert text.decode().splitlines()[-2:] == [
        'RW 4192256 SPARSE "/proc/self/fd/7"',
        'RW 2048 SPARSE "/proc/self/fd/8"',
    ]
    assert text.startswith(b"# Disk DescriptorFile\n")
    assert b'createType="twoGbMaxExtentSparse"' in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (descriptor("monolithicFlat", 'RW 2 FLAT "/etc/shadow" 0'), "not a bare file name"),
        (descriptor("monolithicFlat", 'RW 2 FLAT "../x" 0'), "not a bare file name"),
        (descriptor("monolithicFlat", 'RW 2 FLAT "a\\b" 0'), "not a bare file name"),
        (descriptor("vmfs", 'RW 2 VMFS ".."'), "not a bare file name"),
        (descriptor("vmfs", "RW 2 VMFS"), "not a bare file name"),
        (descriptor("vmfsSparse", 'RW 2 VMFSSPARSE "x"'), "extent of type 'VMFSSPARSE'"),
        (descriptor("fullDevice", 'RW 2 FLAT "x" 0'), "createType 'fullDevice'"),
        (descriptor("monolithicFlat", "RW 2 ZERO"), "extent of type 'ZERO'"),
        (descriptor("monolithicFlat", 'NOACCESS 2 FLAT "x" 0'), "neither an assignment nor an extent"),
        (descriptor("monolithicFlat", 'RW 0 FLAT "x" 0'), "or of empty ones"),
        (descriptor("monolithicFlat", ""), "VMDK of 0 extents"),
        (descriptor("vmfs", "\n".join(f'RW 2 VMFS "{number}"' for number in range(1025))), "VMDK of 1025 extents"),
        (descriptor("vmfs", 'RW 2 VMFS "x"', parent="12345678"), "with a parent"),
    ],
)
def test_several_files_that_are_refused(text: bytes, message: str) -> None:
    with pytest.raises((InvalidImage, UnsupportedFeature), match=message):
        parse_extents(text, "disk")


def test_messages_are_short() -> None:
    for text in (
        descriptor("x" * 10_000),
        descriptor(extent="y" * 10_000),
        descriptor(extent=f'RW 1 SPARSE "/{"z" * 9999}"'),
    ):
        with pytest.raises(ImageError) as caught:
            parse_descriptor(text, "disk")
        assert len(str(caught.value)) < 300


def test_mutations() -> None:
    for text in mutations(VIRTUALBOX, 500, seed=1):
        try:
            parse_descriptor(text, "disk")
        except ImageError:
            continue


def test_time_is_bounded() -> None:
    """A megabyte of what makes regular expressions go back and forth."""
    for filler in (b" ", b"\t ", b'"', b"RW 1 ", b"a=", b"\n"):
        with pytest.raises(ImageError):
            parse_descriptor(b"# Disk DescriptorFile\nRW 1" + filler * ((1 << 20) // len(filler)) + b"x", "disk")
