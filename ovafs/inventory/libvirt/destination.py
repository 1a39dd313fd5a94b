"""Imports into libvirt: volumes in a storage pool's directory, and domains that are defined at the end.

    STATE/imports.sqlite     notes of volumes, receipts of uploads: what a pool has in its catalog
    STATE/descriptors/UUID   the descriptor of a machine that was imported, as it came
    POOL/UUID.fd             variables of its firmware that came along, noted like a volume

A volume is a file of the storage pool that libvirt learns of once it is complete (refresh): nothing of libvirt's
creates a volume that is still to be written without making it part of the pool at once.

The order that survives a crash: notes, volumes, then all domains, then notes away and the receipt kept, in one
transaction. A crash behind the definition leaves domains whose writer got no answer; their volumes are not removed,
for what libvirt names anywhere (snapshots, too) is never taken for a leftover.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from ovafs.errors import SourceError
from ovafs.formats.domain.host import Host, read_guest, read_host
from ovafs.formats.domain.write import FirmwareFiles, write_domain
from ovafs.formats.ovf.ovirt_state import read_variables
from ovafs.inventory.destination import Fitted, Taken
from ovafs.inventory.journal import Journal, create_journal
from ovafs.inventory.libvirt.connection import DomainText
from ovafs.inventory.libvirt.descriptors import forget_descriptor, keep_descriptor, retain_descriptors
from ovafs.inventory.libvirt.firmware import firmware_builds, new_variables
from ovafs.inventory.libvirt.fit import firmware_for, fit
from ovafs.inventory.pending import reserve
from ovafs.model import NATIVE_FORMATS, MachineKind, Volume

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ovafs.inventory.attachments import Attachments
    from ovafs.inventory.libvirt.connection import Connection, StoragePool
    from ovafs.inventory.receipts import Receipt
    from ovafs.model import Machine

log = logging.getLogger(__name__)

DEFAULT_POOL = "default"
"""The storage pool that virt-install and virt-manager make."""

# Storage pools whose volumes are files in a directory.
_DIRECTORIES = frozenset({"dir", "fs", "netfs"})

_MAC = re.compile(r"<mac address=['\"]([0-9a-fA-F:]{17})['\"]")


class LibvirtDestination(Journal):
    """Takes machines in: its journal keeps notes and receipts, libvirt the machines."""

    def __init__(self, connection: Connection, state: str | None, pool: str) -> None:
        """``state`` is the source's directory, ``pool`` the name of a storage pool. Raises SourceError."""
        self._connection = connection
        self._pool = _storage_pool(connection, pool)
        if state is None:
            raise SourceError(f"{connection.uri}: there is no directory for the journal of imports")
        self._state = state
        super().__init__(_journal(state))

    @property
    def runs_guests(self) -> bool:
        """QEMU runs them; libvirt's other drivers have nothing that guests could be adapted to."""
        return self._connection.canonical_uri.startswith("qemu")

    @property
    def volumes_path(self) -> str:
        """The directory of the storage pool."""
        return self._pool.path

    @functools.cached_property
    def host(self) -> Host:
        """What new domains can have; asked for once. Raises SourceError."""
        connection = self._connection
        guest = read_guest(connection.capabilities())
        machine = "q35" if "q35" in guest.machines else None
        text = connection.domain_capabilities(guest.domain_type, guest.arch, machine)
        networks, bridges = connection.network_names(), _bridges()
        if text is None:
            return Host(guest, networks=frozenset(networks), bridges=frozenset(bridges))
        host = read_host(guest, text, networks, bridges)
        return host._replace(firmwares=firmware_builds(guest.arch) if host.has_uefi else ())

    def taken(self) -> Taken:
        """Of all domains; machines and templates share their names."""
        domains = self._connection.list_domains(lambda _: True).texts
        taken = Taken(
            uuids={domain.uuid for domain in domains},
            names={(str(kind), domain.name) for domain in domains for kind in MachineKind},
            macs={mac.lower() for domain in domains for mac in _MAC.findall(domain.text)},
        )
        return reserve(taken, self.pending_imports(), tuple(MachineKind))

    def fit(self, machine: Machine, states: Mapping[str, bytes]) -> Fitted:
        """The machine on this host's hardware. Raises InvalidDefinition, SourceError."""
        return fit(machine, self.host, states)

    def published(self, paths: Sequence[str]) -> None:
        """Give the files the owner of their directory, as libvirt does, and let it see them."""
        with contextlib.suppress(OSError):  # only root can give files away
            owner = os.stat(self._pool.path)
            for path in paths:
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
        self._refresh()

    def register(
        self,
        machines: Sequence[Machine],
        volumes: Sequence[str],
        kept: Attachments,
        receipt: Receipt | None = None,
        archive: bytes | None = None,
    ) -> None:
        """Define the machines, then keep the receipt. Raises NameTaken, InvalidDefinition, SourceError."""
        retain_descriptors(self._state, self._connection.list_domains(lambda _: False).uuids)
        noted = list(volumes)
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as files:
            domains = []
            for machine in machines:
                firmware = self._firmware_files(machine, kept, noted, undo, files)
                domains.append(DomainText(machine.uuid, machine.name, write_domain(machine, self.host, firmware)))
                undo.callback(forget_descriptor, self._state, machine.uuid)
                keep_descriptor(self._state, machine.uuid, kept.descriptor)
            self._connection.define(domains)
            undo.pop_all()
        self.settle(noted, receipt, archive)

    def _firmware_files(
        self,
        machine: Machine,
        kept: Attachments,
        noted: list[str],
        undo: contextlib.ExitStack,
        files: contextlib.ExitStack,
    ) -> FirmwareFiles | None:
        """A file of its own for the variables that a machine brings along, noted like a volume.

        ``files`` removes it when it ends with an error, and ``undo`` the note after that.
        """
        if machine.nvram is None:
            return None
        variables = read_variables(kept.states[machine.nvram.digest])
        build = firmware_for(machine, self.host, variables)
        if build is None:
            raise SourceError(f"{machine.name}: the firmware for its variables is gone", "begin the import again")
        number = str(uuid.uuid4())
        path = os.path.join(self._pool.path, f"{number}.fd")
        self.note_volume(number)
        undo.callback(super().forget_volumes, [number])
        files.enter_context(new_variables(path, variables))
        noted.append(number)
        self.published([path])
        return FirmwareFiles(build, path)

    def forget_volumes(self, uuids: Sequence[str]) -> None:
        """As any journal does; and libvirt no longer lists what it may have seen of them."""
        super().forget_volumes(uuids)
        self._refresh()

    def _refresh(self) -> None:
        """Best effort: a domain needs its file, not an entry in the list of the storage pool."""
        try:
            self._connection.refresh_storage_pool(self._pool.name)
        except SourceError as error:  # another job is at work on the pool, for example
            log.warning("libvirt does not see all volumes of the storage pool %r yet: %s", self._pool.name, error)

    def registered_volumes(self, among: Collection[str]) -> set[str]:
        """Those whose UUID stands anywhere in what libvirt knows."""
        left = set(among)
        found: set[str] = set()
        for text in self._connection.every_text() if left else ():
            found |= {one for one in left - found if one in text}
        return found

    def volumes(self) -> Mapping[str, Volume]:
        """Files of the storage pool that imports have made."""
        found = {}
        for form in NATIVE_FORMATS:
            for path in Path(self._pool.path).glob(f"????????-????-????-????-????????????.{form}"):
                found[path.stem] = Volume(uuid=path.stem, path=str(path), format=form)
        return found


