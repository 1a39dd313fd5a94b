"""State of firmware and TPM on its way from a package: small files of text, which the descriptor names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovafs.errors import InvalidPackage
from ovafs.formats.ovf.ovirt_state import MAX_STATE, read_state

if TYPE_CHECKING:
    from ovafs.formats.ovf.read_model import Descriptor

_MAX_TOTAL = 4 * MAX_STATE
"""Bytes of all of them: they stay in memory until the commit."""


class IncomingStates:
    """The state files of a package.

    One that cannot be kept does not stop the import: ``warnings`` say that it is left out.
    """

    def __init__(self) -> None:
        self.texts: dict[str, bytes] = {}
        self.warnings: list[str] = []
        self._names: set[str] = set()
        self._room = _MAX_TOTAL

    def expect(self, descriptor: Descriptor) -> None:
        """These are the files that the descriptor names."""
        both = (file for system in descriptor.systems for file in (system.tpm, system.nvram))
        for file in both:
            if file is not None and (file.gzip or file.chunk_size):
                self._leave_out(file.href, "is compressed or in chunks")
            elif file is not None:
                self._names.add(file.href)

    def expects(self, name: str) -> bool:
        """Whether the member of this name is one of them."""
        return name in self._names

    def takes(self, name: str, size: int) -> bool:
        """Whether the member of this name and size, in bytes, is one of them and can be kept in memory."""
        if name not in self._names:
            return False
        limit = min(MAX_STATE, self._room)
        if size > limit:
            self._names.remove(name)
            self._leave_out(name, f"has {size} bytes, more than {limit}")
            return False
        self._room -= size
        return True

    def take(self, name: str, data: bytes) -> None:
        """The whole content of such a file."""
        try:
            self.texts[name] = read_state(data)
        except InvalidPackage as error:
            self._leave_out(name, error.reason)

    def _leave_out(self, name: str, reason: str) -> None:
        self.warnings.append(f"{name}: {reason}; this state of the machine is left out")
