"""The inventory that libvirt holds: every domain of a connection is a machine.

Nothing is changed there. A domain that runs is shown as it is defined now, one that is shut off as it would start.

What libvirt says is kept and asked for again when an event tells of a change, after ``POLL_SECONDS`` in any case, and
always where nobody watches (:meth:`LibvirtInventory.revision` begins that). While the connection is lost the last
listing stays; a new one is tried every ``RECONNECT_SECONDS``.

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
import uuid
from typing import TYPE_CHECKING, NamedTuple

from ovafs.errors import InvalidDefinition, MachineNotFound, SourceError
from ovafs.formats.domain_xml import VolumeSource, read_domain
from ovafs.inventory.definition_times import DefinitionTimes
from ovafs.inventory.domains import machine_of, with_times
from ovafs.inventory.inventory import DamagedMachine, Snapshot
from ovafs.inventory.rows import printable
from ovafs.model import Machine, MachineKind, definition_digest

try:
    import libvirt
except ImportError:  # an extra
    libvirt = None

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from ovafs.model import StateKind

log = logging.getLogger(__name__)

POLL_SECONDS = 30.0
RECONNECT_SECONDS = 5.0

# A connection that does not answer is dead after INTERVAL * (COUNT + 1) seconds; a copy must not hang for ever.
_KEEPALIVE_INTERVAL = 5
_KEEPALIVE_COUNT = 3


class _Known(NamedTuple):
    """What a domain was found to be, with the time of its definition."""

    machine: Machine | DamagedMachine
    left_out: Sequence[str]


class LibvirtInventory:
    """An open connection. ``is_template`` tells templates by their name, beside those that are marked in libvirt."""

    def __init__(self, uri: str, is_template: Callable[[str], bool] = lambda _: False) -> None:
        """Raises SourceError when there is no libvirt, or when it does not answer."""
        if libvirt is None:
            raise SourceError(
                f"{uri}: the Python package libvirt-python is missing", "install it: pip install 'ovafs[libvirt]'"
            )
        libvirt.registerErrorHandler(_say_nothing, None)
        self._uri = uri
        self._is_template = is_template
        self._lock = threading.RLock()
        self._connection: libvirt.virConnect | None = self._connect()
        with _libvirt_errors(uri):
            canonical = self._connection.getURI()
        self.source_id = str(uuid.uuid5(uuid.NAMESPACE_URL, canonical))
        self._state = _state_directory(self.source_id)
        self._times = DefinitionTimes(self._state and os.path.join(self._state, "definitions.sqlite"))
        self._known: dict[str, _Known] = {}
        self._changed: set[str] = set()
        self._events = 0
        self._watches = False
        self._read_all_at = float("-inf")
        self._tried_at = float("-inf")
        self._last: Snapshot | None = None

    @property
    def statvfs_path(self) -> str:
        """The root: libvirt's pools may lie anywhere."""
        return "/"

    @property
    def cache_dir(self) -> str | None:
        """A directory of this source on this host."""
        return self._state

    def revision(self) -> Hashable:
        """Changes with every event, and every ``POLL_SECONDS``; begins to watch when it is first asked."""
        with self._lock:
            if not self._watches:
                self._watch()
        seconds = POLL_SECONDS if self._connection is not None else RECONNECT_SECONDS
        return self._events, int(time.monotonic() / seconds)

    def snapshot(self) -> Snapshot:
        """All domains; the last known while the connection is lost. Raises SourceError if there never was any."""
        with self._lock:
            try:
                self._last = self._read()
            except SourceError as error:
                if self._last is None:
                    raise
                log.warning("%s; the listing stays as it was", error)
            return self._last

    def machines(self) -> list[Machine]:
        """The usable machines."""
        return self.snapshot().machines

    def find(self, name_or_uuid: str, kind: MachineKind | None = None) -> Machine:
        """The machine with this name or UUID. Raises MachineNotFound, InvalidDefinition."""
        found = self.snapshot()
        everything: list[Machine | DamagedMachine] = [*found.machines, *found.damaged]
        for machine in everything:
            if name_or_uuid in {machine.name, machine.uuid} and kind in {None, machine.kind}:
                if isinstance(machine, DamagedMachine):
                    raise InvalidDefinition(f"{machine.name}: {machine.reason}")
                return machine
        raise MachineNotFound(f"{self._uri} has no {kind or 'machine'} {printable(name_or_uuid)}")

    def left_out(self, machine: Machine) -> Sequence[str]:
        """Drives, disks and devices that stand in the domain and have no place in a package."""
        known = self._known.get(machine.uuid)
        return known.left_out if known else ()

    def read_state(self, machine: Machine, kind: StateKind) -> bytes:
        """None of these machines has one: libvirt keeps them where it does not give them out."""
        raise MachineNotFound(f"{machine.name} has no state of its {kind}")

    def read_descriptor(self, machine: Machine) -> bytes | None:  # noqa: ARG002 - a pool has them
        """None: domains are not imported by ovafs."""
        return None

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            self._drop_connection()
            self._times.close()

    # -- reading

    def _read(self) -> Snapshot:
        connection = self._alive()
        with self._events_taken() as changed, _libvirt_errors(self._uri):
            domains = {domain.UUIDString(): domain for domain in connection.listAllDomains(0)}
            reads_all = not self._watches or time.monotonic() - self._read_all_at > POLL_SECONDS
            wanted = [one for key, one in domains.items() if reads_all or key in changed or key not in self._known]
            texts = [(domain, text) for domain in wanted if (text := _xml(domain)) is not None]
        found = {domain.UUIDString(): self._judge(domain, text) for domain, text in texts}
        self._known = {key: one for key, one in {**self._known, **self._dated(found)}.items() if key in domains}
        if reads_all:
            self._read_all_at = time.monotonic()
        return _snapshot(one.machine for one in self._known.values())

    def _judge(self, domain: libvirt.virDomain, text: str) -> _Known:
        kind = MachineKind.TEMPLATE if self._is_template(domain.name()) else MachineKind.VM
        try:
            read = read_domain(text)
            kind = MachineKind.TEMPLATE if read.is_template else kind
            return _Known(machine_of(read, kind, self._path_of), read.left_out)
        except InvalidDefinition as error:
            return _Known(DamagedMachine(printable(domain.name()), str(error), domain.UUIDString(), kind), ())

    def _dated(self, found: dict[str, _Known]) -> dict[str, _Known]:
        usable = {key: one for key, one in found.items() if isinstance(one.machine, Machine)}
        digests = [
            (key, definition_digest(one.machine)) for key, one in usable.items() if isinstance(one.machine, Machine)
        ]
        dated = dict(found)
        for (key, _), times in zip(digests, self._times.of(digests), strict=True):
            machine = found[key].machine
            if isinstance(machine, Machine):
                dated[key] = _Known(with_times(machine, times.created, times.modified), found[key].left_out)
        return dated

    def _path_of(self, source: VolumeSource) -> str:
        """The file of a disk: given, or asked of the storage pool that holds it. Raises InvalidDefinition."""
        if not source.pool:
            return source.path
        try:
            pool = self._alive().storagePoolLookupByName(source.pool)
            path: str = pool.storageVolLookupByName(source.volume).path()
        except libvirt.libvirtError as error:
            raise InvalidDefinition(f"volume {source.volume} of pool {source.pool}: {error}") from None
        return path

    # -- the connection

    def _connect(self) -> libvirt.virConnect:
        with _libvirt_errors(self._uri):
            # Read-only would do, but hides what an administrator may see (security labels, secrets' names).
            return libvirt.open(self._uri)

    def _alive(self) -> libvirt.virConnect:
        """The connection, made anew if it is lost, but not more often than every RECONNECT_SECONDS."""
        if self._connection is not None and self._connection.isAlive():
            return self._connection
        self._drop_connection()
        if time.monotonic() - self._tried_at < RECONNECT_SECONDS:
            raise SourceError(f"{self._uri}: libvirt does not answer")
        self._tried_at = time.monotonic()
        self._connection = self._connect()
        if self._watches:
            self._register(self._connection)
        self._read_all_at = float("-inf")
        return self._connection

    def _watch(self) -> None:
        """Listen to events from now on: for that the loop has to run before the connection is made."""
        _run_event_loop(os.getpid())
        self._watches = True
        self._drop_connection()
        self._tried_at = float("-inf")
        with contextlib.suppress(SourceError):  # the next look tries again
            self._alive()

    def _register(self, connection: libvirt.virConnect) -> None:
        with contextlib.suppress(libvirt.libvirtError):  # the test driver has none; polls find the changes then
            connection.setKeepAlive(_KEEPALIVE_INTERVAL, _KEEPALIVE_COUNT)
        with contextlib.suppress(libvirt.libvirtError):
            connection.registerCloseCallback(self._closed, None)
        with contextlib.suppress(libvirt.libvirtError):
            connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(libvirt.libvirtError):
                connection.close()

    # -- events, in the thread of libvirt's loop

    def _lifecycle(
        self, _connection: libvirt.virConnect, domain: libvirt.virDomain, _event: int, _detail: int, _opaque: None
    ) -> None:
        self._changed.add(domain.UUIDString())
        self._events += 1

    def _closed(self, *_details: object) -> None:
        log.warning("%s: the connection is lost", self._uri)
        self._events += 1

    @contextlib.contextmanager
    def _events_taken(self) -> Iterator[set[str]]:
        """The UUIDs that events told of; after an error they are still to be looked at."""
        changed, self._changed = self._changed, set()
        try:
            yield changed
        except BaseException:
            self._changed |= changed
            raise


