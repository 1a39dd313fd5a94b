"""Names in the drop directory: which one stands for a machine, and which ones tools use on the way to it.

| name | meaning |
|---|---|
| ``*.ova``, in any case, no leading dot, not in a dot-directory | final: the import happens under it |
| ``.*``, ``*.ova.*``, ``*.part``, ``*.tmp`` and others | temporary: the import happens when it is renamed |
| directory ``.*`` | temporary (rsync --partial-dir, --delay-updates) |
| ``*.ova.report.txt`` | written by ovafs alone |
| anything else | refused: nothing would ever come of it |
"""

from __future__ import annotations

import re

from ovafs.errors import NameRefused

REPORT_SUFFIX = b".report.txt"

_TEMPORARY_SUFFIXES = (b".part", b".partial", b".tmp", b".temp", b".filepart", b".crdownload")
_FINAL_INSIDE = re.compile(rb"\.*(.+\.ova)(?:\..*)?", re.IGNORECASE | re.DOTALL)
_EXPECTED = "packages are expected here: NAME.ova, or a temporary name that is renamed to it"


def is_final(name: bytes) -> bool:
    """Whether a name in the drop directory itself stands for a machine."""
    return name.lower().endswith(b".ova") and not name.startswith(b".")


def check_file_name(name: bytes) -> None:
    """Raise NameRefused for a name that can never become an import's."""
    lower = name.lower()
    if lower.endswith(REPORT_SUFFIX):
        raise NameRefused(f"drop/{show(name)}: reports are written by ovafs alone", _EXPECTED)
    is_temporary = name.startswith(b".") or b".ova." in lower or lower.endswith(_TEMPORARY_SUFFIXES)
    if lower.endswith(b".ova.toml") or not (is_temporary or is_final(name)):
        raise NameRefused(f"drop/{show(name)}: cannot become a machine", _EXPECTED)


def check_directory_name(name: bytes) -> None:
    """Raise NameRefused for a directory that no tool needs on the way."""
    if not name.startswith(b"."):
        raise NameRefused(f"drop/{show(name)}/: cannot become a machine", f"{_EXPECTED}, not a directory")


def report_name(name: bytes) -> bytes:
    """The name of the report about a file: beside the final name that a temporary one is meant for."""
    inside = _FINAL_INSIDE.fullmatch(name)
    return (inside[1] if inside else name) + REPORT_SUFFIX


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
