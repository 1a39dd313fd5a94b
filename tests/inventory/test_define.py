"""Definitions from what users choose: defaults, limits, and what is refused."""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import time
import uuid
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from ovafs.errors import ImageUnavailable, InvalidDefinition
from ovafs.inventory.define import DiskChoice, NicChoice, define_machine, image_path
from ovafs.inventory.rules import check_machine, check_name, parse_mac
from ovafs.model import CpuTopology, DiskFormat, DiskInterface, Machine, NicModel
from ovafs.units import GIB, MIB
from tests.support.definitions import machine, rich_machine

if TYPE_CHECKING:
    from pathlib import Path


def image(folder: Path, name: str) -> str:
    (folder / name).touch()
    return str(folder / name)


def test_defaults() -> None:
    before = int(time.time())
    made = define_machine("web")
    assert before <= made.created == made.modified <= time.time()
    assert str(uuid.UUID(made.uuid)) == made.uuid
    assert made == Machine(uuid=made.uuid, name="web", memory=GIB, created=made.created, modified=made.created)


def test_disks(tmp_path: Path) -> None:
    first = DiskChoice(image(tmp_path, "a"), DiskFormat.QCOW2)
    second = DiskChoice(image(tmp_path, "b"), DiskFormat.RAW, DiskInterface.SATA)
    made = define_machine("web", disks=[first, second])
    assert [(disk.alias, disk.interface, disk.boot) for disk in made.disks] == [
        ("web_Disk1", "virtio", True),
        ("web_Disk2", "sata", False),
    ]
    assert [(disk.volume.path, disk.volume.format) for disk in made.disks] == [
        (first.path, "qcow2"),
        (second.path, "raw"),
    ]
    assert len({disk.uuid for disk in made.disks} | {disk.volume.uuid for disk in made.disks}) == 4


def test_the_alias_of_a_long_name_fits(tmp_path: Path) -> None:
    made = define_machine("x" * 255, disks=[DiskChoice(image(tmp_path, "a"), DiskFormat.RAW)])
    assert made.disks[0].alias.endswith("x_Disk1")


def test_an_image_is_one_disk_under_any_name(tmp_path: Path) -> None:
    path = image(tmp_path, "a")
    os.link(path, tmp_path / "b")
    for other in (path, str(tmp_path / "b")):
        with pytest.raises(InvalidDefinition, match="are the same image; each disk needs an image of its own"):
            define_machine("web", disks=[DiskChoice(path, DiskFormat.RAW), DiskChoice(other, DiskFormat.RAW)])


def test_nics() -> None:
    made = define_machine("web", nics=[NicChoice("lan"), NicChoice("", NicModel.E1000, "52-54-00-AB-CD-EF")])
    assert [(nic.name, nic.network, nic.model) for nic in made.nics] == [
        ("nic1", "lan", "virtio"),
        ("nic2", "", "e1000"),
    ]
    assert re.fullmatch("52:54:00(:[0-9a-f]{2}){3}", made.nics[0].mac)
    assert made.nics[1].mac == "52:54:00:ab:cd:ef"


def test_generated_mac_addresses_avoid_those_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter(bytes([0, 0, last]) for last in (1, 1, 2, 2, 3, 4))
    monkeypatch.setattr(secrets, "token_bytes", lambda _: next(values))
    given_later = NicChoice("lan", mac="52:54:00:00:00:03")
    made = define_machine("web", nics=[NicChoice("a"), NicChoice("b"), given_later], used_macs={"52:54:00:00:00:01"})
    assert [nic.mac[-2:] for nic in made.nics] == ["02", "04", "03"]


def test_one_mac_address_twice() -> None:
    nics = [NicChoice("a", mac="52:54:00:00:00:01"), NicChoice("b", mac="52:54:00:00:00:01")]
    with pytest.raises(InvalidDefinition, match="the MAC address 52:54:00:00:00:01 is used twice"):
        define_machine("web", nics=nics)


@pytest.mark.parametrize("mac", ["", "52:54:00:00:00", "52:54:00:00:00:0g", "52:54:00:00:00:01:02", "525400000001"])
def test_what_is_no_mac_address(mac: str) -> None:
    with pytest.raises(InvalidDefinition, match="is not a MAC address; write it as 52:54:00:12:34:56"):
        parse_mac(mac)


def test_a_multicast_address() -> None:
    with pytest.raises(InvalidDefinition, match="03:00:00:00:00:01 is a multicast address"):
        parse_mac("03:00:00:00:00:01")


@pytest.mark.parametrize("memory", [MIB, 4 * GIB, 64 << 40])
def test_memory(memory: int) -> None:
    assert define_machine("web", memory=memory).memory == memory


@pytest.mark.parametrize("memory", [0, -MIB, MIB - 1, MIB + 512, (64 << 40) + MIB])
def test_memory_out_of_range(memory: int) -> None:
    with pytest.raises(InvalidDefinition, match=r"cannot be; give a multiple of 1 MiB, at most 64\.0 TiB"):
        define_machine("web", memory=memory)


