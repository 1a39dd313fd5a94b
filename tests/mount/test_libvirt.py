"""A mount of what libvirt holds: domains on real images, in libvirt's test driver."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from ovafs.inventory.libvirt.inventory import LibvirtInventory
from tests.support import processes
from tests.support.domains import domain_xml, write_node
from tests.support.mount import mounted
from tests.support.packages import archive, guest_bytes, small_package
from tests.support.pools import MIB, Image, chain_image, eventually, judge_ova, raw_image
from tests.support.processes import ovafs, run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setitem(processes.ENVIRONMENT, "XDG_STATE_HOME", str(tmp_path / "state"))


def _judge(uri: str, name: str, ova: Path, image: Image) -> None:
    with contextlib.closing(LibvirtInventory(uri)) as inventory:
        judge_ova(ova, inventory.find(name), [image])


def test_domains_are_shown_and_copied(tmp_path: Path) -> None:
    images = [chain_image(tmp_path, "web"), raw_image(tmp_path / "db.raw")]
    uri = write_node(
        tmp_path / "node.xml",
        [domain_xml("web", images[0]), domain_xml("db", images[1]), domain_xml("base"), domain_xml("old")],
    )
    with mounted(uri, tmp_path, "templates=base", "exclude=old") as mount:
        assert sorted(path.name for path in (mount.path / "vms").iterdir()) == ["db.ova", "web.ova"]
        assert [path.name for path in (mount.path / "templates").iterdir()] == ["base.ova"]
        assert not (mount.path / "drop").exists()
        for name, image in zip(("web", "db"), images, strict=True):
            run("cp", mount.path / "vms" / f"{name}.ova", tmp_path)
            _judge(uri, name, tmp_path / f"{name}.ova", image)
        assert ovafs("status", mount.path).stdout.startswith(f"{mount.path} ({uri}): mounted ")
        assert run("findmnt", "--noheadings", "--output", "SOURCE", mount.path).stdout.strip() == uri
        before = run("sha256sum", mount.path / "vms" / "web.ova").stdout
    with mounted(uri, tmp_path) as mount:
        assert run("sha256sum", mount.path / "vms" / "web.ova").stdout == before


def test_an_export_of_a_domain(tmp_path: Path) -> None:
    image = raw_image(tmp_path / "db.raw", size=MIB)
    uri = write_node(tmp_path / "node.xml", [domain_xml("db", image)])
    ovafs("export", uri, "db", tmp_path / "db.ova")
    _judge(uri, "db", tmp_path / "db.ova", image)


def test_a_drop_becomes_a_domain(tmp_path: Path) -> None:
    """The upload, its report and its receipt; the domain itself lives in the test driver of the mount's process."""
    images = tmp_path / "images"
    images.mkdir()
    uri = write_node(tmp_path / "node.xml", [domain_xml("old")], pool=images, networks=["default"])
    parts = small_package(macs=["52:54:00:11:22:33"])
    source = tmp_path / "web.ova"
    source.write_bytes(archive(parts))
    with mounted(uri, tmp_path) as mount:
        assert os.listdir(mount.path / "vms") == ["old.ova"]  # from now on events are listened to, by one connection
        run("cp", "-a", source, mount.path / "drop")
        report = (mount.path / "drop" / "web.ova.report.txt").read_text()
        assert "there is no network 'lan' here; adapter 52:54:00:11:22:33 is on 'default'" in report
        eventually((mount.path / "vms" / "web.ova").exists, "the domain is shown")
        run("cp", mount.path / "vms" / "web.ova", tmp_path / "again.ova")
        assert run("rsync", "-ai", source, f"{mount.path}/drop/").stdout == ""
        assert len(os.listdir(images)) == 2
    run("tar", "xf", tmp_path / "again.ova", "-C", tmp_path)
    disks = sorted(name for name in run("tar", "tf", tmp_path / "again.ova").stdout.split() if name != "vm.ovf")
    contents = {guest_bytes(str(tmp_path / name), "qcow2", tmp_path) for name in disks}
    assert contents == {parts["a.raw"], parts["b.raw"]}


def test_a_mount_with_no_place_for_uploads(tmp_path: Path) -> None:
    uri = write_node(tmp_path / "node.xml", [domain_xml("old")])
    (tmp_path / "mnt").mkdir()
    result = ovafs("mount", uri, tmp_path / "mnt", "-o", "pool=images", status=3)
    assert "has no storage pool 'images'; there are: none" in result.stderr
    with mounted(uri, tmp_path) as mount:
        assert "the mount has no drop directory" in mount.log()
        assert sorted(path.name for path in mount.path.iterdir()) == ["templates", "vms"]
