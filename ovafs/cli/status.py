"""``ovafs status``: what the mounts of this host are doing, by their own account."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import os
import re
import sys
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import click
import msgspec
from click.shell_completion import CompletionItem

from ovafs.cli.output import print_json
from ovafs.errors import SourceError
from ovafs.fuse.mounts import MountedSource, mounted_sources
from ovafs.units import format_duration, format_size
from ovafs.vfs.status import MountStatus, OpenMachine

if TYPE_CHECKING:
    from ovafs.vfs.drop.reporter import EndedUpload
    from ovafs.vfs.drop.status import AdaptationStatus, DropStatus, UploadStatus

_PATIENCE = 10.0
"""Seconds that a mount has to answer; one that works needs some milliseconds."""

_NOT_PLAIN = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class _Answer(NamedTuple):
    """What a mount said, as bytes of JSON; or why it said nothing."""

    mount: MountedSource
    document: bytes
    problem: str


def _complete_mount(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Mount points of ovafs, for ``shell_complete=``."""
    with contextlib.suppress(Exception):  # a shell that completes must not print what went wrong
        return [CompletionItem(one.mountpoint) for one in mounted_sources() if one.mountpoint.startswith(incomplete)]
    return []


@click.command()
@click.argument("what", metavar="[MOUNTPOINT|SOURCE]", required=False, shell_complete=_complete_mount)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(what: str | None, *, as_json: bool) -> None:
    """Say what the mount at MOUNTPOINT or those of SOURCE are doing; without an argument: all mounts of ovafs.

    Machines that are listed, broken and open; disks that QEMU reads for the mount; uploads that run, that wait to be
    continued and that have ended; the room that they take. A mount whose process has died is said to be dead; one that
    hangs is given ten seconds.

    With --json: an array of objects with mountpoint, source, problem ("" if it answers) and status, the document of
    MOUNTPOINT/.ovafs/status.json, which ovafs(1) describes; null if it does not answer.

    Exit codes: 0 every mount answers (or there is none at all), 1 one is dead or cannot be read, or there is no
    mount of what was asked for, 2 wrong usage.
    """
    mounts = [mount for mount in mounted_sources() if what is None or mount.is_named(what)]
    if what is not None and not mounts:
        raise SourceError(f"{what} is neither a mount point of ovafs nor mounted", "'ovafs status' shows all mounts")
    answers = _ask_all(mounts)
    if as_json:
        print_json([_json(answer) for answer in answers])
    elif answers:
        click.echo("\n".join(_text(answer) for answer in answers), nl=False)
    else:
        click.echo("no mounts")
    if any(answer.problem for answer in answers):
        sys.exit(1)


def _ask_all(mounts: list[MountedSource]) -> list[_Answer]:
    """What each says, in their order; one that hangs is not waited for: its thread ends with this process."""
    answers: dict[MountedSource, _Answer] = {}

    def ask(mount: MountedSource) -> None:
        answers[mount] = _ask(mount)

    threads = [threading.Thread(target=ask, args=(mount,), daemon=True) for mount in mounts]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + _PATIENCE
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    hangs = f"does not answer within {_PATIENCE:.0f} seconds: its process is busy, stopped, or waits for its storage"
    return [answers.get(mount) or _Answer(mount, b"", hangs) for mount in mounts]


def _ask(mount: MountedSource) -> _Answer:
    path = os.path.join(mount.mountpoint, ".ovafs", "status.json")
    try:
        with open(path, "rb") as file:
            document = file.read()
        msgspec.json.decode(document, type=MountStatus)
    except msgspec.MsgspecError as error:  # one mount must not hide the others
        return _Answer(mount, b"", f"{path}: not what this version of ovafs writes: {error}")
    except OSError as error:
        dead = f"dead: its process has ended; take it away with 'ovafs umount {mount.mountpoint}'"
        return _Answer(mount, b"", dead if error.errno == errno.ENOTCONN else f"{path}: {error.strerror}")
    return _Answer(mount, document, "")


