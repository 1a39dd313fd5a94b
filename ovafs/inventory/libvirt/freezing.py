"""The file systems of a guest stand still while its backup begins, if its agent can do that.

A backup is of one moment: what a power cut would have left, unless the guest has written everything down before. Its
agent (qemu-guest-agent) has the kernel do so and hold all writers until it says otherwise; a database in the guest
may have hooks there. That lasts as long as the begin of the job, a fraction of a second.

A guest must never stay frozen: it is thawed in every outcome, also by the next process after a crash, for which there
is a note while it may be frozen. libvirt waits for an agent that does not answer without an end, and holds the domain's
other agent commands up meanwhile, so it is told not to (virDomainAgentSetResponseTimeout).

Source: https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainFSFreeze; what has failed to freeze, the agent
thaws itself (qga/commands-posix.c).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lxml import etree

from ovafs.errors import SourceError, VolumeBusy
from ovafs.inventory.inventory import Freeze

if TYPE_CHECKING:
    from collections.abc import Iterator

    import libvirt

    from ovafs.inventory.libvirt.connection import Connection

log = logging.getLogger(__name__)

ANSWER_SECONDS = 10
"""How long an agent may take to answer, and a guest to write everything down; Windows itself gives up then."""

# libvirt's own wait for another agent command comes to that.
_PATIENCE = 30.0 + 2 * ANSWER_SECONDS

_AGAIN_SECONDS = 2.0
_MOST_THAWS = 300
_FEW_THAWS = 3

# virDomainAgentResponseTimeoutValues: for ever, as it is for a domain that nobody told otherwise.
_FOR_EVER = -2

_NOTE = "frozen-"

_AGENT = "devices/channel/target[@name='org.qemu.guest_agent.0'][@state='connected']"

_HINT = "start qemu-guest-agent in the guest, or mount with freeze=auto"


@contextlib.contextmanager
def frozen(connection: Connection, uuid: str, freeze: Freeze, directory: str) -> Iterator[bool]:
    """Whether the file systems of the domain stand still in the ``with`` block; they go on behind it.

    A note for the next process is in ``directory`` meanwhile. Raises VolumeBusy when they have to and cannot.
    """
    is_frozen = freeze is not Freeze.NEVER and _freeze(connection, uuid, freeze, directory)
    try:
        yield is_frozen
    finally:
        if is_frozen:
            _thaw_in_thread(connection, uuid, directory).join(_PATIENCE)


def thaw_left(connection: Connection, directory: str) -> None:
    """Thaw the guests that a process has left, which is gone, with its notes in ``directory``. Raises SourceError."""
    for note in _notes(directory):
        uuid = note.name.removeprefix(_NOTE)
        log.warning("the file systems of domain %s may have been left frozen; they are thawed", uuid)
        _thaw(connection, uuid)
        note.unlink()


def has_left(directory: str) -> bool:
    """Whether a guest may still be frozen, so that the directory has to stay for the next process."""
    return bool(_notes(directory))


def _note(directory: str, uuid: str) -> Path:
    return Path(directory, f"{_NOTE}{uuid}")


def _notes(directory: str) -> list[Path]:
    return list(Path(directory).glob(f"{_NOTE}*"))


def _freeze(connection: Connection, uuid: str, freeze: Freeze, directory: str) -> bool:
    """Whether it was done; False, and said, if that is not a must. Raises VolumeBusy, SourceError."""
    name = _agent_of(connection, uuid)
    if name is None:
        problem = "no agent answers in the guest"
        log.debug("domain %s: %s; its file systems are not frozen", uuid, problem)
    else:
        attempt = _Attempt(connection, uuid, directory)
        problem = attempt.wait()
        if not problem:
            return True
        log.warning("%s: its file systems are not frozen for the backup: %s", name, problem)
    if freeze is Freeze.REQUIRE:
        reason = f"runs, and its file systems cannot be frozen for a backup, as freeze=require wants: {problem}"
        raise VolumeBusy(name or f"domain {uuid}", reason, _HINT)
    return False


def _agent_of(connection: Connection, uuid: str) -> str | None:
    """The name of a domain with an agent that is connected; None if it has none. Raises SourceError."""
    with connection.talk() as opened:
        domain = connection.find(opened, uuid)
        if domain is None or not domain.isActive():
            return None
        root = etree.fromstring(domain.XMLDesc(0))
        name: str = domain.name()
        return name if root.find(_AGENT) is not None else None


class _Attempt:
    """A freeze that is waited for; one that comes late is taken back at once."""

    def __init__(self, connection: Connection, uuid: str, directory: str) -> None:
        self._connection = connection
        self._uuid = uuid
        self._directory = directory
        self._lock = threading.Lock()
        self._problem: str | None = None
        self._is_given_up = False
        self._thread = threading.Thread(target=self._run, name=f"freeze of {uuid}", daemon=True)

    def wait(self) -> str:
        """Do it; returns "" or what has gone wrong. The guest goes on then, or will as soon as its agent answers."""
        _note(self._directory, self._uuid).touch()
        self._thread.start()
        self._thread.join(_PATIENCE)
        with self._lock:
            self._is_given_up = self._problem is None
            return f"libvirt did not answer within {_PATIENCE:.0f} s" if self._is_given_up else self._problem or ""

    def _run(self) -> None:
        try:
            with _agent(self._connection, self._uuid) as domain:
                if domain is not None:
                    domain.fsFreeze()
            problem = "" if domain is not None else "it does not run any more"
        except SourceError as error:
            problem = error.summary
        with self._lock:
            self._problem = problem
            is_wanted = not self._is_given_up
        if problem:  # that may be a lost answer, too, and not a lost question
            _thaw_in_thread(self._connection, self._uuid, self._directory, _FEW_THAWS)
        elif not is_wanted:
            _thaw_in_thread(self._connection, self._uuid, self._directory)


def _thaw_in_thread(connection: Connection, uuid: str, directory: str, attempts: int = _MOST_THAWS) -> threading.Thread:
    """Until it has succeeded: nothing that can go wrong is a reason to leave a guest frozen."""

    def run() -> None:
        for attempt in range(attempts):
            try:
                _thaw(connection, uuid)
            except SourceError as error:
                if not attempt:
                    log.warning("domain %s: its file systems cannot be thawed yet: %s", uuid, error.summary)
                time.sleep(_AGAIN_SECONDS)
            else:
                _note(directory, uuid).unlink(missing_ok=True)
                return
        log.error("domain %s: its file systems may be frozen: 'virsh domfsthaw %s' thaws them", uuid, uuid)

    thread = threading.Thread(target=run, name=f"thaw of {uuid}", daemon=True)
    thread.start()
    return thread


def _thaw(connection: Connection, uuid: str) -> None:
    """Raises SourceError."""
    with _agent(connection, uuid) as domain:
        if domain is not None:
            domain.fsThaw()


@contextlib.contextmanager
def _agent(connection: Connection, uuid: str) -> Iterator[libvirt.virDomain | None]:
    """The domain, whose agent has to answer in time; None if it does not run. Raises SourceError."""
    with connection.talk_apart() as opened:
        domain = connection.find(opened, uuid)
        if domain is None or not domain.isActive():
            yield None
            return
        domain.agentSetResponseTimeout(ANSWER_SECONDS)
        try:
            yield domain
        finally:
            domain.agentSetResponseTimeout(_FOR_EVER)
