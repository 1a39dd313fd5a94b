"""The text that appears beside an upload: what happened to it, where, and what to do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ovafs.errors import IncompletePackage, InvalidPackage
from ovafs.printable import printable
from ovafs.units import format_size
from ovafs.vfs.drop.names import show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovafs.errors import OvafsError
    from ovafs.model import Machine
    from ovafs.transfer.ingest.package import Imported


def failure_report(name: bytes, received: int, error: OvafsError, kept_until: float) -> bytes:
    """Of an upload that failed, or that is not complete; ``kept_until`` by time.time()."""
    if isinstance(error, IncompletePackage):
        until = _time(kept_until)
        state = f"The upload is not complete. What arrived is kept until {until}, unless the mount ends before that."
        advice = f"go on writing at byte {received} (curl -C -, dd seek= conv=notrunc), or copy it again"
    else:
        state = "The upload failed. Nothing was registered, and nothing is left of it in the pool."
        advice = error.hint or "see the log of ovafs"
    lines = [f"{show(name)}: NOT IMPORTED", "", state, "", f"reason:   {error.summary}"]
    if isinstance(error, InvalidPackage):
        lines += [f"member:   {error.member}"] if error.member else []
        lines += [f"offset:   {error.offset}"] if error.offset is not None else []
    return _text([*lines, f"received: {received} bytes", f"to do:    {advice}"])


def choices_report(name: bytes, error: OvafsError) -> bytes:
    """Of a file with choices that cannot be used."""
    state = f"The choices cannot be used. Until then no upload of {show(name.removesuffix(b'.toml'))} begins."
    lines = [f"{show(name)}: NOT ACCEPTED", "", state, "", f"reason:   {error.summary}"]
    return _text([*lines, f"to do:    {error.hint}"])


def given_up_report(name: bytes, received: int) -> bytes:
    """Of an upload that nobody continued."""
    state = "Nothing was written for too long. The upload was removed, and nothing is left of it in the pool."
    lines = [f"{show(name)}: NOT IMPORTED", "", state, "", f"received: {received} bytes"]
    return _text([*lines, "to do:    copy the package again; the mount option keep_partial sets how long it may take"])


def check_report(name: bytes, imported: Imported) -> bytes:
    """Of a package that was only checked, and is good."""
    machines = [f"{machine.kind} {machine.name}" for machine in imported.machines]
    state = "Everything was verified, nothing was stored."
    lines = [f"{show(name)}: would be imported as {', '.join(machines)}", "", state]
    for machine in imported.machines:
        size = format_size(machine.memory)
        lines += ["", f"{machine.name}: {size} of memory, {machine.cpu.total} processors, {machine.firmware}"]
        lines += [f"  disk {disk.alias}: {disk.volume.format}, {disk.interface}" for disk in machine.disks]
        lines += [f"  adapter {nic.name}: {nic.network or 'not connected'}, {nic.model}" for nic in machine.nics]
    warnings = [f"  - {warning}" for warning in imported.warnings]
    return _text([*lines, "", "What would not be as in the package:", *(warnings or ["  nothing"])])


def adapting_report(name: bytes, machines: Sequence[Machine]) -> bytes:
    """Of an upload whose machines are there once their guests are adapted."""
    state = "Everything was verified and stored. 'ovafs status' shows how far it is; this report tells its end, too."
    names = [f"{machine.kind} {machine.name}" for machine in machines]
    return _text([f"{show(name)}: adapting, will be imported as {', '.join(names)}", "", state])


def adaptation_failure_report(name: bytes, error: OvafsError) -> bytes:
    """Of an upload whose machines are not there, since a guest could not be adapted."""
    state = "What was uploaded is kept, and its machine is not registered: its guest could not be adapted."
    again = "mount again to try once more, with adapt=never to have the machine as it came"
    advice = f"{again}; remove {show(name)} to give it up"
    lines = [f"{show(name)}: NOT REGISTERED", "", state, "", f"reason:   {error.summary}"]
    return _text([*lines, *([f"hint:     {error.hint}"] if error.hint else []), f"to do:    {advice}"])


def success_report(name: bytes, imported: Imported, output: str = "") -> bytes:
    """Of an import that could not keep everything as it was; ``output`` is what the adaptation of its guest said."""
    machines = [f"{machine.kind} {machine.name} ({machine.uuid})" for machine in imported.machines]
    lines = [f"{show(name)}: imported as {', '.join(machines)}", "", "What is not as in the package:"]
    lines += [f"  - {warning}" for warning in imported.warnings]
    if output:
        lines += ["", "What virt-v2v-in-place said:", *(f"  {line}" for line in output.splitlines())]
    return _text(lines)


def _text(lines: list[str]) -> bytes:
    return "\n".join([*map(printable, lines), "", _time(time.time()), ""]).encode()


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))
