"""``ovafs mount`` and ``ovafs umount``."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import TYPE_CHECKING

import click

from ovafs.cli.daemon import Daemon, keep_memory_small, notify_systemd
from ovafs.cli.logs import log_to_file_or_syslog, log_to_stderr
from ovafs.cli.path_argument import PathArgument
from ovafs.errors import OvafsError, SourceError
from ovafs.fuse import mount as fuse_mount
from ovafs.fuse.control_operations import ControlOperations
from ovafs.fuse.drop_operations import DropOperations
from ovafs.fuse.operations import Operations, Ownership
from ovafs.fuse.options import MountOptions, options_document, parse_options
from ovafs.inventory.inventory import BackupSettings
from ovafs.inventory.pool import Pool
from ovafs.inventory.source import is_uri, open_destination, open_inventory
from ovafs.storage.engine.engines import Engines
from ovafs.storage.map_cache import MapCache
from ovafs.storage.opener import AnyOpener
from ovafs.transfer.adapt.policy import check_adapt
from ovafs.transfer.ingest.choices import ImportChoices
from ovafs.transfer.ingest.signature import load_trust
from ovafs.transfer.packager import Packager
from ovafs.vfs.drop.entries import Status
from ovafs.vfs.drop.folder import DropFolder
from ovafs.vfs.handles import Handles
from ovafs.vfs.status import StatusWriter
from ovafs.vfs.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ovafs.inventory.destination import Destination
    from ovafs.inventory.inventory import Inventory

log = logging.getLogger(__name__)

EXIT_MOUNT_FAILED = 3


@click.command()
@click.argument("source", type=PathArgument(readable=False))
@click.argument("mountpoint", type=PathArgument())
@click.option("-o", "options", multiple=True, metavar="OPTION[,OPTION…]", help="Mount options, see ovafs(1).")
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground and log to stderr.")
def mount(source: str, mountpoint: str, options: tuple[str, ...], *, foreground: bool) -> None:
    """Show the machines of SOURCE as .ova files under MOUNTPOINT.

    Returns when the mount answers. Exit codes: 0 mounted (or, with -f, unmounted again), 2 wrong usage, 3 the mount
    could not be made; then the reason stands on stderr.
    """
    try:
        _mount(source, os.path.abspath(mountpoint), parse_options(options), foreground=foreground)
    except OvafsError as error:
        click.echo(f"ovafs: error: {error}", err=True)
        sys.exit(EXIT_MOUNT_FAILED)


@click.command()
@click.argument("mountpoint", type=PathArgument())
def umount(mountpoint: str) -> None:
    """Unmount MOUNTPOINT, also after its process died."""
    fuse_mount.unmount(mountpoint)


def _mount(source: str, mountpoint: str, options: MountOptions, *, foreground: bool) -> None:
    fuse_mount.check_mountpoint(mountpoint)
    fuse_mount.check_permissions(options)
    # What is wrong with SOURCE is said before anything else.
    with contextlib.closing(_inventory(source, options)) as inventory:
        with _destination(source, inventory, options) as destination:
            fuse_mount.check_hides_nothing(mountpoint, _needed_paths(inventory, destination, options))
        cache_dir = inventory.cache_dir
    if foreground:
        log_to_stderr(debug=options.debug)
        _serve(source, mountpoint, options, notify_systemd)
        return
    daemon = Daemon()
    if daemon.is_parent:
        daemon.wait_until_ready()
        return
    with daemon.reports_failure():
        log_to_file_or_syslog(options.log, cache_dir, debug=options.debug)
        _serve(source, mountpoint, options, daemon.ready)


_FOR_LIBVIRT = {
    "backup_age": "running machines",
    "freeze": "running machines",
    "scratch": "running machines",
    "scratch_reserve": "running machines",
    "adapt": "machines that are to run",
    "adapt_limit": "machines that are to run",
}


def _inventory(source: str, options: MountOptions) -> Inventory:
    """What is to be shown. Raises SourceError, also for options that would do nothing there."""
    usual = MountOptions()
    if not is_uri(source):
        for name, what in _FOR_LIBVIRT.items():
            if getattr(options, name) != getattr(usual, name):
                raise SourceError(f"{source}: the option {name!r} is for {what}, which libvirt has")
    backups = BackupSettings(options.scratch, options.scratch_reserve, options.freeze)
    return open_inventory(source, options.selection, backups)


def _needed_paths(inventory: Inventory, destination: Destination | None, options: MountOptions) -> Iterator[str]:
    """What the process of the mount opens again and again, beside the images (a hidden image is a broken machine)."""
    yield inventory.statvfs_path
    if isinstance(inventory, Pool):
        yield inventory.volumes_path
    if destination is not None:
        yield destination.volumes_path
    if inventory.cache_dir is not None:
        yield inventory.cache_dir
    if options.log is not None:
        yield options.log


def _serve(source: str, mountpoint: str, options: MountOptions, on_ready: Callable[[], None]) -> None:
    """Build everything and serve until the end."""
    keep_memory_small()
    with contextlib.ExitStack() as stack:
        inventory: Inventory = stack.enter_context(contextlib.closing(_inventory(source, options)))
        cache = MapCache(os.path.join(inventory.cache_dir, "maps.sqlite") if inventory.cache_dir else None)
        stack.callback(cache.close)
        engines = Engines()
        stack.callback(engines.close)
        engines.end_abandoned()
        packager = Packager(cache, inventory, options.pin, AnyOpener(engines))
        tree = Tree(options.selection.of(inventory), packager)
        handles = Handles(tree, packager, options.backup_age)
        stack.callback(handles.close)
        ownership = Ownership(options.uid, options.gid, options.mode)
        destination = stack.enter_context(_destination(source, inventory, options))
        drop = None if destination is None else _drop_folder(destination, options)
        name = source if is_uri(source) else os.path.abspath(source)
        where = name, inventory.source_id, mountpoint
        inventory.revision()  # libvirt's begins to watch, and ends what a process left that was killed
        status = StatusWriter(where, options_document(options), tree, handles, engines, drop).document
        operations: Operations
        if drop is None:
            operations = ControlOperations(tree, handles, ownership, status)
        else:
            stack.callback(drop.close)
            operations = DropOperations(tree, handles, ownership, status, drop)
        fuse_mount.run(operations, mountpoint, options, name, on_ready)


@contextlib.contextmanager
def _destination(source: str, inventory: Inventory, options: MountOptions) -> Iterator[Destination | None]:
    """What uploads go to, where something can take them. Raises SourceError if an option says that it must."""
    destination = None
    if "ro" not in options.kernel and options.drop_mode:
        try:
            destination = open_destination(source, inventory, options.pool)
        except SourceError as error:
            if options.pool is not None:
                raise
            log.info("the mount has no drop directory: %s", error)
    try:
        yield destination
    finally:
        if destination is not None:
            destination.close()


def _drop_folder(destination: Destination, options: MountOptions) -> DropFolder:
    check_adapt(options.adapt, destination)
    choices = ImportChoices(
        network=options.drop_network,
        on_clash=options.drop_clash,
        format=options.drop_format,
        adapt=options.adapt,
        spool_limit=options.spool_limit,
        trust=load_trust(options.drop_certificate, options.drop_ca_file),
    )
    status = Status(options.drop_mode, options.uid, options.gid)
    return DropFolder(destination, choices, status, options.spool_limit, options.keep_partial, options.adapt_limit)
