"""Which decoder: by the bytes, with the OVF's word as a hint."""

from __future__ import annotations

import gzip
import random
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import InvalidPackage, UnsupportedFeature
from ovafs.streams.decode.disk_file import DiskFileDecoder, choose_decoder
from ovafs.streams.decode.qcow2 import Qcow2Decoder
from ovafs.streams.decode.raw import RawDecoder
from ovafs.streams.decode.vdi import VdiDecoder
from ovafs.streams.decode.vhd import VhdDynamicDecoder
from ovafs.streams.decode.vmdk_sparse import VmdkSparseDecoder
from ovafs.streams.decode.vmdk_stream import VmdkStreamDecoder
from tests.support import images, vdi, vhd, vmdk
from tests.support.decoding import Disk, assert_decodes, assert_refused, decode, every, pieces, refusal

if TYPE_CHECKING:
    from pathlib import Path

    from ovafs.streams.decode.decoder import Decoder

CONTENT = b"content" * 5000 + bytes(29_512)
STREAM = vmdk.stream(CONTENT).data
SPARSE = vmdk.sparse(len(CONTENT) // 512, {0: CONTENT})
QCOW2 = images.hand_made(
    size=len(CONTENT), l1=[4 << 16 | images.COPIED], l2=[5 << 16 | images.COPIED], tail=CONTENT.ljust(65536, b"\0")
)

VDI = vdi.image([0], [CONTENT], vdi.header(blocks=1, size=len(CONTENT)))
VHD = vhd.image([4], [vhd.block(CONTENT)], size=len(CONTENT))
FIXED_VHD = CONTENT + vhd.footer(len(CONTENT), kind=2)


@pytest.mark.parametrize("hint", [None, "raw", "qcow2", "vmdk", "vhd"])
@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (STREAM, VmdkStreamDecoder),
        (SPARSE, VmdkSparseDecoder),
        (QCOW2, Qcow2Decoder),
        (VDI, VdiDecoder),
        (VHD, VhdDynamicDecoder),
    ],
)
def test_the_bytes_decide(data: bytes, kind: type[Decoder], hint: str | None) -> None:
    assert type(choose_decoder(data[:1024], hint, "disk", len(data))) is kind
    assert_decodes(lambda size: DiskFileDecoder("disk", size, hint), data, CONTENT)


def test_no_format_is_raw() -> None:
    for hint in (None, "raw"):
        assert isinstance(choose_decoder(CONTENT[:1024], hint, "disk"), RawDecoder)
        assert_decodes(lambda size, hint=hint: DiskFileDecoder("disk", size, hint), CONTENT, CONTENT)  # type: ignore[misc]


def test_a_fixed_vhd_needs_somebody_who_says_so() -> None:
    assert_decodes(lambda size: DiskFileDecoder("disk", size, "vhd"), FIXED_VHD, CONTENT)
    assert_decodes(lambda size: DiskFileDecoder("disk", size, "vhd"), gzip.compress(FIXED_VHD), CONTENT)
    for hint in (None, "raw"):
        assert_refused(lambda hint=hint: DiskFileDecoder("disk", hint=hint), FIXED_VHD, "ends like a fixed VHD")  # type: ignore[misc]
    assert_refused(lambda: DiskFileDecoder("disk", hint="vhd"), CONTENT, "not a VHD: the cookie of its footer")


def test_an_empty_file_is_an_empty_raw_disk() -> None:
    assert_decodes(lambda size: DiskFileDecoder("disk", size), b"", b"")


@pytest.mark.parametrize("hint", ["qcow2", "vmdk"])
def test_a_disk_that_is_not_what_it_is_called(hint: str) -> None:
    for data in (CONTENT, b"", QCOW2[4:]):
        assert_refused(lambda: DiskFileDecoder("disk", hint=hint), data, f"is called {hint} but is not")


