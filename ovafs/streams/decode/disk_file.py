"""Which decoder a disk file needs: the format is what its bytes say, what the OVF says is a hint.

| bytes | hint | |
|---|---|---|
| one known format | any | that format, or refused by name (oVirt calls qcow2 "RAW") |
| gzip | any | inflated, and the question asked again; gzip in gzip is refused |
| none | none or ``raw`` | raw; refused if it ends like a fixed VHD |
| none | ``vhd`` | fixed VHD |
| none | another | refused: a disk that is not what it claims to be |
| several formats | any | refused: made to be taken for different things by different programs |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovafs.errors import InvalidPackage, UnsupportedFeature
from ovafs.formats.detect import matching_formats
from ovafs.formats.vmdk.header import MAGIC as VMDK_MAGIC
from ovafs.formats.vmdk.header import parse_header
from ovafs.streams.decode.decoder import Decoder, Write
from ovafs.streams.decode.gunzip import GunzipStage
from ovafs.streams.decode.qcow2 import Qcow2Decoder
from ovafs.streams.decode.qcow2_judge import Qcow2Judge
from ovafs.streams.decode.raw import RawDecoder
from ovafs.streams.decode.vdi import VdiDecoder
from ovafs.streams.decode.vhd import VhdDynamicDecoder, VhdFixedDecoder
from ovafs.streams.decode.vmdk_sparse import VmdkSparseDecoder
from ovafs.streams.decode.vmdk_stream import VmdkStreamDecoder
from ovafs.streams.qcow2 import MAX_VIRTUAL_SIZE
from ovafs.units import KIB

if TYPE_CHECKING:
    from collections.abc import Generator

    from ovafs.streams.decode.decoder import Event

HEAD_SIZE = KIB
"""Bytes from which :func:`choose_decoder` can tell; fewer if the file has fewer."""


def choose_decoder(
    head: bytes, hint: str | None, member: str, size: int | None = None, *, keep_qcow2: bool = False
) -> Decoder:
    """The decoder for a disk file that begins with ``head`` (HEAD_SIZE bytes, not compressed).

    ``hint`` is the format that the OVF names ("raw", "qcow2", "vmdk", "vhd") or None; ``keep_qcow2`` says that qcow2 is
    to be judged only. Raises InvalidPackage, UnsupportedFeature (a known format that is not decoded, by name).
    """
    formats = matching_formats(head)
    if len(formats) > 1:
        raise InvalidPackage(f"is {' and '.join(formats)} at once", member=member)
    if formats == ("qcow2",):
        return Qcow2Judge(member, size) if keep_qcow2 else Qcow2Decoder(member, size)
    if formats == ("vmdk",):
        return _vmdk_decoder(head, member, size)
    if formats == ("vdi",):
        return VdiDecoder(member, size)
    if formats == ("vhd",):
        return VhdDynamicDecoder(member, size)
    if formats:
        raise UnsupportedFeature(member, f"{formats[0]} disk", "convert it with 'qemu-img convert -O qcow2'")
    if hint == "vhd":
        return VhdFixedDecoder(member, size)
    if hint not in {None, "raw"}:
        raise InvalidPackage(f"is called {hint} but is not", member=member)
    return RawDecoder(member, size)


def _vmdk_decoder(head: bytes, member: str, size: int | None) -> Decoder:
    if not head.startswith(VMDK_MAGIC):
        feature = "VMDK of ESX (COWD)" if head.startswith(b"COWD") else "VMDK that is only a descriptor of other files"
        raise UnsupportedFeature(member, feature, "have the machine exported as streamOptimized")
    stream = len(head) >= 512 and parse_header(head, member).is_stream
    return VmdkStreamDecoder(member, size) if stream else VmdkSparseDecoder(member, size)


class DiskFileDecoder(Decoder):
    """A disk file of any format, perhaps gzip-compressed.

    ``virtual_size`` is known as soon as the decoder that was chosen knows it. The offsets of Keep are those of the
    inflated file, which may be up to ``inflated_limit`` bytes long.

    With ``keep_qcow2`` a qcow2 file is judged and not decoded: ``is_kept`` becomes true, Write has all bytes of the
    inflated file at their own offsets, and Keep has those that judging needs at the end, once more.
    """

    def __init__(
        self,
        member: str,
        size: int | None = None,
        hint: str | None = None,
        *,
        inflated_limit: int = MAX_VIRTUAL_SIZE,
        keep_qcow2: bool = False,
    ) -> None:
        super().__init__(member, size)
        self.is_kept = False
        """Whether Write has the bytes of the image file, not those of the disk in it."""
        self.is_verbatim = False
        """Whether Write has the bytes of the member, at their own offsets; false too as long as that is not known."""
        self._hint = hint
        self._inflated_limit = inflated_limit
        self._keep_qcow2 = keep_qcow2
        self._image_end = 0  # what was passed on of the inflated file

    def _decode(self) -> Generator[Event | None, None, None]:
        head = yield from self._take_up_to(HEAD_SIZE)
        if matching_formats(bytes(head)) == ("gzip",):
            yield from self._decode_gzip(head)
            return
        decoder = self._choose(bytes(head), self._size)
        self.is_verbatim = self.is_kept or isinstance(decoder, RawDecoder)
        yield from self._pass_on(decoder, head)
        while (yield from self._more()):
            yield from self._pass_on(decoder, self._cut(len(self._chunk)))
        yield from self._end(decoder)

    def _decode_gzip(self, head: memoryview) -> Generator[Event | None, None, None]:
        stage = GunzipStage(self._member, self._inflated_limit)
        decoder: Decoder | None = None
        begin = b""
        data = head
        while data:
            for piece in stage.receive_data(data):
                plain = piece
                if decoder is None:
                    begin += plain
                    if len(begin) < HEAD_SIZE:
                        continue
                    decoder = self._choose(begin, None)
                    plain = memoryview(begin)
                yield from self._pass_on(decoder, plain)
            data = self._cut(len(self._chunk)) if (yield from self._more()) else memoryview(b"")
        stage.finish()
        if decoder is None:
            decoder = self._choose(begin, None)
            yield from self._pass_on(decoder, memoryview(begin))
        yield from self._end(decoder)

    def _choose(self, head: bytes, size: int | None) -> Decoder:
        decoder = choose_decoder(head, self._hint, self._member, size, keep_qcow2=self._keep_qcow2)
        self.is_kept = isinstance(decoder, Qcow2Judge)
        return decoder

    def _pass_on(self, decoder: Decoder, data: memoryview) -> Generator[Event, None, None]:
        for event in decoder.receive_data(data):
            self.virtual_size = decoder.virtual_size
            yield event
        self.virtual_size = decoder.virtual_size
        if self.is_kept and data:
            yield Write(self._image_end, data)
            self._image_end += len(data)

    def _end(self, decoder: Decoder) -> Generator[Event, None, None]:
        yield from decoder.finish(self._read_kept)
        self.virtual_size = decoder.virtual_size