def _storage_pool(connection: Connection, name: str) -> StoragePool:
    pools = {pool.name: pool for pool in connection.storage_pools()}
    pool = pools.get(name)
    if pool is None:
        there = ", ".join(sorted(pools)) or "none"
        raise SourceError(
            f"{connection.uri} has no storage pool {name!r}; there are: {there}", "say which with the option pool=NAME"
        )
    if pool.kind not in _DIRECTORIES:
        raise SourceError(f"the storage pool {name!r} is of the kind {pool.kind!r}; imports need a directory")
    if not pool.is_active:
        raise SourceError(f"the storage pool {name!r} is not active", f"start it: 'virsh pool-start {name}'")
    if not os.path.isdir(pool.path):
        raise SourceError(
            f"the storage pool {name!r} is at {pool.path}, which is no directory of this host",
            "import on the host that libvirt runs on",
        )
    return pool._replace(path=os.path.realpath(pool.path))


def _journal(state: str) -> str:
    """The path of the journal, made if there is none; of two processes that make it, both get a whole one."""
    path = os.path.join(state, "imports.sqlite")
    if not os.path.exists(path):
        try:
            new = f"{path}.{uuid.uuid4()}.new"
            os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            try:
                create_journal(new, str(uuid.uuid4()))
                with contextlib.suppress(FileExistsError):
                    os.link(new, path)
            finally:
                os.unlink(new)
        except OSError as error:
            raise SourceError(f"{path} cannot be made: {error.strerror}") from error
    return path


def _bridges() -> set[str]:
    return {path.parent.name for path in Path("/sys/class/net").glob("*/bridge")}
