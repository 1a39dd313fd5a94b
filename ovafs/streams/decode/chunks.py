"""Disk files in chunks: ``ovf:chunkSize``, DSP0243 clause 7.1.

Chunks of ``disk.vmdk`` are named ``disk.vmdk.000000000``, ``disk.vmdk.000000001`` and so on; a single one has the
suffix too (VMware). Every chunk but the last is exactly chunkSize bytes long. Compression comes before chunking: the
bytes of the chunks, one behind the other, are given to one decoder.
"""

from __future__ import annotations

import re

from ovafs.errors import InvalidPackage

_SUFFIX = re.compile(r"\.([0-9]{9})")


def chunk_number(name: str, href: str) -> int | None:
    """The number of the chunk ``name`` of the file ``href``; None if it is no chunk of it."""
    match = _SUFFIX.fullmatch(name, len(href)) if name.startswith(href) else None
    return int(match[1]) if match else None


class ChunkSequence:
    """Checks that the members of an archive are all the chunks of one file, in order."""

    def __init__(self, href: str, chunk_size: int, file_size: int | None = None) -> None:
        """``chunk_size`` is at least 1; ``file_size`` is that of all chunks together, if it is known."""
        self._href = href
        self._chunk_size = chunk_size
        self._file_size = file_size
        self._expected = 0
        self._received = 0
        self._last_seen = False

    def begin(self, name: str, size: int) -> None:
        """The next member is ``name`` with ``size`` bytes. Raises InvalidPackage if it is not the next chunk."""
        number = chunk_number(name, self._href)
        if number != self._expected:
            raise InvalidPackage(f"chunk {self._expected} of {self._href!r} is expected", member=name)
        if self._last_seen:
            raise InvalidPackage(f"a chunk before it is shorter than {self._chunk_size} bytes", member=name)
        if not 0 < size <= self._chunk_size:
            raise InvalidPackage(f"a chunk of {size} bytes, where chunkSize is {self._chunk_size}", member=name)
        self._expected += 1
        self._received += size
        self._last_seen = size < self._chunk_size or self._received == self._file_size

    def finish(self) -> None:
        """No more chunks come. Raises InvalidPackage if any is missing, as far as that can be known."""
        if not self._expected:
            raise InvalidPackage("no chunk of the file has come", member=self._href)
        if self._file_size not in {None, self._received}:
            raise InvalidPackage(f"chunks of {self._received} bytes for {self._file_size}", member=self._href)
