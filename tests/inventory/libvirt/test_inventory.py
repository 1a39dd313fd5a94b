"""The inventory of libvirt, with libvirt's own test driver."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING

import libvirt
import pytest

from ovafs.errors import InvalidDefinition, MachineNotFound, SourceError
from ovafs.inventory.libvirt import connection as module
from ovafs.inventory.libvirt.inventory import LibvirtInventory
from ovafs.model import MachineKind
from tests.support import processes
from tests.support.domains import domain_xml, write_node
from tests.support.images import create
from tests.support.pools import Image
from tests.support.processes import ovafs, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NETWORK_DISK = (
    "<disk type='network' device='disk'><source protocol='rbd' name='p/v'><host name='h'/></source>"
    "<target dev='vda' bus='virtio'/></disk>"
)
DRIVE = "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>"


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setitem(processes.ENVIRONMENT, "XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def uri(tmp_path: Path) -> str:
    image = Image(create(tmp_path / "web.qcow2", "1M"), "qcow2")
    return write_node(
        tmp_path / "node.xml",
        [
            domain_xml("web", image, devices=DRIVE),
            domain_xml("base-12"),
            domain_xml("ceph", devices=NETWORK_DISK),
        ],
    )


@pytest.fixture
def inventory(uri: str) -> Iterator[LibvirtInventory]:
    with contextlib.closing(LibvirtInventory(uri, lambda name: name.startswith("base-"))) as opened:
        yield opened


def test_domains_are_machines(inventory: LibvirtInventory, tmp_path: Path) -> None:
    found = inventory.snapshot()
    assert [(machine.name, machine.kind) for machine in found.machines] == [
        ("web", MachineKind.VM),
        ("base-12", MachineKind.TEMPLATE),
    ]
    web = found.machines[0]
    assert web.disks[0].volume.path == str(tmp_path / "web.qcow2")
    assert inventory.left_out(web) == ("cdrom drive sda (empty)",)


def test_a_domain_that_cannot_be_shown_is_listed_with_the_reason(inventory: LibvirtInventory) -> None:
    (damaged,) = inventory.snapshot().damaged
    assert damaged.name == "ceph"
    assert damaged.reason.startswith(
        "disk vda cannot be read: the protocol 'rbd' is not supported; disks can be read by "
    )
    with pytest.raises(InvalidDefinition, match="ceph: disk vda"):
        inventory.find("ceph")


def test_find(inventory: LibvirtInventory) -> None:
    web = inventory.find("web")
    assert inventory.find(web.uuid) == web
    with pytest.raises(MachineNotFound, match="no template web"):
        inventory.find("web", MachineKind.TEMPLATE)


def test_everything_is_the_same_the_next_time(uri: str) -> None:
    with contextlib.closing(LibvirtInventory(uri)) as one, contextlib.closing(LibvirtInventory(uri)) as other:
        assert one.snapshot() == other.snapshot()
        assert one.source_id == other.source_id
        assert one.cache_dir == other.cache_dir


def test_a_connection_that_cannot_be_made() -> None:
    with pytest.raises(SourceError, match=r"test:///missing\.xml: ") as caught:
        LibvirtInventory("test:///missing.xml")
    assert "virsh" in caught.value.hint


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "libvirt", None)
    with pytest.raises(SourceError, match="libvirt-python is missing") as caught:
        LibvirtInventory("test:///default")
    assert "ovafs[libvirt]" in caught.value.hint


def test_the_listing_stays_while_libvirt_is_away(
    inventory: LibvirtInventory, monkeypatch: pytest.MonkeyPatch, expect_log: Callable[[str], None]
) -> None:
    before = inventory.snapshot()
    inventory.connection.close()

    def away(_: str) -> None:
        raise libvirt.libvirtError("Failed to connect socket")

    with monkeypatch.context() as patched:
        patched.setattr(libvirt, "open", away)
        expect_log("the listing stays as it was")
        assert inventory.snapshot() == before
    monkeypatch.setattr(module, "RECONNECT_SECONDS", 0)
    assert inventory.snapshot() == before


def test_events_tell_of_changes() -> None:
    """In a process of its own: libvirt's loop of events runs as long as the process."""
    script = f"""
import libvirt, time
from ovafs.inventory.libvirt.inventory import LibvirtInventory
inventory = LibvirtInventory("test:///default")
first = inventory.revision()
names = [machine.name for machine in inventory.machines()]
libvirt.open("test:///default").defineXML({domain_xml("new")!r})
while inventory.revision()[0] == first[0]:
    time.sleep(0.01)
print(names, [machine.name for machine in inventory.machines()])
"""
    done = run(sys.executable, "-c", script)
    assert done.stdout == "['test'] ['new', 'test']\n"


@pytest.mark.parametrize("command", [("remove", "web"), ("add", "new", "--disk", "x.qcow2")])
def test_commands_that_are_for_pools(uri: str, command: tuple[str, ...]) -> None:
    verb, *rest = command
    said = ovafs("vm", verb, uri, *rest, status=1).stderr
    assert (
        said == f"ovafs: error: {uri}: what libvirt has is changed by its own tools; see virsh(1): define, undefine\n"
    )


def test_the_commands_take_a_uri(uri: str) -> None:
    assert [one["name"] for one in json.loads(ovafs("vm", "list", uri, "--json").stdout)] == ["base-12", "web"]
    shown = json.loads(ovafs("vm", "show", uri, "web", "--json").stdout)
    assert shown["memory"] == 128 << 20
    checked = ovafs("check", uri, status=1).stdout
    assert "web: ok" in checked
    assert "not in the .ova: cdrom drive sda (empty)" in checked
    assert "ceph: broken: its definition is damaged: disk vda cannot be read: the protocol 'rbd'" in checked