@functools.cache
def _run_event_loop(_process: int) -> None:
    """One for each process; it runs until the process ends."""
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt events", daemon=True).start()


@contextlib.contextmanager
def _libvirt_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except libvirt.libvirtError as error:
        raise SourceError(f"{uri}: {error}", "check that libvirt runs: 'virsh -c URI list' must work") from error


def _say_nothing(_context: None, _error: object) -> None:
    """As libvirt prints every error on stderr otherwise; they are raised anyway."""


def _xml(domain: libvirt.virDomain) -> str | None:
    """The definition, or None if the domain is gone."""
    try:
        text: str = domain.XMLDesc(0 if domain.isActive() else libvirt.VIR_DOMAIN_XML_INACTIVE)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
    return text


def _snapshot(found: Iterable[Machine | DamagedMachine]) -> Snapshot:
    snapshot = Snapshot([], [])
    for machine in found:
        if isinstance(machine, Machine):
            snapshot.machines.append(machine)
        else:
            snapshot.damaged.append(machine)
    snapshot.machines.sort(key=lambda one: (one.kind != MachineKind.VM, one.name))
    snapshot.damaged.sort(key=lambda one: (one.kind != MachineKind.VM, one.name))
    return snapshot


def _state_directory(source_id: str) -> str | None:
    """Where the times of definitions and the cache are kept; None if there is no place that can be written."""
    home = os.environ.get("XDG_STATE_HOME") or (
        "/var/lib" if os.getuid() == 0 else os.path.expanduser("~/.local/state")
    )
    base = os.path.join(home, "ovafs")
    path = os.path.join(base, f"libvirt-{source_id}")
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        log.warning("%s cannot be made (%s): times of machines change with every start", path, error.strerror)
        return None
    return path if os.access(path, os.W_OK) else None
