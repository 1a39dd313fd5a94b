"""A connection to libvirt that comes back after it was lost. The only module that knows the library.

What is asked for goes to libvirt at once; a lost connection is made anew by whoever asks next, at most every
``RECONNECT_SECONDS``. :meth:`Connection.watch` begins to listen to events.

Concurrency: any thread. One of them talks to libvirt at a time. Events come in a thread of libvirt's loop, of which
there is one in a process.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from lxml import etree

from ovafs.errors import InvalidDefinition, MachineNotFound, NameTaken, SourceError
from ovafs.inventory.rows import printable

try:
    import libvirt
except ImportError:  # an extra
    libvirt = None

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

log = logging.getLogger(__name__)

RECONNECT_SECONDS = 5.0

# A connection that does not answer is dead after INTERVAL * (COUNT + 1) seconds; a copy must not hang for ever.
_KEEPALIVE_INTERVAL = 5
_KEEPALIVE_COUNT = 3

_HINT = "check that libvirt runs: 'virsh -c URI list' must work"


class DomainText(NamedTuple):
    """A domain's definition: as it is now if the domain runs, else as it would start; and its snapshots if wanted."""

    uuid: str
    name: str
    text: str
    is_active: bool = False
    snapshots: tuple[str, ...] = ()


class Listing(NamedTuple):
    """UUIDs of all domains, and the definitions of those that were asked for."""

    uuids: set[str]
    texts: list[DomainText]


class StoragePool(NamedTuple):
    """A storage pool; ``path`` is its target, empty if it has none. ``kind`` is libvirt's: "dir", "logical"."""

    name: str
    kind: str
    path: str
    is_active: bool


