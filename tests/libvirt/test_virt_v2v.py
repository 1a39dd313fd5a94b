"""virt-v2v, whose reader of OVAs is none of oVirt's and none of ours, reads what a mount shows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from ovafs.model import CpuTopology
from tests.support.definitions import nic
from tests.support.mount import mounted
from tests.support.pools import chain_image, pool_builder, raw_image
from tests.support.processes import run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.libvirt

# libguestfs is not started for this, but looked for.
ENVIRONMENT = {"LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}


def test_virt_v2v_reads_what_is_shown(tmp_path: Path) -> None:
    with pool_builder(tmp_path) as builder:
        images = [raw_image(builder.images / "a.raw"), chain_image(builder.images, "b")]
        builder.add("web", *images)
        machine = builder.change(
            "web",
            memory=3 << 30,
            cpu=CpuTopology(sockets=2, cores=3),
            nics=(nic("web", 1, "52:54:00:00:00:01"),),
        )
        with mounted(builder.path, tmp_path) as mount:
            source = mount.path / "vms" / "web.ova"
            said = run("virt-v2v", "-i", "ova", source, "--print-source", env=ENVIRONMENT).stdout
    found = {key: value.strip() for key, value in re.findall(r"^ *([^:\n]+): ?(.*)$", said, re.MULTILINE)}
    assert found["source name"] == machine.name
    assert found["memory"] == f"{machine.memory} (bytes)"
    assert found["nr vCPUs"] == "6"
    assert found["firmware"] == "bios"
    disks = said[said.index("disks:") : said.index("removable media:")].split()[1:]
    assert disks == ["0", "1"]
    assert machine.nics[0].network in said[said.index("NICs:") :]
