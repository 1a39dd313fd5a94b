"""Imports into libvirt, with its own test driver: what is defined, what is left, and what a failure leaves."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from typing import TYPE_CHECKING

import libvirt
import pytest

from ovafs.errors import InvalidDefinition, InvalidPackage, NameTaken, SourceError
from ovafs.inventory.libvirt.connection import Connection, DomainText
from ovafs.inventory.libvirt.destination import LibvirtDestination
from ovafs.inventory.libvirt.inventory import LibvirtInventory
from ovafs.inventory.pending import PendingImport
from ovafs.inventory.receipts import Receipt
from ovafs.inventory.source import open_destination
from ovafs.model import MachineKind
from ovafs.transfer.ingest.choices import Clash, ImportChoices
from ovafs.transfer.ingest.landing import PoolLanding
from ovafs.transfer.ingest.package import PackageImport, import_package
from tests.support.domains import domain_xml, write_node
from tests.support.packages import archive, descriptor, envelope, guest_bytes, manifest, small_package

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ovafs.transfer.ingest.package import Imported

PARTS = small_package(macs=["52:54:00:11:22:33"])
PACKAGE = archive(PARTS)


class Host:
    """A libvirt with one domain, a storage pool and a network; and what imports into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.volumes = folder / "images"
        self.volumes.mkdir()
        self.state = folder / "state"
        self.uri = write_node(folder / "node.xml", [domain_xml("old")], pool=self.volumes, networks=["default"])
        self.inventory = LibvirtInventory(self.uri)
        self.destination = open_destination(self.uri, self.inventory, None)

    def take(self, package: bytes, choices: ImportChoices | None = None, *, dry: bool = False) -> Imported:
        return import_package(self.destination, [memoryview(package)], "package", choices or ImportChoices(), dry=dry)

    @property
    def files(self) -> list[str]:
        return sorted(os.listdir(self.volumes))

    @property
    def names(self) -> list[str]:
        return sorted(machine.name for machine in self.inventory.machines())

    def assert_nothing_new(self) -> None:
        assert self.names == ["old"]
        assert self.files == []
        assert self.destination.unfinished_volumes() == set()

    def close(self) -> None:
        self.destination.close()
        self.inventory.close()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with contextlib.closing(Host(tmp_path)) as opened:
        yield opened


def test_a_package_becomes_a_domain(host: Host, tmp_path: Path) -> None:
    imported = host.take(PACKAGE)
    assert imported.warnings == ["there is no network 'lan' here; adapter 52:54:00:11:22:33 is on 'default'"]
    assert host.names == ["old", "web"]
    found = host.inventory.find("web")
    assert found.uuid == imported.machines[0].uuid
    for disk, name in zip(found.disks, ("a.raw", "b.raw"), strict=True):
        assert os.path.dirname(disk.volume.path) == str(host.volumes)
        assert guest_bytes(disk.volume.path, "qcow2", tmp_path) == PARTS[name]
    assert [(nic.network, nic.mac) for nic in found.nics] == [("default", "52:54:00:11:22:33")]
    assert host.files == sorted(os.path.basename(disk.volume.path) for disk in found.disks)
    assert host.destination.unfinished_volumes() == set()
    assert host.inventory.read_descriptor(found) == PARTS["web.ovf"]
    assert host.inventory.read_descriptor(host.inventory.find("old")) is None


def test_volumes_belong_to_the_owner_of_their_directory(host: Host) -> None:
    os.chown(host.volumes, 12, 34)
    host.take(PACKAGE)
    for name in host.files:
        status = (host.volumes / name).stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (12, 34, 0o600)


def test_names_uuids_and_addresses_that_are_taken(host: Host) -> None:
    first = host.take(PACKAGE).machines[0]
    second = host.take(PACKAGE)
    assert second.machines[0].name == "web-2"
    assert second.machines[0].nics[0].mac != first.nics[0].mac
    with pytest.raises(NameTaken, match="'web' is taken"):
        host.take(PACKAGE, ImportChoices(on_clash=Clash.REFUSE))
    template = host.take(PACKAGE, ImportChoices(name="web", kind=MachineKind.TEMPLATE))
    assert template.machines[0].name == "web-3", "machines and templates share their names"
    assert host.inventory.find("web-3").kind is MachineKind.TEMPLATE


