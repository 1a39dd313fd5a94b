"""Independent judges: what other programs say about the bytes that ovafs makes. Nothing here imports ovafs."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support.processes import run

if TYPE_CHECKING:
    from pathlib import Path


class Member(NamedTuple):
    """One member of a tar archive; ``offset`` is where its data begins in the archive."""

    name: str
    size: int
    offset: int


def tar_members(ova: Path) -> list[Member]:
    """What GNU tar finds in an archive, in order. A warning of tar (trailing rubbish, no end) fails the test."""
    result = run("tar", "--list", "--verbose", "--block-number", "--quoting-style=literal", "--file", ova)
    assert result.stderr == "", result.stderr
    members = []
    for line in result.stdout.splitlines():
        block, _, rest = line.partition(": ")
        if rest.startswith("**"):  # "** Block of NULs **", the end of the archive
            continue
        _mode, _owner, size, _date, _time, name = rest.split(None, 5)
        members.append(Member(name, int(size), (int(block.removeprefix("block ")) + 1) * 512))
    return members


def bsdtar_names(ova: Path) -> list[str]:
    """The names that libarchive finds in an archive, in order."""
    result = run("bsdtar", "-tf", ova)
    assert result.stderr == "", result.stderr
    return result.stdout.splitlines()


def extract(ova: Path, folder: Path, *, tool: str = "tar") -> list[Path]:
    """Unpack a whole archive with ``tool`` (tar, bsdtar); returns the files in the archive's order."""
    folder.mkdir(parents=True, exist_ok=True)
    run(tool, "-x", "-f", ova, "-C", folder)
    return [folder / member.name for member in tar_members(ova)]


def in_place(ova: Path, member: Member, image_format: str = "qcow2") -> str:
    """A name by which qemu's tools open a member inside the archive, without unpacking it."""
    window = {"driver": "raw", "offset": member.offset, "size": member.size}
    window["file"] = {"driver": "file", "filename": str(ova), "locking": "off"}
    return "json:" + json.dumps({"driver": image_format, "file": window})


def image_info(image: str | Path, image_format: str = "qcow2") -> dict[str, Any]:
    """``qemu-img info``. Here and below, ``image`` may be a name from :func:`in_place`."""
    return dict(json.loads(run("qemu-img", "info", "-U", "-f", image_format, "--output=json", image).stdout))


def image_map(image: str | Path, image_format: str = "qcow2") -> list[dict[str, Any]]:
    """``qemu-img map`` of the whole chain: guest ranges with their depth, zero, data and offset."""
    return list(json.loads(run("qemu-img", "map", "-U", "-f", image_format, "--output=json", image).stdout))


def check_qcow2(image: str | Path) -> None:
    """``qemu-img check``: the test fails if there is a corruption or a leaked cluster."""
    report = json.loads(run("qemu-img", "check", "-U", "-f", "qcow2", "--output=json", image).stdout)
    assert not any(report.get(key) for key in ("corruptions", "leaks", "check-errors")), report


def assert_same_disk(left: str | Path, right: str | Path, left_format: str, right_format: str) -> None:
    """``qemu-img compare``: a guest sees the same size and the same bytes in both images.

    Not with ``-s``, which also demands the same allocation; but without it a longer image that ends in zeros
    passes, so the sizes are compared first.
    """
    sizes = [image_info(left, left_format)["virtual-size"], image_info(right, right_format)["virtual-size"]]
    assert sizes[0] == sizes[1], sizes
    run("qemu-img", "compare", "-U", "-f", left_format, "-F", right_format, left, right, timeout=600)


def sha256(path: Path) -> str:
    """Digest of a whole file, read in order."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