class Connection:
    """An open connection to ``uri``."""

    def __init__(self, uri: str) -> None:
        """Raises SourceError when there is no libvirt, or when it does not answer."""
        if libvirt is None:
            raise SourceError(
                f"{uri}: the Python package libvirt-python is missing", "install it: pip install 'ovafs[libvirt]'"
            )
        libvirt.registerErrorHandler(_say_nothing, None)
        self.uri = uri
        self.events = 0
        """How many events have come; more of them mean that something may have changed."""
        self.made = 0
        """How often it was connected: what happened in between is not known."""
        self.is_watching = False
        self._lock = threading.RLock()
        self._changed: set[str] = set()
        self._tried_at = float("-inf")
        self._open: libvirt.virConnect | None = self._connect()
        with self._errors():
            self.canonical_uri: str = self._open.getURI()
        self.is_local = not urlsplit(self.canonical_uri).hostname
        """Whether libvirt is on this host, so that paths mean the same there and here."""

    @property
    def is_lost(self) -> bool:
        """Whether the next one to ask will have to connect anew."""
        return self._open is None

    def watch(self) -> None:
        """Listen to events from now on: for that the loop has to run before the connection is made."""
        with self._lock:
            if self.is_watching:
                return
            _run_event_loop(os.getpid())
            self.is_watching = True
            self._drop()
            self._tried_at = float("-inf")
            with contextlib.suppress(SourceError):  # the next look tries again
                self._alive()

    @contextlib.contextmanager
    def changes(self) -> Iterator[set[str]]:
        """The UUIDs of domains that events told of; after an error they are still to be looked at."""
        changed, self._changed = self._changed, set()
        try:
            yield changed
        except BaseException:
            self._changed |= changed
            raise

    def list_domains(self, wanted: Callable[[str], bool], *, snapshots: bool = False) -> Listing:
        """All domains, and the definitions of those whose UUIDs are ``wanted``. Raises SourceError."""
        with self.talk() as connection:
            domains = {domain.UUIDString(): domain for domain in connection.listAllDomains(0)}
            texts = [_definition(domain, snapshots=snapshots) for uuid, domain in domains.items() if wanted(uuid)]
        return Listing(set(domains), [text for text in texts if text is not None])

    def volume_path(self, pool: str, volume: str) -> str:
        """The file of a volume in a storage pool. Raises MachineNotFound if there is none, SourceError."""
        with self.talk() as connection:
            try:
                path: str = connection.storagePoolLookupByName(pool).storageVolLookupByName(volume).path()
            except libvirt.libvirtError as error:
                if error.get_error_code() in {libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_NO_STORAGE_VOL}:
                    raise MachineNotFound(f"volume {printable(volume)} of pool {printable(pool)}: {error}") from None
                raise
        return path

    # -- for what is defined in libvirt

    def capabilities(self) -> str:
        """What the host can run. Raises SourceError."""
        with self.talk() as connection:
            text: str = connection.getCapabilities()
        return text

    def domain_capabilities(self, domain_type: str, arch: str, machine: str | None) -> str | None:
        """What such a domain can have; None if the driver does not say (the test driver). Raises SourceError."""
        with self.talk() as connection:
            try:
                text: str = connection.getDomainCapabilities(None, arch, machine, domain_type, 0)
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
                    return None
                raise
        return text

    def network_names(self) -> set[str]:
        """Networks, running or not. Raises SourceError."""
        with self.talk() as connection:
            return {network.name() for network in connection.listAllNetworks(0)}

    def storage_pools(self) -> list[StoragePool]:
        """Storage pools, running or not. Raises SourceError."""
        with self.talk() as connection:
            pools = [(pool.name(), pool.XMLDesc(0), pool.isActive()) for pool in connection.listAllStoragePools(0)]
        found = []
        for name, text, is_active in pools:
            root = etree.fromstring(text)
            kind, path = root.get("type", ""), root.findtext("target/path") or ""
            found.append(StoragePool(name, kind, path, bool(is_active)))
        return found

    def refresh_storage_pool(self, name: str) -> None:
        """Let libvirt see what is in the pool now. Raises SourceError."""
        with self.talk() as connection:
            connection.storagePoolLookupByName(name).refresh(0)

    def every_text(self) -> list[str]:
        """Everything that names an image: definitions of now and of the next start, and of snapshots."""
        with self.talk() as connection:
            return [text for domain in connection.listAllDomains(0) for text in _texts(domain)]

    def define(self, domains: Sequence[DomainText]) -> None:
        """Define new domains: all of them, or none. Raises NameTaken, InvalidDefinition (refused), SourceError."""
        with self.talk() as connection, contextlib.ExitStack() as undo:
            there = connection.listAllDomains(0)
            names, uuids = {domain.name() for domain in there}, {domain.UUIDString() for domain in there}
            for domain in domains:
                if domain.name in names or domain.uuid in uuids:
                    raise NameTaken(f"libvirt has a domain {printable(domain.name)} ({domain.uuid}) already")
                try:
                    defined = connection.defineXMLFlags(domain.text, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
                except libvirt.libvirtError as error:
                    raise InvalidDefinition(f"libvirt refuses {printable(domain.name)}: {error}") from None
                undo.callback(_undefine, defined)
            undo.pop_all()
            self._changed.update(domain.uuid for domain in domains)
            self.events += 1

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            self._drop()

    @contextlib.contextmanager
    def talk(self, hint: str = _HINT) -> Iterator[libvirt.virConnect]:
        """For calls of other modules: nobody else talks meanwhile. Raises SourceError, with ``hint``."""
        with self._lock, self._errors(hint):
            yield self._alive()

    @contextlib.contextmanager
    def talk_apart(self) -> Iterator[libvirt.virConnect]:
        """For calls that may wait for a guest, on a connection of their own: nobody waits with them.

        Raises SourceError.
        """
        with self._errors():
            opened = libvirt.open(self.uri)
            try:
                yield opened
            finally:
                opened.close()

    def find(self, opened: libvirt.virConnect, uuid: str) -> libvirt.virDomain | None:
        """The domain with this UUID, for who talks; None if there is none."""
        try:
            return opened.lookupByUUIDString(uuid)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise

    # -- inside

    @contextlib.contextmanager
    def _errors(self, hint: str = _HINT) -> Iterator[None]:
        try:
            yield
        except libvirt.libvirtError as error:
            raise SourceError(f"{self.uri}: {error}", hint) from error

    def _connect(self) -> libvirt.virConnect:
        with self._errors():
            # Read-only would do for most, but hides what an administrator may see (security labels, secrets' names).
            connection = libvirt.open(self.uri)
        self.made += 1
        return connection

    def _alive(self) -> libvirt.virConnect:
        if self._open is not None and self._open.isAlive():
            return self._open
        self._drop()
        if time.monotonic() - self._tried_at < RECONNECT_SECONDS:
            raise SourceError(f"{self.uri}: libvirt does not answer")
        self._tried_at = time.monotonic()
        self._open = self._connect()
        if self.is_watching:
            self._register(self._open)
        return self._open

    def _register(self, connection: libvirt.virConnect) -> None:
        with contextlib.suppress(libvirt.libvirtError):  # the test driver has none; polls find the changes then
            connection.setKeepAlive(_KEEPALIVE_INTERVAL, _KEEPALIVE_COUNT)
        with contextlib.suppress(libvirt.libvirtError):
            connection.registerCloseCallback(self._closed, None)
        for event in (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE):
            with contextlib.suppress(libvirt.libvirtError):
                connection.domainEventRegisterAny(None, event, self._note_change, None)

    def _drop(self) -> None:
        connection, self._open = self._open, None
        if connection is not None:
            with contextlib.suppress(libvirt.libvirtError):
                connection.close()

    # -- events, in the thread of libvirt's loop

    def _note_change(self, _connection: libvirt.virConnect, domain: libvirt.virDomain, *_details: object) -> None:
        self._changed.add(domain.UUIDString())
        self.events += 1

    def _closed(self, *_details: object) -> None:
        log.warning("%s: the connection is lost", self.uri)
        self.events += 1


def _undefine(domain: libvirt.virDomain) -> None:
    """Best effort: it was defined a moment ago."""
    flags = (libvirt.VIR_DOMAIN_UNDEFINE_NVRAM, 0)  # the former where the driver knows it
    for flag in flags:
        with contextlib.suppress(libvirt.libvirtError):
            domain.undefineFlags(flag)
            return


def _texts(domain: libvirt.virDomain) -> list[str]:
    """All definitions of a domain and its snapshots; none if it is gone."""
    try:
        texts = [domain.XMLDesc(flags) for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE)]
        return texts + [snapshot.getXMLDesc(0) for snapshot in domain.listAllSnapshots(0)]
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return []
        raise


def _definition(domain: libvirt.virDomain, *, snapshots: bool) -> DomainText | None:
    """The definition, or None if the domain is gone."""
    try:
        is_active = bool(domain.isActive())
        text: str = domain.XMLDesc(0 if is_active else libvirt.VIR_DOMAIN_XML_INACTIVE)
        kept = tuple(one.getXMLDesc(0) for one in domain.listAllSnapshots(0)) if snapshots else ()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
    return DomainText(domain.UUIDString(), domain.name(), text, is_active, kept)


@functools.cache
def _run_event_loop(_process: int) -> None:
    """One for each process; it runs until the process ends."""
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt events", daemon=True).start()


def _say_nothing(_context: None, _error: object) -> None:
    """As libvirt prints every error on stderr otherwise; they are raised anyway."""
