"""The package: against a slow reference, against golden bytes, and judged by tar, bsdtar and qemu."""

from __future__ import annotations

import tarfile
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovafs.streams import ova
from ovafs.streams.clusters import ClusterRuns
from ovafs.streams.extents import ExtentMap, Kind
from ovafs.streams.qcow2 import PlannedQcow2
from ovafs.streams.segment import Literal, Segment, SourceRange, Zero, segment_length
from tests.support import oracles
from tests.support.plan_contract import check_cuts, check_plan_contract, guest_bytes, planned_bytes, segment_bytes
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovafs.streams.composite import StoredContent

CLUSTER, MIB, GIB = 1 << 16, 1 << 20, 1 << 30
GOLDEN = Path(__file__).parents[1] / "data" / "package.golden"
OVF = b'<?xml version="1.0" encoding="UTF-8"?><ovf:Envelope xmlns:ovf="urn:x"><Name>m\xc3\xbcller</Name></ovf:Envelope>'
MTIME = 1_700_000_000
NAME = "3f0c6c1e-3d1f-4a66-9f0b-6c2f4f5a{:04x}"


class File:
    """Content of any size, all of it source."""

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size
        self.stored = size

    def plan(self, offset: int, length: int) -> list[Segment]:
        return [SourceRange(self.number, offset, length)]

    def label(self, offset: int) -> str:
        return f"byte {offset}"

    def whole(self) -> bytes:
        return guest_bytes(SourceRange(self.number, 0, self.size)) if self.size else b""


def qcow2(number: int, virtual_size: int, *clusters: tuple[int, int]) -> PlannedQcow2:
    extents = ExtentMap()
    for first, count in clusters:
        extents.append(first * CLUSTER, count * CLUSTER, Kind.DATA, first * CLUSTER)
    return PlannedQcow2(number, virtual_size, ClusterRuns.from_extents(extents, 16))


def named(contents: Sequence[StoredContent]) -> list[tuple[str, StoredContent]]:
    return [(NAME.format(number), content) for number, content in enumerate(contents)]


def slow_package(descriptor: bytes, disks: Sequence[tuple[str, bytes]], name: str = "vm.ovf") -> bytes:
    """The archive by Python's tarfile, as oVirt's packer makes it, with sizes found by trying."""

    def member(name: str, data: bytes) -> bytes:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        info.mtime = MTIME
        return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)

    if disks:
        root = descriptor.rindex(b"</")
        while (512 + len(descriptor) + 512) % 4096:
            descriptor = descriptor[:root] + b" " + descriptor[root:]
    archive = member(name, descriptor)
    for number, (disk, data) in enumerate(disks):
        last = number == len(disks) - 1
        padded = data
        while len(padded) % (512 if last else 4096) != (0 if last else 3584):
            padded += b"\0"
        archive += member(disk, padded)
    return archive + bytes(1024)


# -- sizes and padding ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "members"),
    [
        ([], []),
        ([196608], [196608]),
        ([65536, 65536, 65536], [69120, 69120, 65536]),
        ([0, 0], [3584, 0]),
        ([3584, 3585, 1], [3584, 7680, 512]),
    ],
)
def test_member_sizes(files: list[int], members: list[int]) -> None:
    assert ova.member_sizes(files) == members


@given(st.binary(max_size=9000).filter(lambda text: b"<" not in text))
def test_descriptor_is_padded_before_its_last_tag(text: bytes) -> None:
    before = b"<a><b></b>" + text
    padded = ova.pad_descriptor(before + b"</a>")
    assert (512 + len(padded) + 512) % 4096 == 0
    assert len(padded) - len(before) - 4 < 4096
    assert padded.startswith(before)
    assert padded.endswith(b"</a>")
    assert padded[len(before) : -4].strip(b" ") == b""
    assert ova.pad_descriptor(padded) == padded


@pytest.mark.parametrize("tag", [b"</ovf:Envelope>", b"</a >", b"</a\n>\n", b"</a>\r\n \t"])
def test_white_space_in_and_behind_the_last_tag_stays(tag: bytes) -> None:
    padded = ova.pad_descriptor(b"<a>text" + tag)
    assert padded == b"<a>text".ljust(3072 - len(tag)) + tag


@pytest.mark.parametrize("text", [b"", b"<a/>", b"text", b"<a></a", b"<a></a>x", b"<a></>", b"<a></a><!-- -->"])
def test_refuses_to_pad_what_does_not_end_with_a_tag(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"^the descriptor does not end with the closing tag of its root element$"):
        ova.pad_descriptor(text)


def test_padding_is_white_space_for_an_xml_parser(tmp_path: Path) -> None:
    plain, padded = tmp_path / "plain.xml", tmp_path / "padded.xml"
    plain.write_bytes(OVF)
    padded.write_bytes(ova.pad_descriptor(OVF))
    # Both print the same once the parser has dropped text nodes that are white space.
    printed = [run("xmllint", "--noblanks", file).stdout for file in (plain, padded)]
    assert printed[0] == printed[1]