def test_a_dry_run_defines_nothing(host: Host) -> None:
    assert host.take(PACKAGE, dry=True).machines[0].name == "web"
    host.assert_nothing_new()


def test_a_package_that_is_refused_leaves_nothing(host: Host) -> None:
    wrong = manifest({**PARTS, "b.raw": b"other"})
    with pytest.raises(InvalidPackage, match=re.escape("b.raw")):
        host.take(archive({**PARTS, "web.mf": wrong}))
    host.assert_nothing_new()


def test_what_the_host_cannot_do_is_said_before_the_disks_come(host: Host) -> None:
    assert isinstance(host.destination, LibvirtDestination)
    host.destination.__dict__["host"] = host.destination.host._replace(networks=frozenset())
    with contextlib.closing(PackageImport(host.destination, "web", ImportChoices())) as running:
        before_the_disks = PACKAGE[: PACKAGE.index(PARTS["a.raw"])]
        with pytest.raises(InvalidDefinition, match="no network or bridge 'lan'"):
            running.receive_data(before_the_disks)
    host.assert_nothing_new()


def test_all_machines_of_a_package_or_none(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two is refused by libvirt: the first is not there either."""
    defined = libvirt.virConnect.defineXMLFlags

    def refuse(connection: libvirt.virConnect, text: str, flags: int) -> libvirt.virDomain:
        if "<name>two</name>" in text:
            raise libvirt.libvirtError("unsupported configuration: no room")
        return defined(connection, text, flags)

    monkeypatch.setattr(libvirt.virConnect, "defineXMLFlags", refuse)
    with pytest.raises(InvalidDefinition, match="libvirt refuses two: unsupported configuration: no room"):
        host.take(archive({"x.ovf": _two_systems()}))
    host.assert_nothing_new()
    assert list(host.state.rglob("descriptors/*")) == []
    monkeypatch.undo()
    host.take(archive({"x.ovf": _two_systems()}))
    assert host.names == ["old", "one", "two"]


def _two_systems() -> bytes:
    systems = []
    for name in ("one", "two"):
        text = descriptor(name=name).decode()
        systems.append(text[text.index("<VirtualSystem ") : text.index("</Envelope>")])
    collection = f'<VirtualSystemCollection ovf:id="c"><Info/>{"".join(systems)}</VirtualSystemCollection>'
    return envelope("<References/>", "<DiskSection><Info/></DiskSection>", collection)


def test_what_a_crash_left_is_removed_unless_a_domain_is_on_it(host: Host) -> None:
    lost, used = (f"{digit * 8}-0000-0000-0000-000000000000" for digit in "12")
    for uuid in (lost, used):
        host.destination.note_volume(uuid)
        (host.volumes / f"{uuid}.qcow2").touch()
    disk = f"<disk type='file'><source file='{host.volumes}/{used}.qcow2'/><target dev='vda'/></disk>"
    host.inventory.connection.define([_text("crashed", disk)])
    PoolLanding(host.destination).close()
    assert host.files == [f"{used}.qcow2"]
    assert host.destination.unfinished_volumes() == set()


def _text(name: str, devices: str) -> DomainText:
    text = domain_xml(name, devices=devices)
    return DomainText(text[text.index("<uuid>") + 6 : text.index("</uuid>")], name, text)


def test_receipts_outlive_the_process(host: Host) -> None:
    receipt = Receipt(host.destination.new_entry_number(), b"web.ova", len(PACKAGE), 1, 0o600, 0, 0)
    with contextlib.closing(PackageImport(host.destination, "web", ImportChoices())) as running:
        running.receive_data(PACKAGE)
        running.commit("web", receipt=receipt)
    with contextlib.closing(open_destination(host.uri, host.inventory, "default")) as other:
        assert other.receipts() == [receipt]
        assert other.receipt_archive(receipt.number) is not None
        assert {f"{uuid}.qcow2" for uuid in other.volumes()} == set(host.files)
        assert other.new_entry_number() > receipt.number


@pytest.mark.parametrize(
    ("node", "pool", "message"),
    [
        ("", "default", "has no storage pool 'default'; there are: none"),
        ("<pool type='dir'><name>a</name><target><path>/</path></target></pool>", "b", "there are: a"),
        (
            "<pool type='logical'><name>vg</name><target><path>/dev/vg</path></target></pool>",
            *("vg", "is of the kind 'logical'; imports need a directory"),
        ),
        (
            "<pool type='dir'><name>far</name><target><path>/not/here</path></target></pool>",
            *("far", "is at /not/here, which is no directory of this host"),
        ),
    ],
)
def test_storage_pools_that_cannot_be_used(tmp_path: Path, node: str, pool: str, message: str) -> None:
    (tmp_path / "node.xml").write_text(f"<node>{node}</node>")
    with (
        contextlib.closing(Connection(f"test://{tmp_path}/node.xml")) as connection,
        pytest.raises(SourceError, match=re.escape(message)),
    ):
        LibvirtDestination(connection, str(tmp_path), pool)


def test_a_storage_pool_that_does_not_run(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    pools = [pool._replace(is_active=False) for pool in host.inventory.connection.storage_pools()]
    monkeypatch.setattr(Connection, "storage_pools", lambda _: pools)
    with pytest.raises(SourceError, match="is not active") as caught:
        open_destination(host.uri, host.inventory, None)
    assert caught.value.hint == "start it: 'virsh pool-start default'"


def test_no_place_for_the_journal(host: Host) -> None:
    with pytest.raises(SourceError, match="no directory for the journal"):
        LibvirtDestination(host.inventory.connection, None, "default")


def test_a_storage_pool_that_cannot_be_refreshed_harms_no_import(
    host: Host, monkeypatch: pytest.MonkeyPatch, expect_log: Callable[[str], None]
) -> None:
    def busy(_: Connection, name: str) -> None:
        raise SourceError(f"storage pool '{name}' has asynchronous jobs running")

    monkeypatch.setattr(Connection, "refresh_storage_pool", busy)
    expect_log("does not see all volumes of the storage pool 'default' yet: .*asynchronous jobs")
    host.take(PACKAGE)
    assert host.names == ["old", "web"]


def test_what_waits_for_its_adaptation_keeps_its_names(host: Host) -> None:
    machines = tuple(host.take(PACKAGE, dry=True).machines)
    pending = PendingImport(
        uuid="00000000-0000-4000-8000-000000000001", machines=machines, states={}, descriptor=b"", begun=1.0
    )
    for volume in pending.volumes:
        host.destination.note_volume(volume)
    host.destination.keep_pending(pending)
    taken = host.destination.taken()
    assert {("vm", "web"), ("template", "web"), ("vm", "old")} <= taken.names
    assert machines[0].uuid in taken.uuids
    assert "52:54:00:11:22:33" in taken.macs
    assert host.destination.unfinished_volumes() == set()
    assert [one.name for one in host.take(PACKAGE).machines] == ["web-2"]
    assert host.destination.pending_imports() == [pending]
    host.destination.give_up_pending(pending.uuid)
    assert host.destination.unfinished_volumes() == set(pending.volumes)
    assert host.destination.pending_imports() == []


def test_a_pending_import_that_cannot_be_read_harms_no_other(host: Host, expect_log: Callable[[str], None]) -> None:
    expect_log("the import 'x', which waits for its adaptation, cannot be read")
    with (
        contextlib.closing(sqlite3.connect(next(host.folder.glob("state/**/imports.sqlite")))) as connection,
        connection,
    ):
        connection.execute("INSERT INTO pending_imports VALUES ('x', x'c1')")
    assert host.destination.pending_imports() == []
