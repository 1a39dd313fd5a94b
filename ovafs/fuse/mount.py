"""A mount from its beginning to its end: checks, the kernel session, signals, unmounting."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pathlib
import signal
import subprocess
from typing import TYPE_CHECKING

import pyfuse3
import trio

from ovafs.errors import MountFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ovafs.fuse.operations import Operations
    from ovafs.fuse.options import MountOptions

log = logging.getLogger(__name__)


def check_mountpoint(mountpoint: str) -> None:
    """Raise MountFailed unless ``mountpoint`` is a directory that a mount can be made on."""
    try:
        if not os.path.isdir(mountpoint) and os.stat(mountpoint):
            raise MountFailed(f"{mountpoint} is not a directory")
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise MountFailed(
                f"{mountpoint}: an earlier mount died here and still covers the directory",
                f"take it away with 'ovafs umount {mountpoint}'",
            ) from None
        raise MountFailed(f"{mountpoint}: {error.strerror}", "create the directory first") from None
    if os.path.ismount(mountpoint):
        raise MountFailed(f"{mountpoint} is a mount point already", f"unmount it with 'ovafs umount {mountpoint}'")


def check_hides_nothing(mountpoint: str, needed: Iterable[str]) -> None:
    """Raise MountFailed if a mount on ``mountpoint`` would cover one of the paths that the mount itself needs.

    A process that opens such a path asks itself, and waits for its own answer: for ever, and it cannot be killed.
    """
    covered = os.path.join(os.path.realpath(mountpoint), "")
    for path in needed:
        if os.path.join(os.path.realpath(path), "").startswith(covered):
            raise MountFailed(
                f"a mount on {mountpoint} would hide {path}, which it needs itself", "mount on another directory"
            )


def check_permissions(options: MountOptions) -> None:
    """Raise MountFailed when this user cannot make such a mount; libfuse would say it in fewer words."""
    if not os.path.exists("/dev/fuse"):
        raise MountFailed("/dev/fuse does not exist", "load the kernel module: 'modprobe fuse'")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise MountFailed("/dev/fuse cannot be opened by this user", "udev makes it for all: 'chmod 666 /dev/fuse'")
    if "allow_other" in options.kernel and os.getuid() != 0:
        with contextlib.suppress(OSError):
            lines = pathlib.Path("/etc/fuse.conf").read_text().split("\n")
            if "user_allow_other" in (line.strip() for line in lines):
                return
        raise MountFailed("only root may use allow_other here", "add the line 'user_allow_other' to /etc/fuse.conf")


def run(
    operations: Operations, mountpoint: str, options: MountOptions, source: str, on_ready: Callable[[], None]
) -> None:
    """Mount, call ``on_ready`` once the mount answers, and serve until it is unmounted or a signal asks to end.

    SIGTERM and SIGINT unmount. After a failure the mount point stays, dead: an empty directory in its place would
    make a mirroring tool delete its copies.
    """
    fuse_options = {*pyfuse3.default_options, *options.kernel, f"fsname={_escape(source)}", "subtype=ovafs"}
    try:
        pyfuse3.init(operations, mountpoint, fuse_options)
    except RuntimeError as error:
        raise MountFailed(f"{mountpoint}: {error}", "see the messages of libfuse above") from None
    is_clean = False
    try:
        trio.run(_serve, operations, mountpoint, options, on_ready)
        is_clean = True
    finally:
        pyfuse3.close(unmount=is_clean)


async def _serve(operations: Operations, mountpoint: str, options: MountOptions, on_ready: Callable[[], None]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_unmount_on_signal)
        nursery.start_soon(_announce, mountpoint, options, on_ready)
        nursery.start_soon(operations.tend)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


async def _unmount_on_signal() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("%s: unmounting", signal.Signals(number).name)
            pyfuse3.terminate()


async def _announce(mountpoint: str, options: MountOptions, on_ready: Callable[[], None]) -> None:
    """Wait for an answer through the kernel: only then is the mount of use to anybody."""
    status = await trio.to_thread.run_sync(os.stat, mountpoint)
    _set_read_ahead(status.st_dev, options.read_ahead)
    log.info("mounted on %s", mountpoint)
    on_ready()


def _set_read_ahead(device: int, size: int) -> None:
    """Let the kernel read ahead further than its 128 KiB: measured two to three times the rate of one reader."""
    control = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
    try:
        pathlib.Path(control).write_text(str(size // 1024))
    except OSError as error:
        log.debug("read-ahead stays at the kernel's default: %s", error)


def _escape(source: str) -> str:
    """A source as libfuse's option parser takes it; in ASCII, because pyfuse3 takes nothing else."""
    name = source.encode("ascii", "backslashreplace").decode()
    return name.replace("\\", "\\\\").replace(",", "\\,")


def unmount(mountpoint: str) -> None:
    """Unmount what ``ovafs mount`` mounted, also when its process has died.

    Raises MountFailed with the reason of umount or fusermount3 (busy, not mounted, not permitted).
    """
    command = ["umount", mountpoint] if os.getuid() == 0 else ["fusermount3", "-u", mountpoint]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip() or f"{command[0]} failed with exit code {done.returncode}"
        hint = "end the programs that use it ('fuser -vm' names them)" if "busy" in reason else ""
        raise MountFailed(reason, hint)