# -- layout ---------------------------------------------------------------------------------------------

files = st.lists(st.one_of(st.integers(0, 20000), st.integers(0, 5).map(lambda n: n * 4096)), max_size=5)


@settings(deadline=None)
@given(
    files, st.binary(max_size=5000).filter(lambda text: b"<" not in text), st.lists(st.integers(0, 10**5), max_size=8)
)
def test_any_package_reads_like_the_reference(sizes: list[int], text: bytes, cuts: list[int]) -> None:
    contents = [File(number, size) for number, size in enumerate(sizes)]
    descriptor = b"<a>" + text + b"</a>"
    package = ova.Package("vm.ovf", descriptor, named(contents), MTIME)
    reference = slow_package(descriptor, [(NAME.format(c.number), c.whole()) for c in contents])
    check_cuts(package, reference, [cut for cut in cuts if cut <= package.size])
    assert all(member.data_offset % 4096 == 0 for member in package.members[1:])
    assert [member.size for member in package.members[1:]] == ova.member_sizes(sizes)


def test_keeps_the_contract_with_planned_images() -> None:
    contents = [qcow2(0, GIB, (3, 2), (9000, 1)), qcow2(1, 10 * CLUSTER + 512, (10, 1)), qcow2(2, 0)]
    package = ova.Package("vm.ovf", OVF, named(contents), MTIME)
    images = [(name, planned_bytes(content, 0, content.size)) for name, content in named(contents)]
    check_plan_contract(package, slow_package(OVF, images))


def test_keeps_the_contract_without_disks() -> None:
    """Nothing to align: the descriptor stays as it is, with NUL bytes up to the next block."""
    package = ova.Package("template.ovf", OVF, [], MTIME)
    assert package.size == 512 + 512 + 1024
    assert package.members == [ova.Member("template.ovf", 0, 512, len(OVF))]
    check_plan_contract(package, slow_package(OVF, [], "template.ovf"))


def test_labels_name_the_member_and_what_is_in_it() -> None:
    package = ova.Package("vm.ovf", OVF, named([qcow2(0, GIB, (3, 1)), File(1, 100)]), MTIME)
    ovf, first, second = package.members
    assert package.label(0) == "header of vm.ovf"
    assert package.label(ovf.data_offset) == "member vm.ovf"
    assert package.label(first.header_offset) == f"header of {NAME.format(0)}"
    assert package.label(first.data_offset + 4 * CLUSTER + 9) == f"member {NAME.format(0)}: L2 tables: entry 1"
    assert package.label(first.data_offset + first.size - 1) == f"zero tail of {NAME.format(0)}"
    assert package.label(second.data_offset + 99) == f"member {NAME.format(1)}: byte 99"
    assert package.label(second.data_offset + 100) == f"zero tail of {NAME.format(1)}"
    assert package.label(package.size - 1) == "end of archive"
    assert package.label(package.size) == "end of file"


def test_refuses_equal_names() -> None:
    with pytest.raises(ValueError, match=r"^two members of the package would have the name 'one'$"):
        ova.Package("vm.ovf", OVF, [("one", File(0, 1)), ("one", File(1, 1))], MTIME)


def hexdump(package: ova.Package) -> str:
    """The bytes as text: rows of 16, "*" for rows like the one before, a line for each range of a disk.

    Which of the bytes are literals and which are zeros in the plan makes no difference.
    """
    lines, offset = [], 0
    for is_source, segments in groupby(package.plan(0, package.size), lambda segment: isinstance(segment, SourceRange)):
        if is_source:
            for segment in segments:
                lines.append(f"{offset:08x} {segment}")
                offset += segment_length(segment)
            continue
        data = b"".join(segment_bytes(segment, guest_bytes) for segment in segments)
        for at in range(0, len(data), 16):
            if not at or data[at : at + 16] != data[at - 16 : at]:
                lines.append(f"{offset + at:08x} {data[at : at + 16].hex()}")
            elif lines[-1] != "*":
                lines.append("*")
        offset += len(data)
    return "\n".join([*lines, f"{offset:08x} end", ""])


def test_golden_bytes() -> None:
    """Every byte of a package is a promise: the same machine has the same OVA in every version to come.

    If this fails, copies that were begun by an older version no longer resume and no longer compare equal. Bytes
    that must change come with a new dialect, never in silence.
    """
    contents = [qcow2(0, 2 * GIB, (0, 1), (5, 3), (8191, 2)), qcow2(1, 3 * CLUSTER + 512, (3, 1))]
    package = ova.Package("vm.ovf", OVF, named(contents), MTIME)
    assert hexdump(package) == GOLDEN.read_text(encoding="ascii")


# -- judged by other programs ---------------------------------------------------------------------------


