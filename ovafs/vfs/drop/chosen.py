"""The choices for uploads: files ``NAME.ova.toml`` in the drop directory, and which upload uses which of them.

The import of an upload begins with its first byte, and uses the choices that lie beside its final name then, as its
name tells that: ``web.ova.part`` and ``.web.ova.Ab12Cd`` become web.ova. An upload whose name does not tell it, or
that is renamed to another one, gets the choices of that name when it is imported under it: all but the formats, for
its volumes are written by then.

A file is used up by the import that used it. Until then it can be read and written; it goes with rm or with the mount.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import InvalidChoices
from ovafs.transfer.ingest.choices_file import parse_choices
from ovafs.vfs.drop import names
from ovafs.vfs.drop.entries import ChoicesFile, area_of

if TYPE_CHECKING:
    from ovafs.transfer.ingest.choices import ImportChoices
    from ovafs.vfs.drop.entries import DropFile


class _Found(NamedTuple):
    """The choices for a final name, and the file that they are from."""

    name: bytes | None
    choices: ImportChoices
    file: ChoicesFile | None = None
    text: bytes = b""


class UploadChoices:
    """The choices of one upload. A file is read in one step, so threads may call all of it."""

    def __init__(self, defaults: ImportChoices) -> None:
        self._defaults = defaults
        self._begun = self._used = _Found(None, defaults)

    def begin(self, upload: DropFile) -> ImportChoices:
        """What the import that begins now uses. Raises InvalidChoices."""
        self._begun = self._used = self._find(upload, names.final_inside(upload.name))
        return self._begun.choices

    def at_commit(self, upload: DropFile, final_name: bytes) -> ImportChoices | None:
        """What the import under ``final_name`` uses, if that is not what it began with. Raises InvalidChoices."""
        if final_name == self._begun.name:
            self._used = self._begun
            return None
        self._used = self._find(upload, final_name)
        return self._used.choices

    def used_up(self) -> ChoicesFile | None:
        """The file whose choices were used, unless it was written since."""
        file = self._used.file
        return file if file is not None and file.text is self._used.text else None

    def _find(self, upload: DropFile, name: bytes | None) -> _Found:
        file = None if name is None else area_of(upload.parent).children.get(name + names.CHOICES_SUFFIX)
        if not isinstance(file, ChoicesFile):
            return _Found(name, self._defaults)
        text = file.text
        return _Found(name, parse(file.name, text, self._defaults), file, text)


def parse(name: bytes, text: bytes, defaults: ImportChoices) -> ImportChoices:
    """What the file ``name``, which holds ``text``, chooses. Raises InvalidChoices."""
    try:
        return parse_choices(text, defaults)
    except InvalidChoices as error:
        hint = f"{error.hint}; " if error.hint else ""
        raise InvalidChoices(
            f"drop/{names.show(name)}: {error.summary}", f"{hint}correct the file, or remove it"
        ) from error