@pytest.mark.parametrize("cpu", [(0, 1, 1), (1, 0, 1), (1, 1, -2), (64, 64, 2), (-1, -1, 1)])
def test_cpus_out_of_range(cpu: tuple[int, int, int]) -> None:
    sockets, cores, threads = cpu
    with pytest.raises(InvalidDefinition, match="each must be at least 1, and their product at most 4096"):
        define_machine("web", cpu=CpuTopology(sockets=sockets, cores=cores, threads=threads))


@pytest.mark.parametrize("name", ["web", "a b", "..", "a/b", "ÄÖ 数据 👩‍💻", "-rf", "x" * 255, "&<>\"'"])
def test_names(name: str) -> None:
    assert define_machine(name).name == name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "the name is empty"),
        (" \u3000 ", "the name is empty"),
        ("x" * 256, "the name has 256 characters; the limit is 255"),
        ("a\nb", r"the name 'a\\nb' contains the character U\+000A, which is not allowed here"),
        ("a\0", r"U\+0000"),
        ("a\x85", r"U\+0085"),
        ("a\u2028", r"U\+2028"),
        ("a\ufffe", r"U\+FFFE"),
        ("caf\udce9", r"the name 'caf\\udce9' contains the byte 0xe9, which is not UTF-8"),
    ],
)
def test_names_that_are_refused(name: str, reason: str) -> None:
    with pytest.raises(InvalidDefinition, match=reason):
        define_machine(name)


def test_descriptions() -> None:
    assert define_machine("web", description="one\r\ntwo\n\tthree").description == "one\ntwo\n\tthree"
    for text, reason in (("\x1b[0m", "contains the character"), ("x" * 65537, "longer than 65536 characters")):
        with pytest.raises(InvalidDefinition, match=reason):
            define_machine("web", description=text)


@given(st.text(st.characters(codec=None), max_size=300))
def test_every_accepted_name_survives_xml_and_json(name: str) -> None:
    try:
        check_name(name)
    except InvalidDefinition as error:
        str(error).encode()
        return
    element = etree.Element("name")
    element.text = name
    assert etree.fromstring(etree.tostring(element)).text == name
    assert json.loads(json.dumps(name, ensure_ascii=False).encode()) == name


def test_every_field_is_checked() -> None:
    """Text of every field that holds text refuses what XML cannot carry."""
    rich = rich_machine()
    check_machine(rich)
    bad = "\x01"
    disk, nic = rich.disks[0], rich.nics[0]
    broken = [msgspec.structs.replace(rich, **{field: bad}) for field in ("uuid", "name", "description", "os")]
    broken += [
        msgspec.structs.replace(rich, disks=(msgspec.structs.replace(disk, **{field: bad}),))
        for field in ("uuid", "alias")
    ]
    broken += [
        msgspec.structs.replace(
            rich, disks=(msgspec.structs.replace(disk, volume=msgspec.structs.replace(disk.volume, **{field: bad})),)
        )
        for field in ("uuid", "path")
    ]
    broken += [
        msgspec.structs.replace(rich, nics=(msgspec.structs.replace(nic, **{field: bad}),))
        for field in ("uuid", "name", "network", "mac")
    ]
    for one in broken:
        with pytest.raises(InvalidDefinition):
            check_machine(one)


def test_too_many_devices() -> None:
    disk = machine("a").disks[0]
    with pytest.raises(InvalidDefinition, match="1025 disks are too many"):
        check_machine(machine("a", disks=(disk,) * 1025))


class TestImagePath:
    def test_links_are_resolved(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "real").mkdir()
        path = image(tmp_path / "real", "a")
        (tmp_path / "folder").symlink_to("real")
        (tmp_path / "link").symlink_to("folder/a")
        monkeypatch.chdir(tmp_path)
        assert [image_path(name) for name in ("link", "folder/../real/a", "./real//a", path)] == [path] * 4

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(ImageUnavailable, match="no: No such file or directory; check that the path exists"):
            image_path(str(tmp_path / "no"))

    def test_links_in_a_circle(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to("a")
        with pytest.raises(ImageUnavailable, match=r"circle|Too many levels"):
            image_path(str(tmp_path / "a"))

    def test_names_that_are_not_text(self, tmp_path: Path) -> None:
        for name in ("a\udcff", "a\nb"):
            with pytest.raises(InvalidDefinition, match="rename the file or its directory"):
                image_path(image(tmp_path, name))

    def test_block_devices_keep_the_name_that_lasts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        device = image(tmp_path, "dm-3")
        (tmp_path / "mapper").mkdir()
        (tmp_path / "folder").symlink_to("mapper")
        (tmp_path / "mapper" / "vg-root").symlink_to(device)
        monkeypatch.setattr(stat, "S_ISBLK", lambda _: True)
        assert image_path(str(tmp_path / "folder" / "vg-root")) == str(tmp_path / "mapper" / "vg-root")
        assert image_path(device) == device