def write(package: ova.Package, path: Path, *, data: bool = True) -> Path:
    with path.open("wb") as file:
        offset = 0
        while offset < package.size:
            length = min(64 * MIB, package.size - offset)
            for segment in package.plan(offset, length):
                match segment:
                    case Literal(content):
                        file.write(content)
                    case SourceRange() if data:
                        file.write(guest_bytes(segment))
                    case Zero() | SourceRange():
                        file.seek(segment.length, 1)
            offset += length
        file.truncate(package.size)
    return path


def assert_listed(package: ova.Package, path: Path) -> None:
    """GNU tar and bsdtar find the members that the package claims to have, and nothing else."""
    assert oracles.tar_members(path) == [oracles.Member(m.name, m.size, m.data_offset) for m in package.members]
    assert oracles.bsdtar_names(path) == [member.name for member in package.members]


def test_tar_and_bsdtar_extract_what_went_in(tmp_path: Path) -> None:
    contents: list[StoredContent] = [File(0, 5000), qcow2(1, MIB, (2, 3)), File(2, 70_000)]
    package = ova.Package("vm.ovf", OVF, named(contents), MTIME)
    path = write(package, tmp_path / "x.ova")
    assert_listed(package, path)
    for tool in ("tar", "bsdtar"):
        descriptor, *disks = oracles.extract(path, tmp_path / tool, tool=tool)
        assert descriptor.read_bytes() == ova.pad_descriptor(OVF)
        for content, disk, size in zip(contents, disks, ova.member_sizes([c.size for c in contents]), strict=True):
            assert disk.read_bytes() == planned_bytes(content, 0, content.size).ljust(size, b"\0")
            assert (disk.stat().st_mtime, disk.stat().st_mode & 0o777) == (MTIME, 0o644)


@pytest.mark.parametrize("disks", [0, 1, 64])
def test_tar_and_bsdtar_list_any_number_of_disks(disks: int, tmp_path: Path) -> None:
    package = ova.Package("vm.ovf", OVF, named([qcow2(n, MIB, (n % 16, 1)) for n in range(disks)]), MTIME)
    assert_listed(package, write(package, tmp_path / "x.ova"))


def test_tar_and_bsdtar_find_what_follows_a_member_of_more_than_8_gib(tmp_path: Path) -> None:
    full = qcow2(0, 9 * GIB, (0, 9 * GIB // CLUSTER))
    package = ova.Package("vm.ovf", OVF, named([full, qcow2(1, MIB)]), MTIME)
    path = write(package, tmp_path / "x.ova", data=False)
    assert package.members[1].size > 8 * GIB
    assert_listed(package, path)
    oracles.check_qcow2(oracles.in_place(path, oracles.tar_members(path)[1]))


def test_qemu_opens_every_disk_inside_the_package(tmp_path: Path) -> None:
    shapes = [(GIB, [(3, 2), (8191, 3)]), (2 * CLUSTER + 1024, [(0, 1), (2, 1)]), (10 * MIB, [])]
    contents = [qcow2(number, size, *clusters) for number, (size, clusters) in enumerate(shapes)]
    path = write(ova.Package("vm.ovf", OVF, named(contents), MTIME), tmp_path / "x.ova")
    for number, (member, (size, clusters)) in enumerate(zip(oracles.tar_members(path)[1:], shapes, strict=True)):
        reference = tmp_path / f"{number}.raw"
        with reference.open("wb") as file:
            for first, count in clusters:
                file.seek(first * CLUSTER)
                length = min(count * CLUSTER, size - first * CLUSTER)
                file.write(guest_bytes(SourceRange(number, first * CLUSTER, length)))
            file.truncate(size)
        image = oracles.in_place(path, member)
        oracles.check_qcow2(image)
        oracles.assert_same_disk(reference, image, "raw", "qcow2")


@pytest.mark.parametrize("sizes", [(1,), (512,), (513, 4096), (100_000, 7)])
@pytest.mark.parametrize("with_disk", [True, False])
def test_texts_between_descriptor_and_disks(tmp_path: Path, sizes: tuple[int, ...], with_disk: bool) -> None:
    """GNU tar reads them back, and the disk behind them is as aligned as without them."""
    texts = [(f"{number}.dat", bytes([65 + number]) * size) for number, size in enumerate(sizes)]
    disks = [("disk", File(0, 1000))] if with_disk else []
    package = ova.Package("vm.ovf", b"<a></a>\n", disks, 1, texts)
    path = tmp_path / "package.ova"
    path.write_bytes(planned_bytes(package, 0, package.size))
    members = oracles.tar_members(path)
    assert [member.name for member in members] == ["vm.ovf", *(name for name, _ in texts), *(name for name, _ in disks)]
    assert [path.read_bytes()[one.offset :][: one.size] for one in members[1 : 1 + len(texts)]] == [t for _, t in texts]
    assert not with_disk or members[-1].offset % ova.ALIGNMENT == 0
