"""State files: every form that oVirt's versions wrote comes out as one text; what is none is refused."""

from __future__ import annotations

import base64
import bz2
import random

import pytest

from ovafs.errors import InvalidPackage
from ovafs.formats.ovf.ovirt_state import MAX_STATE, MAX_VARIABLES, read_state

CONTENT = random.Random(1).randbytes(1000)
PLAIN = base64.b64encode(CONTENT)
PACKED = b"=0=" + base64.b64encode(bz2.compress(CONTENT))


@pytest.mark.parametrize("text", [PLAIN, PACKED])
@pytest.mark.parametrize(
    "form", [b"%s", b"%s\n", b"%s\0\0\0", b'{ value : "%s" }', b'{"value": "%s"}', b'{ value : "%s\\n" }']
)
def test_forms(text: bytes, form: bytes) -> None:
    assert read_state(form % text) == text
    assert read_state(read_state(form % text)) == text


def test_line_breaks_and_lost_equals_signs() -> None:
    assert PLAIN.endswith(b"=")
    assert read_state(base64.encodebytes(CONTENT)) == PLAIN
    assert read_state(base64.encodebytes(CONTENT).replace(b"\n", b"\r\n")) == PLAIN
    assert read_state(PLAIN.rstrip(b"=")) == PLAIN


def test_a_volume_of_variables() -> None:
    volume = bytes(40) + b"_FVH" + bytes(528 * 1024 - 44)
    text = read_state(volume)
    assert text.startswith(b"=0=")
    assert bz2.decompress(base64.b64decode(text[3:])) == volume
    assert read_state(text) == text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"\0" * 512, "is empty"),
        (b'{ value : "" }', "is empty"),
        (b"\x89VBox", "is neither oVirt's text nor a volume of edk2's variables"),
        (b'{ other : "QUJD" }', "is not base64"),
        (b"QUJ?", "is not base64"),
        (b"A", "is not base64"),
        (b"=0=QUJD", "is not bzip2"),
        (PACKED[: len(PACKED) // 8 * 4 + 3], "is cut off"),
        (b"A" * (MAX_STATE + 1), f"has {MAX_STATE + 1} bytes, more than"),
        (b"=0=" + base64.b64encode(bz2.compress(bytes(MAX_VARIABLES + 1))), "inflates to more than"),
    ],
)
def test_what_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidPackage, match=reason):
        read_state(data)
