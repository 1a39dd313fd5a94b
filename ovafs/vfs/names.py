"""The names of the .ova files: safe in every file system and tool that meets them, unique, and steady.

==========================================  ==================================================================
in a machine's name                         in the file's name
==========================================  ==================================================================
other normal forms of Unicode               NFC, so that what a person types is what is found
slash, control characters, lone surrogates  ``_``
``=``, a colon after a colon                ``_``: oVirt splits the listing of a folder of OVAs at ``::`` and ``=``,
                                            and one such name makes every machine of the folder unreadable to it
a dot in front                              ``_``: not hidden, never ``.`` or ``..``, never in the way of ``.ovafs``
blanks at either end                        left out
nothing at all                              ``unnamed``
more than 255 bytes with the suffix         cut between two characters
==========================================  ==================================================================

Names that are equal, or differ in case alone, get ``~`` and the first 8 digits of the machine's UUID: all of them,
so that none depends on the order of the catalog, and none changes for the sake of a machine whose name is different.
Case alone counts as equal because Samba, macOS and Windows clients would otherwise see one file of the two.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NAME_MAX = 255

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f/=\ud800-\udfff]|(?<=:):|^\\.")

# How many digits of the UUID stand behind a name: none at first, all in the end.
_DIGITS = (0, 8, 16, 32)


def file_names(machines: Iterable[tuple[str, str]], suffix: str = ".ova") -> dict[bytes, str]:
    """File names for ``machines``, given as (uuid, name): a dictionary from file name (UTF-8) to uuid.

    The result depends on the set of the machines, not on their order. The UUIDs must be distinct; raises ValueError
    for one that is none.
    """
    safe = {uuid: _safe(name) for uuid, name in machines}
    names = {uuid: _fit(name, suffix) for uuid, name in safe.items()}
    level = dict.fromkeys(safe, 0)
    while clashing := _clashing(names):
        raisable = [uuid for uuid in clashing if level[uuid] + 1 < len(_DIGITS)]
        if not raisable:
            raise ValueError(f"machines with the same UUID: {sorted(clashing)}")
        for uuid in raisable:
            level[uuid] += 1
            names[uuid] = _fit(safe[uuid], f"~{UUID(uuid).hex[: _DIGITS[level[uuid]]]}{suffix}")
    return {name.encode(): uuid for uuid, name in names.items()}


def _clashing(names: Mapping[str, str]) -> list[str]:
    """The machines whose names some client takes for the name of another one."""
    keys = {uuid: unicodedata.normalize("NFC", name.casefold()) for uuid, name in names.items()}
    counts = Counter(keys.values())
    return [uuid for uuid, key in keys.items() if counts[key] > 1]


def _safe(name: str) -> str:
    """The name without anything that a file name must not hold; not cut, never empty."""
    if name.isascii() and name.isalnum():
        return name
    return _UNSAFE.sub("_", unicodedata.normalize("NFC", name).strip()) or "unnamed"


def _fit(name: str, ending: str) -> str:
    """``name`` and ``ending`` together, the name cut so that both are at most NAME_MAX bytes."""
    room = NAME_MAX - len(ending.encode())
    return name.encode()[:room].decode(errors="ignore").rstrip() + ending
