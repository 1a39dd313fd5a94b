"""A mount of what libvirt holds: domains on real images, in libvirt's test driver."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from ovafs.inventory.libvirt.inventory import LibvirtInventory
from tests.support import processes
from tests.support.domains import domain_xml, write_node
from tests.support.mount import mounted
from tests.support.pools import MIB, Image, chain_image, judge_ova, raw_image
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
        before = run("sha256sum", mount.path / "vms" / "web.ova").stdout
    with mounted(uri, tmp_path) as mount:
        assert run("sha256sum", mount.path / "vms" / "web.ova").stdout == before


def test_an_export_of_a_domain(tmp_path: Path) -> None:
    image = raw_image(tmp_path / "db.raw", size=MIB)
    uri = write_node(tmp_path / "node.xml", [domain_xml("db", image)])
    ovafs("export", uri, "db", tmp_path / "db.ova")
    _judge(uri, "db", tmp_path / "db.ova", image)
