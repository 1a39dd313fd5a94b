"""Backup jobs of domains, as libvirt knows them: one for each domain at most.

A job in the pull mode (https://libvirt.org/formatbackup.html) freezes the content of all disks at one moment: QEMU
serves it over NBD, and before the guest overwrites anything it is saved to scratch files.

| when | libvirt 9.0 does |
|---|---|
| a second job is begun, or a snapshot is made | waits 30 s and fails: so look first |
| the domain ends | the job ends, the NBD server closes, its socket file stays |
| libvirtd ends and starts | the job and its NBD server go on |
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from lxml import etree

from ovafs.errors import StaleHandle, VolumeBusy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import libvirt

    from ovafs.inventory.libvirt.connection import Connection

log = logging.getLogger(__name__)

# Of libvirt's API, where these numbers are fixed: virDomainJobType, virDomainJobOperation,
# and virDomainState (paused) with virDomainPausedReason (I/O error).
_NO_JOB = 0
_BACKUP = 9
_STOPPED_BY_STORAGE = [3, 5]

_HINT = "QEMU must be able to make files and sockets in the scratch directory, see scratch= in ovafs(1)"


class Scratch(NamedTuple):
    """What a job needs for one disk: its ``target`` ("vda") and the path of a file that libvirt makes."""

    target: str
    path: str


class RunningJob(NamedTuple):
    """A backup job: the domain's UUID, and the path of its NBD socket ("" if it has none)."""

    domain: str
    socket: str


def begin_job(connection: Connection, job: RunningJob, disks: Sequence[Scratch]) -> None:
    """Freeze the content of ``disks`` and serve it at the socket, under the targets' names.

    Raises VolumeBusy (another job runs), StaleHandle (the domain does not run), SourceError.
    """
    with connection.talk(_HINT) as opened:
        _idle_domain(connection, opened, job.domain).backupBegin(_job_text(job.socket, disks), None)


def check_idle(connection: Connection, uuid: str) -> None:
    """Raise VolumeBusy (another job of the domain runs), StaleHandle (it does not run), SourceError."""
    with connection.talk() as opened:
        _idle_domain(connection, opened, uuid)


def _idle_domain(connection: Connection, opened: libvirt.virConnect, uuid: str) -> libvirt.virDomain:
    domain = connection.find(opened, uuid)
    if domain is None or not domain.isActive():
        raise StaleHandle(f"domain {uuid} was stopped since it was looked up")
    if domain.jobInfo()[0] != _NO_JOB:
        raise VolumeBusy(
            domain.name(), "libvirt works on this domain", "wait until that is done, see 'virsh domjobinfo DOMAIN'"
        )
    return domain


def end_job(connection: Connection, job: RunningJob) -> bool:
    """Tell libvirt to end the job, whose scratch files go then; True if the domain does not have it (any more).

    A guest that was stopped because its old data could not be saved goes on. Raises SourceError.
    """
    with connection.talk() as opened:
        domain = connection.find(opened, job.domain)
        if domain is None or not domain.isActive():
            return True
        if _socket_of(domain) == job.socket:
            domain.abortJob()
            return False
        if domain.state() == _STOPPED_BY_STORAGE:
            domain.resume()
            log.warning("%s: QEMU had stopped the guest for want of scratch space; it goes on", domain.name())
        return True


def running_jobs(connection: Connection) -> list[RunningJob]:
    """Every backup job that runs now, whoever began it. Raises SourceError."""
    with connection.talk() as opened:
        running = [
            (domain.UUIDString(), _socket_of(domain)) for domain in opened.listAllDomains(0) if domain.isActive()
        ]
    return [RunningJob(domain, socket) for domain, socket in running if socket is not None]


def scratch_used(connection: Connection, job: RunningJob) -> int | None:
    """Bytes in the job's scratch files; None if the domain does not have this job any more. Raises SourceError."""
    with connection.talk() as opened:
        domain = connection.find(opened, job.domain)
        if domain is None or not domain.isActive() or _socket_of(domain) != job.socket:
            return None
        return int(domain.jobStats().get("disk_temp_used", 0))


def _socket_of(domain: libvirt.virDomain) -> str | None:
    """The NBD socket of a running domain's backup job; None without a job."""
    if domain.jobStats().get("operation") != _BACKUP:
        return None
    server = etree.fromstring(domain.backupGetXMLDesc()).find("server")
    return "" if server is None else server.get("socket", "")


def _job_text(socket: str, disks: Sequence[Scratch]) -> str:
    root = etree.Element("domainbackup", mode="pull")
    etree.SubElement(root, "server", transport="unix", socket=socket)
    listed = etree.SubElement(root, "disks")
    for disk in disks:
        element = etree.SubElement(listed, "disk", name=disk.target, backup="yes", type="file", exportname=disk.target)
        etree.SubElement(element, "scratch", file=disk.path)
    return etree.tostring(root, encoding="unicode")
