"""The text that appears beside an upload: what happened to it, where, and what to do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ovafs.errors import IncompletePackage, InvalidPackage
from ovafs.vfs.drop.names import show

if TYPE_CHECKING:
    from ovafs.errors import OvafsError
    from ovafs.transfer.ingest.package import Imported


def failure_report(name: bytes, received: int, error: OvafsError) -> bytes:
    """Of an upload that failed, or that is not complete."""
    if isinstance(error, IncompletePackage):
        state = "The upload is not complete. What arrived is kept until the file is removed or the mount ends."
        advice = f"go on writing at byte {received} (curl -C -, dd seek= conv=notrunc), or copy it again"
    else:
        state = "The upload failed. Nothing was registered, and nothing is left of it in the pool."
        advice = error.hint or "see the log of ovafs"
    lines = [f"{show(name)}: NOT IMPORTED", "", state, "", f"reason:   {error.summary}"]
    if isinstance(error, InvalidPackage):
        lines += [f"member:   {error.member}"] if error.member else []
        lines += [f"offset:   {error.offset}"] if error.offset is not None else []
    return _text([*lines, f"received: {received} bytes", f"to do:    {advice}"])


def success_report(name: bytes, imported: Imported) -> bytes:
    """Of an import that could not keep everything as it was."""
    machines = [f"{machine.kind} {machine.name} ({machine.uuid})" for machine in imported.machines]
    warnings = [f"  - {warning}" for warning in imported.warnings]
    return _text([f"{show(name)}: imported as {', '.join(machines)}", "", "What is not as in the package:", *warnings])


def _text(lines: list[str]) -> bytes:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return "\n".join([*lines, "", stamp, ""]).encode("utf-8", "backslashreplace")
