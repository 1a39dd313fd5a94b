"""Names in the drop directory: which one stands for a machine, and which ones tools use on the way to it.

| name | meaning |
|---|---|
| ``*.ova``, in any case, no leading dot, not in a dot-directory | final: the import happens under it |
| ``.*``, ``*.ova.*``, ``*.part``, ``*.tmp`` and others | temporary: the import happens when it is renamed |
| directory ``.*`` | temporary (rsync --partial-dir, --delay-updates) |
| ``*.ova.toml`` | choices for the upload *.ova; with a dot before, or ``.*`` or ``~*`` behind, on its way to it |
| ``*.ova.report.txt`` | written by ovafs alone |
| anything else | refused: nothing would ever come of it |
"""

from __future__ import annotations

import re

from ovafs.errors import NameRefused

REPORT_SUFFIX = b".report.txt"

_TEMPORARY_SUFFIXES = (b".part", b".partial", b".tmp", b".temp", b".filepart", b".crdownload")
CHOICES_SUFFIX = b".toml"

_FINAL_INSIDE = re.compile(rb"\.*(?:syncthing\.)?(.+\.ova)(?:\..*)?", re.IGNORECASE | re.DOTALL)
_CHOICES = re.compile(rb"\.*.+\.(?i:ova)\.toml(?:[.~].*)?", re.DOTALL)
_EXPECTED = "packages are expected here: NAME.ova, or a temporary name that is renamed to it; or NAME.ova.toml"


def is_final(name: bytes) -> bool:
    """Whether a name in the drop directory itself stands for a machine."""
    return name.lower().endswith(b".ova") and not name.startswith(b".")


def is_choices(name: bytes) -> bool:
    """Whether a name is for choices, or on the way to one that is."""
    return _CHOICES.fullmatch(name) is not None and not name.endswith(REPORT_SUFFIX)


def is_final_choices(name: bytes) -> bool:
    """Whether the choices in a file of this name count."""
    return name.endswith(CHOICES_SUFFIX) and is_final(name.removesuffix(CHOICES_SUFFIX))


def check_file_name(name: bytes) -> None:
    """Raise NameRefused for a name that can never become an import's."""
    lower = name.lower()
    if lower.endswith(REPORT_SUFFIX):
        raise NameRefused(f"drop/{show(name)}: reports are written by ovafs alone", _EXPECTED)
    is_temporary = name.startswith(b".") or b".ova." in lower or lower.endswith(_TEMPORARY_SUFFIXES)
    if not is_choices(name) and lower.endswith(b".ova.toml"):
        raise NameRefused(f"drop/{show(name)}: cannot hold choices", "write .toml in small letters")
    if not (is_temporary or is_final(name)):
        raise NameRefused(f"drop/{show(name)}: cannot become a machine", _EXPECTED)


def check_directory_name(name: bytes) -> None:
    """Raise NameRefused for a directory that no tool needs on the way."""
    if not name.startswith(b"."):
        raise NameRefused(f"drop/{show(name)}/: cannot become a machine", f"{_EXPECTED}, not a directory")


def final_inside(name: bytes) -> bytes | None:
    """The final name that a file is going to have, if its name tells that."""
    inside = _FINAL_INSIDE.fullmatch(name)
    return inside[1] if inside else None


def report_name(name: bytes) -> bytes:
    """The name of the report about a file: beside the final name that a temporary one is meant for."""
    return (final_inside(name) or name) + REPORT_SUFFIX


def machine_name(name: bytes) -> str:
    """The name for a machine whose package does not give it one."""
    return show(report_name(name)[: -len(REPORT_SUFFIX)]).rpartition(".")[0] or "imported"


def show(name: bytes) -> str:
    """A file name as it can be logged."""
    return (
        name.decode("utf-8", "backslashreplace").encode("unicode_escape").decode()
        if not _is_plain(name)
        else (name.decode())
    )


def _is_plain(name: bytes) -> bool:
    try:
        return name.decode().isprintable()
    except UnicodeDecodeError:
        return False
