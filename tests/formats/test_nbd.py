"""NBD exchanges, against what a server sends: in order, out of order, cut, and hostile."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovafs.formats.nbd import (
    LONGEST_READ,
    Export,
    ExportInfo,
    NbdError,
    NbdFailed,
    StatusRun,
    block_status,
    disconnect,
    negotiate,
    read,
)

if TYPE_CHECKING:
    from ovafs.formats.nbd import Exchange

R = TypeVar("R")

GREETING = b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)
COOKIE = 7


class ServerGone(Exception):
    """The exchange waits for more than the server has sent."""


def play(exchange: Exchange[R], received: bytes) -> tuple[R, bytes]:
    """The result of an exchange, and all that it sent."""
    sent = b""
    try:
        while True:
            step = next(exchange)
            if isinstance(step, bytes):
                sent += step
            else:
                if len(step) > len(received):
                    raise ServerGone(len(step))
                step[:] = received[: len(step)]
                received = received[len(step) :]
    except StopIteration as done:
        assert received == b"", "all that the server sent was taken"
        return done.value, sent


def reply(option: int, kind: int, data: bytes = b"", *, magic: int = 0x3E889045565A9) -> bytes:
    return struct.pack(">QIII", magic, option, kind, len(data)) + data


def info_export(size: int = 1 << 30, flags: int = 1 | 2 | 256) -> bytes:
    return reply(7, 3, struct.pack(">HQH", 0, size, flags))


def info_sizes(least: int = 1, preferred: int = 4096, most: int = 32 << 20) -> bytes:
    return reply(7, 3, struct.pack(">HIII", 3, least, preferred, most))


STRUCTURED = reply(8, 1)
CONTEXT = reply(10, 4, struct.pack(">I", 5) + b"base:allocation") + reply(10, 1)
GO = info_export() + info_sizes() + reply(7, 1)


def chunk(kind: int, data: bytes = b"", *, is_last: bool = False, cookie: int = COOKIE) -> bytes:
    return struct.pack(">IHHQI", 0x668E33EF, int(is_last), kind, cookie, len(data)) + data


def data(offset: int, content: bytes, *, is_last: bool = False) -> bytes:
    return chunk(1, struct.pack(">Q", offset) + content, is_last=is_last)


def hole(offset: int, length: int, *, is_last: bool = False) -> bytes:
    return chunk(2, struct.pack(">QI", offset, length), is_last=is_last)


def error(number: int, message: bytes, *, is_last: bool = False, kind: int = 0x8001) -> bytes:
    return chunk(kind, struct.pack(">IH", number, len(message)) + message, is_last=is_last)


def test_the_negotiation() -> None:
    info, sent = play(negotiate("vda"), GREETING + STRUCTURED + CONTEXT + GO)
    assert info == ExportInfo(1 << 30, has_multi_conn=True, alignment=1, longest_read=32 << 20, allocation_context=5)
    flags, options = sent[:4], sent[4:]
    assert flags == b"\0\0\0\3"
    assert [options[i : i + 8] for i in range(len(options)) if options.startswith(b"IHAVEOPT", i)] == [b"IHAVEOPT"] * 3
    assert b"\0\0\0\3vda\0\0\0\1\0\0\0\x0fbase:allocation" in sent
    assert sent.endswith(b"\0\0\0\7\0\0\0\x0b\0\0\0\3vda\0\1\0\3")


def test_a_server_without_a_word_about_block_sizes_has_the_usual_ones() -> None:
    info, _ = play(negotiate(""), GREETING + STRUCTURED + CONTEXT + info_export(512, 1) + reply(7, 1))
    assert info == ExportInfo(512, has_multi_conn=False, alignment=1, longest_read=LONGEST_READ, allocation_context=5)


@pytest.mark.parametrize(
    ("received", "message"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1 Debian", "no NBD server of the newstyle negotiation"),
        (b"NBDMAGICIHAVEOPT\0\0", "not the fixed newstyle"),
        (GREETING + reply(8, 0x80000001), "structured replies: not supported"),
        (GREETING + reply(8, 0x80000005, b"TLS first"), r"only with TLS, .* \(TLS first\)"),
        (GREETING + reply(8, 1, magic=1), "its reply to option 8 is malformed"),
        (GREETING + reply(7, 1), "its reply to option 8 is malformed"),
        (GREETING + struct.pack(">QIII", 0x3E889045565A9, 8, 3, 1 << 31), "malformed"),
        (GREETING + reply(8, 3) * 200, "more than 100 replies to option 8"),
        (GREETING + STRUCTURED + reply(10, 1), "does not tell what is allocated"),
        (GREETING + STRUCTURED + reply(10, 4, b"\0\0\0\1qemu:x") + reply(10, 1), "does not tell what is allocated"),
        (GREETING + STRUCTURED + reply(10, 0x80000006, b"\x1b[2J"), r"block status vd\\x07a: there is no such export"),
        (GREETING + STRUCTURED + CONTEXT + reply(7, 1), "does not tell the export's size"),
        (GREETING + STRUCTURED + CONTEXT + info_export(1 << 63) + reply(7, 1), "does not tell the export's size"),
        (GREETING + STRUCTURED + CONTEXT + info_export() + info_sizes(3) + reply(7, 1), "its block sizes"),
        (GREETING + STRUCTURED + CONTEXT + info_export() + info_sizes(1 << 20) + reply(7, 1), "its block sizes"),
        (GREETING + STRUCTURED + CONTEXT + info_export() + info_sizes(1, 1, 8) + reply(7, 1), "its block sizes"),
    ],
)
def test_servers_that_are_of_no_use(received: bytes, message: str) -> None:
    with pytest.raises(NbdError, match=message) as caught:
        play(negotiate("vd\aa"), received)
    assert str(caught.value).isprintable()


def test_a_read_in_one_piece() -> None:
    buffer = bytearray(b"\xff" * 8)
    _, sent = play(read(COOKIE, 100, memoryview(buffer)), data(100, b"abcdefgh", is_last=True))
    assert buffer == b"abcdefgh"
    assert sent == struct.pack(">IHHQQI", 0x25609513, 0, 0, COOKIE, 100, 8)


def test_a_read_in_pieces_of_any_order() -> None:
    buffer = bytearray(b"\xff" * 12)
    play(
        read(COOKIE, 100, memoryview(buffer)),
        data(108, b"ijkl") + hole(104, 4) + data(100, b"abcd") + chunk(0, is_last=True),
    )
    assert buffer == b"abcd\0\0\0\0ijkl"


def test_an_error_is_told_when_the_reply_is_complete() -> None:
    received = data(100, b"abcd") + error(5, b"bad \x1b[31msector") + chunk(0, is_last=True)
    with pytest.raises(NbdFailed, match=r"bad \\x1b\[31msector") as caught:
        play(read(COOKIE, 100, memoryview(bytearray(8))), received)
    assert caught.value.errno == 5


def test_an_error_without_words() -> None:
    received = chunk(0x8002, struct.pack(">IHQ", 28, 0, 4096), is_last=True)
    with pytest.raises(NbdFailed, match=r"^ENOSPC$"):
        play(read(COOKIE, 100, memoryview(bytearray(8))), received)


@pytest.mark.parametrize(
    ("received", "message"),
    [
        (data(100, b"abcd", is_last=True), "lacks the last 4"),
        (data(104, b"efgh", is_last=True), "has gaps or repeats itself"),
        (data(100, b"abcd") + data(100, b"abcd", is_last=True), "has gaps or repeats itself"),
        (chunk(0, is_last=True), "lacks the last 8"),
        (data(99, b"abcdefgh", is_last=True), "has 8 bytes at -1"),
        (data(101, b"abcdefgh", is_last=True), "has 8 bytes at 1"),
        (hole(100, 1 << 31, is_last=True), "has 2147483648 bytes at 0"),
        (hole(100, 0, is_last=True), "has 0 bytes at 0"),
        (chunk(1, bytes(8), is_last=True), "a chunk of type 1 with 8 bytes"),
        (chunk(2, bytes(11), is_last=True), "a chunk of type 2 with 11 bytes"),
        (chunk(5, bytes(12), is_last=True), "a chunk of type 5 with 12 bytes"),
        (chunk(0x8001, bytes(5), is_last=True), "with 5 bytes"),
        (struct.pack(">IHHQI", 0x668E33EF, 1, 0x8001, COOKIE, 1 << 30), "with 1073741824 bytes"),
        (chunk(1, bytes(16), cookie=8), "malformed or belongs to no request"),
        (struct.pack(">IIQI", 0x67446698, 0, COOKIE, 0), "malformed or belongs to no request"),
    ],
)
def test_replies_that_lie(received: bytes, message: str) -> None:
    with pytest.raises(NbdError, match=message):
        play(read(COOKIE, 100, memoryview(bytearray(8))), received)


def test_a_reply_without_end() -> None:
    with pytest.raises(NbdError, match="more than 65536 chunks"):
        play(read(COOKIE, 0, memoryview(bytearray(8))), chunk(0) * 70_000)


def status(*runs: tuple[int, int], context: int = 5, is_last: bool = True) -> bytes:
    return chunk(5, struct.pack(">I", context) + b"".join(struct.pack(">II", *run) for run in runs), is_last=is_last)


def test_the_block_status() -> None:
    received = status((4096, 3), (4096, 0), (4096, 1), (4096, 2))
    runs, sent = play(block_status(COOKIE, 1 << 40, 16384, 5), received)
    assert runs == [StatusRun(4096, is_zero) for is_zero in (True, False, False, True)]
    assert sent == struct.pack(">IHHQQI", 0x25609513, 0, 7, COOKIE, 1 << 40, 16384)


def test_the_last_run_may_reach_further_and_others_are_of_no_interest() -> None:
    received = status((1 << 31, 0), context=6, is_last=False) + status((100, 2), (1 << 31, 0), (1, 0))
    runs, _ = play(block_status(COOKIE, 0, 512, 5), received)
    assert runs == [StatusRun(100, is_zero=True), StatusRun(412, is_zero=False)]


@pytest.mark.parametrize(
    ("received", "message"),
    [
        (status((0, 0)), "a run of no length"),
        (status((512, 0), context=6), "says nothing"),
        (chunk(5, bytes(8), is_last=True), "a chunk of type 5 with 8 bytes"),
        (chunk(5, bytes(4), is_last=True), "a chunk of type 5 with 4 bytes"),
        (chunk(1, bytes(16), is_last=True), "a chunk of type 1"),
        (chunk(0) * 200, "more than 100 chunks"),
    ],
)
def test_a_block_status_that_lies(received: bytes, message: str) -> None:
    with pytest.raises(NbdError, match=message):
        play(block_status(COOKIE, 0, 512, 5), received)


def test_a_block_status_that_fails() -> None:
    with pytest.raises(NbdFailed, match="no way"):
        play(block_status(COOKIE, 0, 512, 5), error(22, b"no way", is_last=True))


@given(st.binary(max_size=400))
def test_no_bytes_lead_anywhere_else(received: bytes) -> None:
    exchanges = (
        (negotiate("x"), GREETING),
        (read(COOKIE, 0, memoryview(bytearray(16))), b""),
        (block_status(COOKIE, 0, 512, 5), b""),
    )
    for exchange, before in exchanges:
        with pytest.raises((NbdError, NbdFailed, ServerGone, AssertionError)):
            play(exchange, before + received)


def test_the_end_and_the_name() -> None:
    assert disconnect() == struct.pack(">IHHQQI", 0x25609513, 0, 2, 0, 0, 0)
    assert Export("/run/x.sock", "vda").uri == "nbd+unix:///vda?socket=/run/x.sock"
