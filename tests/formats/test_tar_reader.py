"""The reader of foreign archives, judged by GNU tar and by Python's tarfile on good ones."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import tarfile
import tracemalloc
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovafs.errors import InvalidPackage
from ovafs.formats.tar import END_OF_ARCHIVE, member_header
from ovafs.formats.tar_events import (
    NEED_DATA,
    Ending,
    EndOfArchive,
    Ignored,
    MemberData,
    MemberEnd,
    MemberStart,
)
from ovafs.formats.tar_reader import Limits, TarReader
from tests.support.attack_tars import DISK, END, OVF, REFUSED, base256, header, long_name, member, pax, record
from tests.support.shared import shared_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

GIB = 1 << 30


class Member(NamedTuple):
    name: str
    size: int
    sha256: str


class Read(NamedTuple):
    """What became of an archive."""

    members: list[Member]
    ignored: list[Ignored]
    ending: Ending


def events(archive: bytes, cuts: Iterable[int], limits: Limits | None = None) -> Iterator[object]:
    """All events of an archive that arrives in pieces of the sizes ``cuts``; at last its ending."""
    reader, position = TarReader(limits), 0
    sizes = iter(cuts)
    while position < len(archive):
        piece = archive[position : position + next(sizes)]
        position += len(piece)
        reader.receive_data(piece)
        while (event := reader.next_event()) is not NEED_DATA:
            yield event
    assert reader.next_event() is NEED_DATA
    yield reader.ending()


def cut(size: int) -> Iterator[int]:
    while True:
        yield size


def read(archive: bytes, cuts: Iterable[int] = (), limits: Limits | None = None) -> Read:
    """Read it and check the protocol: data without gaps, between a start and an end, at the place that was said."""
    members, ignored = [], []
    start: MemberStart | None = None
    data = bytearray()
    ending, ended = None, False
    for event in events(archive, cuts or cut(1 << 30), limits):
        match event:
            case MemberStart():
                assert start is None
                start = event
                data.clear()
            case MemberData():
                assert start is not None
                assert event.offset == len(data)
                assert len(event.data) > 0
                place = start.offset + event.offset
                assert archive[place : place + len(event.data)] == event.data
                data += event.data
            case MemberEnd():
                assert start is not None
                assert (event.name, event.size) == (start.name, len(data))
                members.append(Member(start.name, len(data), hashlib.sha256(data).hexdigest()))
                start = None
            case Ignored():
                ignored.append(event)
            case EndOfArchive():
                assert not ended
                assert archive[event.offset - 1024 : event.offset] == bytes(1024)
                ended = True
            case Ending():
                ending = event
    assert ending is not None
    assert ending.end_blocks == ended
    assert (start is None) or not ending.complete
    return Read(members, ignored, ending)


def every_way(archive: bytes, limits: Limits | None = None) -> Read:
    """Whole, one byte at a time, in odd pieces: always the same."""
    whole = read(archive, limits=limits)
    for size in (1, 7, 511, 513):
        assert read(archive, cut(size), limits) == whole
    return whole


def refusal(archive: bytes, size: int) -> tuple[str, int | None]:
    with pytest.raises(InvalidPackage) as caught:
        list(events(archive, cut(size)))
    return str(caught.value), caught.value.offset


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def by_gnu_tar(path: str) -> list[tuple[str, int]]:
    """Names and sizes of the files in an archive."""
    run = subprocess.run(
        ["tar", "--list", "--verbose", "--numeric-owner", "--quoting-style=literal", "--file", path],
        check=True,
        capture_output=True,
        env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
    )
    rows = re.findall(r"^-\S+ \S+ +(\d+) \S+ \S+ (.*)$", run.stdout.decode(), re.MULTILINE)
    return [(name.removeprefix("./"), int(size)) for size, name in rows]


# -- good archives -------------------------------------------------------------------------------------------


def test_the_plain_archive() -> None:
    result = every_way(OVF + DISK + END)
    assert result.members == [
        Member("vm.ovf", 11, digest(b"<Envelope/>")),
        Member("d.img", 1000, digest(b"D" * 1000)),
    ]
    assert result.ignored == []
    assert result.ending == Ending(complete=True, end_blocks=True, member="", missing=0)


def test_events_say_where() -> None:
    found = list(events(OVF + DISK + END, cut(700)))
    assert found[0] == MemberStart("vm.ovf", 11, 512, 0)
    assert found[3] == MemberStart("d.img", 1000, 1536, 1024)
    assert found[-2] == EndOfArchive(3584)


def test_data_is_not_copied() -> None:
    archive = bytearray(OVF + DISK + END)
    reader = TarReader()
    reader.receive_data(archive)
    found = [reader.next_event() for _ in range(5)]
    archive[1536:1540] = b"here"
    assert isinstance(found[4], MemberData)
    assert bytes(found[4].data[:8]) == b"hereDDDD"


def test_nothing_of_the_input_is_kept() -> None:
    """A caller may reuse its buffer once everything is consumed."""
    buffer = bytearray(OVF)
    reader = TarReader()
    reader.receive_data(buffer)
    while reader.next_event() is not NEED_DATA:
        pass
    buffer.clear()  # BufferError if a view of it were still held


@st.composite
def archives(draw: st.DrawFn) -> tuple[bytes, list[Member]]:
    """Archives by Python's tarfile, in each of its formats, with names of all lengths."""
    form = draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    part = st.text(
        st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="/\\"), min_size=1, max_size=60
    )
    name = st.lists(part, min_size=1, max_size=3).map("/".join)
    if form == tarfile.USTAR_FORMAT:
        name = name.filter(lambda text: len(text.encode()) <= 99)
    names = draw(st.lists(name, max_size=5, unique_by=str.casefold))
    buffer, members = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for one in names:
            data = draw(st.binary(max_size=1500))
            info = tarfile.TarInfo(one)
            info.size = len(data)
            info.mtime = draw(st.sampled_from([0, 1.5 if form == tarfile.PAX_FORMAT else 1]))
            archive.addfile(info, io.BytesIO(data))
            members.append(Member(one, len(data), digest(data)))
    return buffer.getvalue(), members


