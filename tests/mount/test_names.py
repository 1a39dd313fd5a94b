"""Names of machines as names of files: safe, unique, steady, and the same machine inside."""

from __future__ import annotations

import os
import sqlite3
import unicodedata
from typing import TYPE_CHECKING

from lxml import etree

from tests.support.mount import mounted
from tests.support.processes import run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.pools import PoolBuilder

NAMES = {
    "plain": "plain.ova",
    "two words": "two words.ova",
    "a & b <c> \"d\" 'e'": "a & b <c> \"d\" 'e'.ova",
    "服务器-测试": "服务器-测试.ova",
    "emoji 🚀": "emoji 🚀.ova",
    "cafe\u0301": "café.ova",
    "a/b": "a_b.ova",
    "../../etc/passwd": "_._.._etc_passwd.ova",
    ".hidden": "_hidden.ova",
    ".": "_.ova",
    "..": "_..ova",
    "-rf": "-rf.ova",
    "new%20line\\n": "new%20line\\n.ova",
    "x" * 255: "x" * 251 + ".ova",
    "ü" * 255: "ü" * 125 + ".ova",
}


def shown(folder: Path) -> set[str]:
    return set(os.listdir(folder))


def ovf_name(ova: Path) -> str | None:
    """The machine's name as GNU tar and an XML parser find it in the file."""
    ovf = run("tar", "-xOf", ova, "vm.ovf").stdout
    return etree.fromstring(ovf.encode()).findtext(".//{*}VirtualSystem/{*}Name") or etree.fromstring(
        ovf.encode()
    ).findtext(".//{*}Content/{*}Name")


def test_names_are_safe_and_the_machine_keeps_its_own(pool: PoolBuilder, tmp_path: Path) -> None:
    for name in NAMES:
        pool.add(name)
    with mounted(pool.path, tmp_path) as mount:
        vms = mount.path / "vms"
        listed = shown(vms)
        assert all(len(name.encode()) <= 255 and "/" not in name and not name.startswith(".") for name in listed)
        assert all(unicodedata.is_normalized("NFC", name) for name in listed)
        assert len(listed) == len(NAMES)
        for name, file in NAMES.items():
            if file in listed:  # otherwise its name clashed and carries its id
                assert os.getxattr(vms / file, "user.ovafs.id").decode() == pool.pool.find(name).uuid
            assert ovf_name(vms / file) == name
        run("cp", "-r", vms, tmp_path / "copy")
        assert shown(tmp_path / "copy") == listed


def test_equal_names_are_all_told_apart_by_the_id(pool: PoolBuilder, tmp_path: Path) -> None:
    machines = [pool.add(name) for name in ("a/b", "a_b", "A_B", "other")]
    expected = {f"a_b~{machines[0].uuid[:8]}.ova", f"a_b~{machines[1].uuid[:8]}.ova", f"A_B~{machines[2].uuid[:8]}.ova"}
    with mounted(pool.path, tmp_path) as mount:
        assert shown(mount.path / "vms") == {*expected, "other.ova"}
        for machine, file in zip(machines, sorted(expected, key=lambda name: name.encode()), strict=False):
            assert (mount.path / "vms" / file).stat().st_size > 0
            assert machine.uuid


def test_a_vm_and_a_template_may_have_the_same_name(pool: PoolBuilder, tmp_path: Path) -> None:
    vm, template = pool.add("web"), pool.add("web", kind="template")
    with mounted(pool.path, tmp_path) as mount:
        for folder, machine in (("vms", vm), ("templates", template)):
            assert shown(mount.path / folder) == {"web.ova"}
            assert os.getxattr(mount.path / folder / "web.ova", "user.ovafs.id").decode() == machine.uuid
        assert run("tar", "-tf", mount.path / "templates" / "web.ova").stdout == "template.ovf\n"


def test_a_pool_with_an_odd_path_can_be_mounted(pool: PoolBuilder, tmp_path: Path) -> None:
    odd = tmp_path / "a, b\\c ü=\n x"
    pool.add("one")
    os.rename(pool.path, odd)
    with mounted(odd, tmp_path) as mount:
        assert shown(mount.path / "vms") == {"one.ova"}


def test_ten_thousand_names_are_listed_once_each(pool: PoolBuilder, tmp_path: Path) -> None:
    pool.add("model")
    with sqlite3.connect(pool.path / "catalog.sqlite") as catalog:
        columns = "kind, description, memory, sockets, cores, threads, firmware, os, created, modified"
        number = "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 9999)"
        values = f"SELECT printf('00000000-0000-4000-8000-%012d', n), printf('vm %05d', n), {columns}"
        catalog.execute(f"{number} INSERT INTO machines (uuid, name, {columns}) {values} FROM machines, number")
    catalog.close()
    with mounted(pool.path, tmp_path) as mount:
        listed = os.listdir(mount.path / "vms")
        assert len(listed) == len(set(listed)) == 10_000
        assert run("ls", "-l", mount.path / "vms").stdout.count(".ova\n") == 10_000