OTHERS = {
    "vhdx": b"vhdxfile",
    "luks": b"LUKS\xba\xbe",
    "qed": b"QED\0",
    "tar": bytes(257) + b"ustar",
    "xz": b"\xfd7zXZ\0",
    "zstd": b"\x28\xb5\x2f\xfd",
    "zip": b"PK\x03\x04",
    "VMDK of ESX (COWD)": b"COWD",
    "VMDK that is only a descriptor": vmdk.descriptor("monolithicFlat", 'RW 2 FLAT "/etc/passwd" 0'),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_are_refused_by_name(name: str) -> None:
    data = OTHERS[name].ljust(4096, b"\0")
    for hint in (None, "raw", "vmdk"):
        assert_refused(lambda hint=hint: DiskFileDecoder("disk", hint=hint), data, f"unsupported: {name}")  # type: ignore[misc]


def test_two_formats_at_once() -> None:
    for data in (QCOW2[:64] + VDI[64:68] + QCOW2[68:], STREAM[:257] + b"ustar" + STREAM[262:]):
        assert_refused(lambda: DiskFileDecoder("disk"), data, " at once")
    assert_refused(
        lambda: DiskFileDecoder("disk"), b"\x1f\x8b" + bytes(255) + b"ustar" + bytes(1000), "tar and gzip at once"
    )


def test_a_flat_file_named_by_a_text_descriptor_is_never_opened(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    text = vmdk.descriptor("monolithicFlat", f'RW 1 FLAT "{secret}" 0')
    assert isinstance(refusal(DiskFileDecoder("disk"), text), UnsupportedFeature)


# -- gzip around it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [STREAM, SPARSE, QCOW2, VDI, VHD, CONTENT], ids=["stream", "sparse", "qcow2", "vdi", "vhd", "raw"]
)
def test_gzip_around_any_format(data: bytes) -> None:
    assert_decodes(lambda size: DiskFileDecoder("disk.gz", size), gzip.compress(data), CONTENT)


def test_a_small_disk_in_gzip() -> None:
    data = gzip.compress(b"x" * 512)
    assert_decodes(lambda size: DiskFileDecoder("disk.gz", size), data, b"x" * 512, tiny=True)


def test_gzip_with_tables_behind_their_data() -> None:
    """What is kept lies where it is in the inflated file."""
    data = vmdk.sparse(3 * 128, {1: b"one" * 9000, 0: b"zero"}, tables_last=True)
    content = b"zero".ljust(65536, b"\0") + (b"one" * 9000).ljust(131_072, b"\0")
    record = assert_decodes(lambda size: DiskFileDecoder("disk.gz", size), gzip.compress(data), content)
    assert record.kept > 0


def test_gzip_that_is_refused() -> None:
    packed = gzip.compress(STREAM)
    assert_refused(lambda: DiskFileDecoder("d"), gzip.compress(packed), "unsupported: gzip disk")
    assert_refused(lambda: DiskFileDecoder("d"), packed[:-9], "ends inside its gzip data")
    assert_refused(lambda: DiskFileDecoder("d"), gzip.compress(STREAM[:-512]), "without the end of the stream")
    assert_refused(lambda: DiskFileDecoder("d", len(packed)), packed[:-9], "ends after")
    assert_refused(lambda: DiskFileDecoder("d", inflated_limit=1000), packed, "inflates to more than 1000 bytes")


# -- the protocol ----------------------------------------------------------------------------------------------


def test_the_virtual_size_is_known_early() -> None:
    """Before the first data: a volume can be made and its room looked for."""
    for data in (STREAM, SPARSE, QCOW2, gzip.compress(QCOW2)):
        decoder = DiskFileDecoder("disk", len(data))
        for event in decoder.receive_data(data):
            assert decoder.virtual_size == len(CONTENT), event


def test_an_iterator_that_was_not_exhausted() -> None:
    content = random.Random(1).randbytes(4096) + bytes(4096)
    decoder = DiskFileDecoder("disk")
    events = decoder.receive_data(content * 8)
    next(events)
    with pytest.raises(RuntimeError, match="not exhausted"):
        list(decoder.receive_data(content))


def test_nothing_comes_behind_the_end() -> None:
    decoder = DiskFileDecoder("disk")
    list(decoder.finish())
    with pytest.raises(RuntimeError, match="after finish"):
        list(decoder.receive_data(b"x"))


def test_a_caller_without_a_spool() -> None:
    """Refusing Keep is the caller's business; asking for what was not kept is its fault."""
    data = vmdk.sparse(128, {0: b"zero"}, tables_last=True)
    decoder = DiskFileDecoder("disk", len(data))
    list(decoder.receive_data(data))
    with pytest.raises(RuntimeError, match="were not kept"):
        list(decoder.finish())


def test_a_failing_spool_is_not_the_files_fault() -> None:
    data = vmdk.sparse(128, {0: b"zero"}, tables_last=True)
    decoder = DiskFileDecoder("disk", len(data))
    list(decoder.receive_data(data))

    def read_kept(offset: int, length: int) -> bytes:
        raise OSError(offset, length)

    with pytest.raises(OSError, match="65536"):
        list(decoder.finish(read_kept))


def test_events_are_made_one_at_a_time() -> None:
    """A megabyte that inflates to many is not inflated before it is asked for."""
    content = b"a" * (64 << 20)
    data = vmdk.stream(content).data
    disk = Disk()
    decoder = DiskFileDecoder("disk", len(data))
    events = decoder.receive_data(data)
    first = next(events)
    assert len(first.data) == 65536
    disk.apply([first])
    disk.apply(events)
    disk.apply(decoder.finish())
    assert disk.finished(len(content)) == content


def test_an_empty_piece_changes_nothing() -> None:
    decoder = DiskFileDecoder("disk", len(QCOW2))
    disk = Disk()
    for piece in pieces(QCOW2, every(10_000, len(QCOW2))):
        disk.apply(decoder.receive_data(b""))
        disk.apply(decoder.receive_data(piece))
    disk.apply(decoder.finish())
    assert disk.finished(len(CONTENT)) == CONTENT


def test_errors_name_the_member() -> None:
    error = refusal(DiskFileDecoder("disk1.vmdk"), STREAM[:-100])
    assert isinstance(error, InvalidPackage)
    assert error.member == "disk1.vmdk"
    assert "'disk1.vmdk'" in str(error)
    assert decode(DiskFileDecoder("disk1.vmdk"), STREAM)[0] == CONTENT
