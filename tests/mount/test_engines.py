"""Mounts of machines on disks that QEMU reads: copied, judged, and their processes counted."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from ovafs.inventory.libvirt.inventory import LibvirtInventory
from tests.support import processes, vmdk
from tests.support.domains import domain_xml, write_node
from tests.support.engines import FORMATS, foreign_image, is_running, wait_until
from tests.support.images import create, encrypted, io
from tests.support.mount import mounted
from tests.support.network_disks import nbd_tcp
from tests.support.oracles import assert_same_disk, check_qcow2
from tests.support.pools import MIB, Image, judge_ova, raw_image
from tests.support.processes import ovafs, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.mount import Mount
    from tests.support.pools import PoolBuilder


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("run")
    monkeypatch.setitem(processes.ENVIRONMENT, "XDG_RUNTIME_DIR", str(folder))
    yield folder / "ovafs"
    assert not (folder / "ovafs").exists() or os.listdir(folder / "ovafs") == []


def status(mount: Mount) -> Any:
    return json.loads((mount.path / ".ovafs" / "status.json").read_bytes())


def engines(mount: Mount) -> list[dict[str, Any]]:
    return list(status(mount)["engines"])


def test_machines_on_every_format(pool: PoolBuilder, tmp_path: Path) -> None:
    for form in FORMATS:
        pool.add(form, Image(foreign_image(pool.images, form), form))
    pool.add("both", *pool.disks["vmdk"], raw_image(pool.images / "a.raw"), *pool.disks["vdi"])
    with mounted(pool.path, tmp_path) as mount:
        sizes = {path.name: path.stat().st_size for path in (mount.path / "vms").iterdir()}
        assert len(sizes) == len(FORMATS) + 1
        for name in (*FORMATS, "both"):
            run("cp", mount.path / "vms" / f"{name}.ova", tmp_path)
            assert (tmp_path / f"{name}.ova").stat().st_size == sizes[f"{name}.ova"]
            pool.judge(name, tmp_path / f"{name}.ova")
        pids = {engine["pid"] for engine in engines(mount)}
        wait_until(lambda: not engines(mount) and not any(map(is_running, pids)))
        run("ls", "-l", mount.path / "vms")
        assert engines(mount) == []  # what is known needs no process
    with mounted(pool.path, tmp_path) as mount:
        assert {path.name: path.stat().st_size for path in (mount.path / "vms").iterdir()} == sizes
        assert engines(mount) == []


def test_exports_and_checks(pool: PoolBuilder, tmp_path: Path) -> None:
    for form in FORMATS:
        image = foreign_image(pool.images, form)
        ovafs("vm", "add", pool.path, form, "--disk", f"{image},format={form}")
        pool.disks[form] = [Image(image, form)]
        shown = json.loads(ovafs("vm", "show", pool.path, form, "--json").stdout)
        assert shown["disks"][0]["volume"]["format"] == form
        ovafs("export", pool.path, form, tmp_path / f"{form}.ova")
        pool.judge(form, tmp_path / f"{form}.ova")
    found = json.loads(ovafs("check", pool.path, "--read", "--json").stdout)
    assert {one["name"]: one["ok"] for one in found} == dict.fromkeys(FORMATS, True)
    assert all(one["stored"] > MIB for one in found)


def test_an_encrypted_image_and_one_with_a_data_file(pool: PoolBuilder, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret")
    locked = encrypted(pool.images / "locked.qcow2", "4M")
    words = f"driver=qcow2,encrypt.key-secret=key,file.filename={locked}"
    run("qemu-io", "--object", "secret,id=key,data=secret", "--image-opts", "-c", "write -P 7 1M 1M", words)
    split = create(pool.images / "split.qcow2", 4 * MIB, data_file=str(pool.images / "data"))
    io(split, "write -P 9 2M 1M")
    refused = ovafs("vm", "add", pool.path, "web", "--disk", locked, status=1)
    assert "encryption of a disk whose passphrase is not known; say in which file it is" in refused.stderr
    ovafs("vm", "add", pool.path, "web", "--disk", f"{locked},secret={key}", "--disk", split)
    shown = json.loads(ovafs("vm", "show", pool.path, "web", "--json").stdout)
    assert [disk["volume"].get("secret") for disk in shown["disks"]] == [str(key), None]
    with mounted(pool.path, tmp_path) as mount:
        run("cp", mount.path / "vms" / "web.ova", tmp_path)
    run("tar", "xf", tmp_path / "web.ova", "-C", tmp_path)
    plain, copy = (tmp_path / disk["volume"]["uuid"] for disk in shown["disks"])
    check_qcow2(plain)
    assert_same_disk(split, copy, "qcow2", "qcow2")
    run("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 7 1M 1M", "-c", "read -P 0 0 1M", "-c", "read -P 0 2M 2M", plain)


def test_readers_share_a_process(pool: PoolBuilder, tmp_path: Path) -> None:
    image = foreign_image(pool.images, "vdi")
    pool.add("web", Image(image, "vdi"))
    with mounted(pool.path, tmp_path) as mount:
        ova = mount.path / "vms" / "web.ova"
        with ova.open("rb") as one, ova.open("rb") as other:
            (engine,) = engines(mount)
            assert engine == {"path": str(image), "pid": engine["pid"], "readers": 1}  # two handles, one open package
            assert one.read() == other.read()
            assert f"read by QEMU: {image}, process {engine['pid']}, readers: 1" in ovafs("status", mount.path).stdout
            assert [one["pid"] for one in engines(mount)] == [engine["pid"]]
            busy = run("qemu-io", "-f", "vdi", "-c", "write 0 512", image, status=None)
            assert 'Failed to get "write" lock' in busy.stderr
        wait_until(lambda: not is_running(engine["pid"]))
        assert engines(mount) == []


def test_a_process_that_is_killed_while_a_file_is_copied(pool: PoolBuilder, tmp_path: Path) -> None:
    pool.add("web", Image(foreign_image(pool.images, "vmdk", 32 * MIB), "vmdk"))
    with mounted(pool.path, tmp_path, "read_ahead=0") as mount:
        mount.expect_log("qemu-nbd was ended by SIGKILL.*; it is started again")
        with (
            (mount.path / "vms" / "web.ova").open("rb", buffering=0) as source,
            (tmp_path / "web.ova").open("wb") as copy,
        ):
            copy.write(source.read(MIB))
            (engine,) = engines(mount)
            os.kill(engine["pid"], signal.SIGKILL)
            while piece := source.read(MIB):
                copy.write(piece)
        pool.judge("web", tmp_path / "web.ova")


def test_an_image_that_changes_under_an_open_file(pool: PoolBuilder, tmp_path: Path) -> None:
    image = foreign_image(pool.images, "vpc")
    pool.add("web", Image(image, "vpc"))
    with mounted(pool.path, tmp_path, "read_ahead=0") as mount:
        mount.expect_log("the file changed while it was in use")
        with (mount.path / "vms" / "web.ova").open("rb", buffering=0) as file:
            assert len(file.read(4096)) == 4096
            with image.open("r+b") as other:
                other.seek(1 << 20)
                other.write(b"changed")
            file.seek(-MIB, os.SEEK_END)
            with pytest.raises(OSError, match="Stale file handle"):
                file.read(MIB)


def test_a_killed_mount_leaves_nothing_that_runs(pool: PoolBuilder, tmp_path: Path, runtime: Path) -> None:
    pool.add("web", Image(foreign_image(pool.images, "vmdk"), "vmdk"))
    with mounted(pool.path, tmp_path) as mount:
        held = os.open(mount.path / "vms" / "web.ova", os.O_RDONLY)
        (engine,) = engines(mount)
        assert is_running(engine["pid"])
        mount.kill()
        with contextlib.suppress(OSError):  # nobody answers
            os.close(held)
        wait_until(lambda: not is_running(engine["pid"]))
    assert len(os.listdir(runtime)) == 1
    with mounted(pool.path, tmp_path):
        assert os.listdir(runtime) == []


def test_domains_of_libvirt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(processes.ENVIRONMENT, "XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    images = [Image(foreign_image(tmp_path, form), form) for form in ("vmdk", "vdi", "vpc")]
    uri = write_node(tmp_path / "node.xml", [domain_xml("web", *images)])
    with mounted(uri, tmp_path) as mount:
        run("cp", mount.path / "vms" / "web.ova", tmp_path)
        assert len(engines(mount)) == 3
    with contextlib.closing(LibvirtInventory(uri)) as inventory:
        judge_ova(tmp_path / "web.ova", inventory.find("web"), images)


def test_disks_on_the_network(pool: PoolBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(processes.ENVIRONMENT, "XDG_STATE_HOME", str(tmp_path / "state"))
    image = raw_image(pool.images / "a.raw")
    with nbd_tcp(image.path) as location:
        ovafs("vm", "add", pool.path, "web", "--disk", location)
        pool.disks["web"] = [image]
        refused = ovafs("vm", "add", pool.path, "two", "--disk", f"{location},format=qcow2", status=1)
        assert "unsupported: format qcow2 on the network" in refused.stderr
        assert (
            "the protocol 'rbd' is not supported"
            in ovafs("vm", "add", pool.path, "x", "--disk", "rbd://h/p/i", status=1).stderr
        )
        (found,) = json.loads(ovafs("check", pool.path, "--read", "--json").stdout)
        assert found["ok"]
        assert "a disk on the network can change unnoticed" in found["warning"]
        with mounted(pool.path, tmp_path) as mount:
            run("cp", mount.path / "vms" / "web.ova", tmp_path)
            pool.judge("web", tmp_path / "web.ova")
        host, port = location.removeprefix("nbd://").partition("/")[0].split(":")
        source = f"<source protocol='nbd' name='disk 1'><host name='{host}' port='{port}'/></source>"
        device = (
            f"<disk type='network' device='disk'><driver name='qemu' type='raw'/>{source}<target dev='vda'/></disk>"
        )
        uri = write_node(tmp_path / "node.xml", [domain_xml("net", devices=device)])
        ovafs("export", uri, "net", tmp_path / "net.ova")
        run("tar", "xf", tmp_path / "net.ova", "-C", tmp_path)
        (name,) = set(run("tar", "tf", tmp_path / "net.ova").stdout.split()) - {"vm.ovf"}
        assert_same_disk(image.path, tmp_path / name, "raw", "qcow2")
    with mounted(pool.path, tmp_path) as mount:
        mount.expect_log(f"web: {location}: QEMU cannot read it: .*refused")
        with pytest.raises(OSError, match="Input/output error"):
            (mount.path / "vms" / "web.ova").stat()


def test_a_hostile_image_harms_its_machine_alone(pool: PoolBuilder, tmp_path: Path) -> None:
    evil = pool.images / "evil.vmdk"
    evil.write_bytes(vmdk.descriptor("monolithicFlat", 'RW 2 FLAT "/etc/shadow" 0'))
    pool.add("evil", Image(evil, "vmdk"))
    pool.add("good", Image(foreign_image(pool.images, "vmdk"), "vmdk"))
    with mounted(pool.path, tmp_path) as mount:
        mount.expect_log("evil.vmdk: unsupported: VMDK extent '/etc/shadow', which is not a bare file name")
        with pytest.raises(OSError, match="Operation not supported"):
            (mount.path / "vms" / "evil.ova").read_bytes()
        run("cp", mount.path / "vms" / "good.ova", tmp_path)
        pool.judge("good", tmp_path / "good.ova")
    found = {one["name"]: one for one in json.loads(ovafs("check", pool.path, "--json", status=1).stdout)}
    assert found["good"]["ok"]
    assert "VMDK" in found["evil"]["reason"]