def _json(answer: _Answer) -> dict[str, object]:
    document = msgspec.json.decode(answer.document) if answer.document else None
    names = {"mountpoint": answer.mount.mountpoint, "source": answer.mount.source}
    return {**names, "problem": answer.problem, "status": document}


def _text(answer: _Answer) -> str:
    head = f"{answer.mount.mountpoint} ({answer.mount.source})"
    if answer.problem:
        return _plain(f"{head}: {answer.problem}\n")
    known = msgspec.json.decode(answer.document, type=MountStatus)
    lines = [f"{head}: mounted {_time(known.since)}, process {known.pid}, ovafs {known.version}"]
    counts = known.machines
    lines.append(f"  machines: {counts.listed} listed, {counts.checked} looked at, {counts.broken} broken")
    lines += [f"  source cannot be read: {known.machines.problem}"] if known.machines.problem else []
    lines += [f"  broken: {one.kind} {one.name}: {one.reason}" for one in known.machines.reasons]
    lines += [f"  {_open_line(one)}" for one in known.open]
    lines += [f"  read by QEMU: {one.path}, process {one.pid}, readers: {one.readers}" for one in known.engines]
    if known.drop is None:
        lines.append("  no drop directory")
    else:
        lines += _drop_lines(known.drop, known.now)
    return "".join(f"{_plain(line)}\n" for line in lines)


def _open_line(one: OpenMachine) -> str:
    text = f"open: {one.kind} {one.name}, readers: {one.readers}"
    if one.backup is None:
        return text
    used = format_size(one.backup.scratch_used)
    text += f"; it runs, so a backup job holds it since {_time(one.backup.since)}, scratch {used}"
    text += ", begun with frozen file systems" if one.backup.frozen else ""
    return f"{text}; failed: {one.backup.failure}" if one.backup.failure else text


def _drop_lines(drop: DropStatus, now: float) -> list[str]:
    room = "an unknown size" if drop.allocated is None else format_size(drop.allocated)
    waiting = sum(one.waiting + one.spooled for one in drop.uploads)
    kept = format_duration(drop.keep_partial)
    lines = [
        f"  drop: {len(drop.uploads)} uploads; kept for {kept}; unfinished volumes take {room}",
        f"  spools: {format_size(waiting)} wait, at most {format_size(drop.spool_limit)} of one upload",
    ]
    lines += [f"  {_upload_line(one, now)}" for one in drop.uploads]
    lines += [f"  {_adaptation_line(one)}" for one in drop.adapting]
    return lines + [f"  {_ended_line(one)}" for one in drop.ended]


def _upload_line(one: UploadStatus, now: float) -> str:
    received = format_size(one.received)
    if one.expected:
        received += f" of {format_size(one.expected)} ({min(99, 100 * one.received // one.expected)} %)"
    rate = format_size(int(one.received / max(one.written - one.begun, 1.0)))
    idle = format_duration(now - one.written)
    text = f"{one.name}: {one.state}, {received}, {rate}/s, last write {idle} ago"
    if one.state in {"incomplete", "failed"}:
        text += f", kept until {_time(one.kept_until)}"
    return text + (f": {one.error}" if one.error else "")


def _adaptation_line(one: AdaptationStatus) -> str:
    text = f"{one.name}: {one.state} since {_time(one.since)}, becomes {', '.join(one.machines)}"
    said = one.error or one.step
    return f"{text}: {said}" if said else text


def _ended_line(one: EndedUpload) -> str:
    machines = ", ".join(f"{machine.kind} {machine.name}" for machine in one.machines)
    what = f" as {machines}" if machines else f": {one.error}"
    warnings = f" ({len(one.warnings)} warnings)" if one.warnings else ""
    return f"{one.name}: {one.result} {_time(one.ended)}{what}{warnings}"


def _time(seconds: float) -> str:
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC).astimezone():%Y-%m-%d %H:%M:%S}"


def _plain(line: str) -> str:
    """A line without control characters that a terminal would obey."""
    return _NOT_PLAIN.sub(lambda match: ascii(match[0])[1:-1], line.removesuffix("\n")) + "\n" * line.endswith("\n")
