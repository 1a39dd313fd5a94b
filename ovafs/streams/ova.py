"""The package: an OVA laid out as tar members around streams that are planned as well.

| member | data |
|---|---|
| vm.ovf or template.ovf | the descriptor, white space inside so that the next disk's data is aligned |
| tpm.dat, nvram.dat | state of the machine, where it has any |
| each disk, in the order given | the disk's image file; a zero tail so that the next disk's data is aligned |
| (two zero blocks) | end of the archive, and of the file |

Every disk's data begins at a multiple of 4096, so that loop devices, O_DIRECT readers and reflinks work on the
finished file. oVirt's own ``pad`` members, made for the same purpose, stop its engines before 4.5; nothing but
the descriptor, state and the disks is a member here. Sizes of disk members are multiples of 512, because oVirt's
importer adds them up without rounding (those of ``.dat`` files it rounds). The image formats allow bytes behind their
end.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ovafs.formats.tar import BLOCK, END_OF_ARCHIVE, member_header
from ovafs.streams.composite import Composite
from ovafs.streams.segment import Zero
from ovafs.units import align_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovafs.streams.composite import StoredContent

ALIGNMENT = 4096
"""Disk data begins at multiples of this many bytes."""

_CLOSING_TAG = re.compile(rb"</[^\s<>]+\s*>\s*")


class Member(NamedTuple):
    """A member of the package; ``data_offset`` and ``size`` (in bytes, as in its header) include a zero tail."""

    name: str
    header_offset: int
    data_offset: int
    size: int


def member_sizes(file_sizes: Sequence[int]) -> list[int]:
    """Sizes of the disk members that hold image files of ``file_sizes`` bytes.

    A member that another follows ends one header block before a multiple of 4096; the last one is a multiple of 512.
    """
    if not file_sizes:
        return []
    *others, last = file_sizes
    return [align_up(size + BLOCK, ALIGNMENT) - BLOCK for size in others] + [align_up(last, BLOCK)]


def pad_descriptor(ovf: bytes, between: int = 0) -> bytes:
    """``ovf`` with spaces before the root's closing tag, so that a disk's data behind it is aligned.

    ``between`` are the bytes of the members in between, headers and padding included: a multiple of 512.
    What is aligned already stays as it is. Raises ValueError for text that does not end with a closing tag.
    """
    end = ovf.rfind(b"</")
    if end < 0 or not _CLOSING_TAG.fullmatch(ovf, end):
        raise ValueError("the descriptor does not end with the closing tag of its root element")
    around = BLOCK + len(ovf) + between + BLOCK
    return ovf[:end] + b" " * (align_up(around, ALIGNMENT) - around) + ovf[end:]


class Package(Composite):
    """An OVA of ``descriptor``, ``texts`` and ``disks`` (names of the members, their content), as oVirt packs it.

    With disks the descriptor goes through :func:`pad_descriptor`. ``mtime``, in whole seconds since the epoch,
    stands in every header. ``sizes`` are those of the disk files where they shall be larger than their content; zeros
    follow. Raises ValueError for names that are equal or that tar headers cannot carry, and for sizes too small.

    ``size`` is that of the .ova file, ``stored`` what a sparse copy of it must store, both in bytes.
    """

    __slots__ = ("members",)

    def __init__(
        self,
        descriptor_name: str,
        descriptor: bytes,
        disks: Sequence[tuple[str, StoredContent]],
        mtime: int,
        texts: Sequence[tuple[str, bytes]] = (),
        sizes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.members: list[Member] = []
        if disks:
            descriptor = pad_descriptor(descriptor, sum(BLOCK + align_up(len(text), BLOCK) for _, text in texts))
        for name, text in (descriptor_name, descriptor), *texts:
            self._append_member(name, text, len(text), mtime)
        sizes = member_sizes([content.size for _, content in disks] if sizes is None else sizes)
        for (name, content), size in zip(disks, sizes, strict=True):
            if size < content.size:
                raise ValueError(f"{content.size} bytes do not fit into member {name} of {size}")
            member = self._append_member(name, content, size, mtime)
            if member.data_offset % ALIGNMENT or size % BLOCK:
                raise AssertionError(f"member {name}: {size} bytes at {member.data_offset} are not aligned")
        self.append(END_OF_ARCHIVE, "end of archive", alignment=BLOCK)

    def _append_member(self, name: str, content: bytes | StoredContent, size: int, mtime: int) -> Member:
        """Header, content, and zeros up to ``size``."""
        if any(name == member.name for member in self.members):
            raise ValueError(f"two members of the package would have the name {name!r}")
        header_offset = self.append(member_header(name, size, mtime), f"header of {name}", alignment=BLOCK)
        data_offset = self.append(content, f"member {name}")
        self.append(Zero(data_offset + size - self.size), f"zero tail of {name}")
        member = Member(name, header_offset, data_offset, size)
        self.members.append(member)
        return member