def is_clean(member: Member) -> bool:
    parts = member.name.split("/")
    return not {".", ".."}.intersection(parts) and member.name != "pad" and not parts[-1].startswith("._")


@given(archives(), st.lists(st.integers(1, 3000), min_size=1))
def test_equals_the_standard_library(archive: tuple[bytes, list[Member]], cuts: list[int]) -> None:
    raw, members = archive
    if not all(is_clean(one) for one in members):
        return
    try:
        found = read(raw, (cuts[number % len(cuts)] for number in range(len(raw))))
    except InvalidPackage as error:  # two names that only the Unicode form tells apart
        assert "second member" in error.reason  # noqa: PT017
        return
    assert found.members == members
    assert found.ending.end_blocks


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_equals_gnu_tar_with_a_member_beyond_8_gib(form: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """GNU tar writes base-256 sizes, and in pax archives a size of 0 beside the record."""
    folder = tmp_path_factory.mktemp("big")
    size = 9 * GIB + 5
    with (folder / "disk.img").open("wb") as file:
        file.truncate(size)
    with subprocess.Popen(
        ["tar", f"--format={form}", "--create", "--file=-", "--directory", folder, "disk.img"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        head = process.stdout.read(4096)
        process.kill()
        process.communicate()
    found = next(iter(events(head, cut(4096))))
    assert isinstance(found, MemberStart)
    assert (found.name, found.size) == ("disk.img", size)


SAMPLES = (
    *("ovftool/tdAppliance1-t1.ova", "ovftool/tdAppliance1-t2.ova", "ovftool/tdAppliance1-t3-ovftool-4.1.0.ova"),
    *("ovftool/tdAppliance1-t4.ova", "ovftool/tdAppliance1-t7-bad-instance.ova"),
    *("virtualbox/ctl-virtio-ovf10.ova", "virtualbox/diskless.ova", "virtualbox/efi-scsi-ovf20-iso.ova"),
    *("virtualbox/linux-sata-nomf.ova", "virtualbox/linux-sata-ovf10.ova", "virtualbox/linux-sata-ovf20.ova"),
    *("virtualbox/two-vms-ovf10.ova", "other/glance/testserver.ova", "other/glance/testserver-bad-ovf.ova"),
    *("other/glance/testserver-no-disk.ova", "other/glance/testserver-no-ovf.ova", "other/harvester/test.ova"),
    "other/open-ovf/py_tests_test_files_ourOVF.ova",
)


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_equal_gnu_tar(name: str) -> None:
    path = shared_path(f"samples/{name}")
    archive = path.read_bytes()
    whole = read(archive)
    assert read(archive, cut(1000)) == whole
    assert [(one.name, one.size) for one in whole.members] == by_gnu_tar(str(path))
    for one in whole.members:
        command = ["tar", "--extract", "--to-stdout", "--file", str(path), one.name]
        assert one.sha256 == digest(subprocess.run(command, check=True, capture_output=True).stdout)
    assert whole.ending.complete
    assert whole.ending.end_blocks == (not name.startswith("virtualbox/"))  # VirtualBox writes none


def test_every_sample_is_in_the_table() -> None:
    folder = shared_path("samples")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*.ova")}
    assert found == {*SAMPLES, "other/glance/testserver-not-tar.ova"}


def test_the_sample_that_is_no_archive() -> None:
    archive = shared_path("samples/other/glance/testserver-not-tar.ova").read_bytes()
    assert refusal(archive, 512)[0].startswith("at byte 0: not an OVA: it has no tar header")


# -- what is tolerated ---------------------------------------------------------------------------------------


def test_directories_apple_doubles_padding_and_comments_are_passed_over() -> None:
    archive = (
        pax(record(b"comment", b"made by git"), typeflag=b"g")
        + member(b"./", typeflag=b"5")
        + member(b"./vm.ovf", b"<Envelope/>")
        + member(b"./._vm.ovf", b"resource fork")
        + member(b"sub/", typeflag=b"5")
        + member(b"sub/._d.img", b"x" * 600)
        + member(b"sub/d.img", b"D")
        + member(b"pad", bytes(1536))
        + member(b"pad")
        + END
    )
    found = every_way(archive)
    assert [one.name for one in found.members] == ["vm.ovf", "sub/d.img"]
    assert [(one.name, one.what, one.size) for one in found.ignored] == [
        ("", "comment", 23),
        ("", "directory", 0),
        ("._vm.ovf", "AppleDouble file", 13),
        ("sub", "directory", 0),
        ("sub/._d.img", "AppleDouble file", 600),
        ("pad", "padding", 1536),
        ("pad", "padding", 0),
    ]


@pytest.mark.parametrize(
    ("first", "name"),
    [
        (long_name(b"n" * 200), "n" * 200),
        (long_name("ü/".encode() * 100 + b"x"), "ü/" * 100 + "x"),
        (pax(record(b"path", "中文.ovf".encode())), "中文.ovf"),
        (pax(record(b"mtime", b"1.5"), record(b"LIBARCHIVE.creationtime", b"1")), "d.img"),
        (pax(record(b"size", b"1000")), "d.img"),
        (pax() + pax(record(b"path", b"x")), "x"),
    ],
)
def test_extension_headers(first: bytes, name: str) -> None:
    found = every_way(first + DISK + OVF + END)
    assert [one.name for one in found.members] == [name, "vm.ovf"]


def test_prefix_of_posix_headers_only() -> None:
    posix = member(b"d.img", b"1", prefix=b"a/b")
    gnu = member(b"d.img", b"1", prefix=b"a/b", magic=b"ustar  \0")  # GNU keeps times there
    assert [one.name for one in every_way(posix + gnu + END).members] == ["a/b/d.img", "d.img"]


def test_signed_checksum() -> None:
    right = header("ü.ovf".encode())
    signed = sum(right) - sum(right[148:156]) + 8 * 32 - 256 * sum(byte >> 7 for byte in right)
    archive = header("ü.ovf".encode(), checksum=b"%06o\0 " % signed) + END
    assert archive[:512] != right
    assert [one.name for one in read(archive).members] == ["ü.ovf"]


@pytest.mark.parametrize("field", [b"00000001750\0", b"       1750 ", b"000000001750", b"1750\0\0\0\0\0\0\0\0"])
def test_sizes_in_octal(field: bytes) -> None:
    archive = header(b"d.img", size_field=field) + DISK[512:] + END
    assert [one.size for one in read(archive).members] == [1000]


@pytest.mark.parametrize("zeros", [0, 1, 511, 512, 9216, 1 << 20])
def test_zeros_behind_the_end(zeros: int) -> None:
    found = every_way(OVF + END + bytes(zeros)) if zeros < 10000 else read(OVF + END + bytes(zeros))
    assert found.ending == Ending(complete=True, end_blocks=True, member="", missing=0)


def test_an_archive_of_nothing() -> None:
    found = every_way(bytes(10240))
    assert (found.members, found.ending.end_blocks) == ([], True)


# -- the size in characters of oVirt up to 4.5.4 -------------------------------------------------------------------


def ovirt_archive(text: str, name: str = "vm.ovf") -> bytes:
    """The first bytes of the packer up to 4.5.4: the size counts characters."""
    data = text.encode()
    descriptor = member_header(name, len(text), 0) + data + bytes(-len(data) % 512)
    return descriptor + member_header("disk", 1000, 0) + b"D" * 1000 + bytes(24) + END_OF_ARCHIVE


@given(st.integers(0, 1600), st.integers(0, 900), st.sampled_from("ü中😀"), st.sampled_from([1, 100, 512, 5000]))
def test_descriptors_measured_in_characters(before: int, count: int, letter: str, size: int) -> None:
    """Wherever the declared end and the true end lie in their blocks."""
    text = "<Envelope>" + "x" * before + letter * count + "</Envelope>"
    found = read(ovirt_archive(text), cut(size))
    assert found.members == [
        Member("vm.ovf", len(text.encode()), digest(text.encode())),
        Member("disk", 1000, digest(b"D" * 1000)),
    ]
    assert found.ending.complete


def test_only_ovirts_first_member_is_read_on() -> None:
    for archive in (ovirt_archive("ü" * 1200, "other.ovf"), DISK + ovirt_archive("ü" * 1200)):
        assert "no tar header where the next member should begin" in refusal(archive, 512)[0]


def test_a_descriptor_cannot_run_on_for_ever() -> None:
    """No character has more than four bytes."""
    text = b"<Envelope>" + b"x" * 40
    archive = member_header("vm.ovf", len(text), 0) + text + b"y" * 5000
    message, offset = refusal(archive, 1)
    assert "'vm.ovf' at byte 562: is followed by neither zeros nor the header of the next member" in message
    assert offset == 562


def test_binary_rubbish_behind_a_descriptor_is_refused() -> None:
    archive = member_header("vm.ovf", 512, 0) + b"x" * 512 + b"a\0b".ljust(512, b"\0") + END
    assert "is followed by neither" in refusal(archive, 512)[0]


# -- archives that stop ------------------------------------------------------------------------------------------


def test_every_cut_says_what_is_missing() -> None:
    archive = long_name(b"n" * 120) + OVF + DISK + END
    named, descriptor, disk = 1024, 2048, 3584  # where the long name, and the two members, end
    for size in range(len(archive) + 1):
        found = read(archive[:size]).ending
        if size in {0, descriptor} or size >= disk:
            assert found == Ending(complete=True, end_blocks=size == len(archive), member="", missing=0), size
            continue
        member_of, end = "", size + -size % 512  # in a header
        if size in {512, named}:
            end = size + 512  # the long name itself, the header of the member that has it
        elif named + 512 <= size < descriptor:
            member_of, end = "n" * 120, descriptor
        elif size >= descriptor + 512:
            member_of, end = "d.img", disk
        assert found == Ending(complete=False, end_blocks=False, member=member_of, missing=end - size), size


def test_the_ending_changes_nothing() -> None:
    archive = OVF + DISK + END
    reader, position = TarReader(), 0
    while position < len(archive):
        reader.receive_data(archive[position : position + 100])
        position += 100
        while reader.next_event() is not NEED_DATA:
            pass
        assert reader.ending() == reader.ending()
    assert reader.ending().end_blocks


# -- hostile archives --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_by_name(name: str) -> None:
    archive, message = REFUSED[name]
    whole = refusal(archive, len(archive))
    assert re.search(message, whole[0])
    if len(archive) < 20000:
        for size in (1, 511, 512, 513):
            assert refusal(archive, size) == whole


def test_an_error_is_final() -> None:
    reader = TarReader()
    reader.receive_data(OVF + header(b"d", typeflag=b"2"))
    assert [type(reader.next_event()) for _ in range(3)] == [MemberStart, MemberData, MemberEnd]
    with pytest.raises(InvalidPackage) as first:
        reader.next_event()
    for call in (reader.next_event, reader.ending, lambda: reader.receive_data(OVF)):
        with pytest.raises(InvalidPackage) as again:
            call()
        assert again.value is first.value


def test_limits_are_the_callers() -> None:
    limits = Limits(members=2, member_size=1000)
    assert len(every_way(OVF + DISK + END, limits).members) == 2
    with pytest.raises(InvalidPackage, match="more than 2 members"):
        read(OVF + DISK + member(b"x") + END, limits=limits)
    with pytest.raises(InvalidPackage, match="is 1001 bytes long"):
        read(header(b"d", 1001) + END, limits=limits)


def test_memory_stays_small_whatever_a_header_says() -> None:
    tracemalloc.start()
    reader = TarReader()
    chunk = bytes(1 << 20)
    reader.receive_data(header(b"disk", size_field=base256(1 << 49)))
    while reader.next_event() is not NEED_DATA:
        pass
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(50):
        reader.receive_data(chunk)
        while reader.next_event() is not NEED_DATA:
            pass
    used = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert used < 64 << 10
    assert reader.ending().missing == (1 << 49) - (50 << 20)


@given(st.data())
def test_damaged_archives_give_events_or_the_one_error(data: st.DataObject) -> None:
    """The invariant of a push parser: events or InvalidPackage, nothing else, however it is cut."""
    archive = bytearray(
        long_name(b"n" * 120) + OVF + pax(record(b"path", b"p")) + DISK + member(b"e", b"e" * 513) + END
    )
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(archive) - 1))
        archive[position] = data.draw(st.integers(0, 255))
    archive = archive[: data.draw(st.integers(0, len(archive)))]

    def outcome(size: int) -> Read | tuple[str, int | None]:
        try:
            return read(bytes(archive), cut(size))
        except InvalidPackage as error:
            return str(error), error.offset

    assert outcome(data.draw(st.integers(1, 600))) == outcome(len(archive) or 1)


def test_receive_data_wants_the_events_fetched_first() -> None:
    reader = TarReader()
    reader.receive_data(OVF)
    with pytest.raises(RuntimeError, match="before next_event returned NEED_DATA"):
        reader.receive_data(OVF)
