"""``ovafs check``: one line for each machine, in words; exit code 1 if anything is wrong."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
from typing import TYPE_CHECKING

import pytest

from ovafs.transfer.ingest.landing import PoolLanding
from tests.support.filesystems import loop_device
from tests.support.images import create, io, run
from tests.support.pools import Image, chain_image, pool_builder, raw_image
from tests.support.processes import end, ovafs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.pools import PoolBuilder

MIB = 1 << 20


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[PoolBuilder]:
    with pool_builder(tmp_path) as builder:
        yield builder


def bad_cluster(folder: Path) -> Image:
    """An image whose tables are well and whose only, compressed cluster does not inflate."""
    plain = create(folder / "plain.qcow2", MIB)
    io(plain, "write -P 1 0 64k")
    bad = folder / "bad.qcow2"
    run("qemu-img", "convert", "-q", "-c", "-O", "qcow2", "-f", "qcow2", plain, bad)
    with bad.open("r+b") as file:
        file.seek(5 << 16)
        file.write(b"\xff" * 200)
    return Image(bad, "qcow2")


def test_all_is_well(pool: PoolBuilder) -> None:
    pool.add("web", raw_image(pool.images / "a.raw"))
    pool.add("chain", chain_image(pool.images, "c"))
    pool.add("base", raw_image(pool.images / "b.raw"), kind="template")
    result = ovafs("check", pool.path)
    lines = [line.partition(",")[0] for line in result.stdout.splitlines()]
    assert lines == ["chain: ok", "web: ok", "base: ok"]
    assert result.stderr == ""


def test_an_empty_pool(pool: PoolBuilder) -> None:
    assert ovafs("check", pool.path).stdout == ""
    assert json.loads(ovafs("check", "--json", pool.path).stdout) == []


def test_everything_that_is_wrong_is_said(pool: PoolBuilder) -> None:
    pool.add("good", raw_image(pool.images / "good.raw"))
    missing = pool.add("missing", raw_image(pool.images / "missing.raw")).disks[0].volume.path
    chain = chain_image(pool.images, "c")
    pool.add("no-base", chain)
    cut = chain_image(pool.images, "cut", depth=2)
    pool.add("truncated", cut)
    (pool.images / "missing.raw").unlink()
    (pool.images / "c-1.raw").unlink()
    with cut.path.open("r+b") as file:
        file.truncate(100_000)
    result = ovafs("check", pool.path, status=1)
    lines = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert lines["good"].startswith("ok, ")
    assert lines["missing"] == (
        f"broken: {missing}: cannot be opened: No such file or directory;"
        " check that the path exists and that the user of ovafs may read it"
    )
    assert lines["no-base"].startswith(f"broken: {pool.images}/c-1.raw: cannot be opened: No such file or directory")
    assert "backing file of" in lines["no-base"]
    assert lines["truncated"].startswith(f"broken: {cut.path}: ")
    assert lines["truncated"].endswith("; check it with 'qemu-img check'")


def test_an_image_in_use(pool: PoolBuilder) -> None:
    image = chain_image(pool.images, "a", depth=2)
    pool.add("running", image)
    assert ovafs("check", pool.path).stdout.startswith("running: ok")  # what was known before does not count
    process = subprocess.Popen(
        ["qemu-io", "-f", "qcow2", image.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"read 0 512\n")
        while b"ops" not in process.stdout.readline():
            pass
        result = ovafs("check", pool.path, status=1)
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        end(process)
    assert result.stdout == (
        f"running: broken: {image.path}: another process writes to it;"
        " shut the machine down, or wait until the other program has finished\n"
    )


def test_a_block_device_is_warned_of(pool: PoolBuilder) -> None:
    image = raw_image(pool.images / "a.raw")
    with loop_device(image.path) as device:
        pool.add("web", Image(device, "raw"))
        result = ovafs("check", pool.path)
    assert result.stdout.startswith("web: ok, ")
    assert result.stdout.endswith(
        "; warning: a block device or a disk on the network can change unnoticed; keep the machine stopped\n"
    )


def test_reading_finds_what_the_tables_do_not_show(pool: PoolBuilder) -> None:
    pool.add("good", chain_image(pool.images, "a"))
    pool.add("rotten", bad_cluster(pool.images))
    assert ovafs("check", pool.path).stdout.count("ok,") == 2
    result = ovafs("check", "--read", pool.path, status=1)
    good, rotten = result.stdout.splitlines()
    assert good.startswith("good: ok, ")
    assert rotten.startswith(f"rotten: broken: {pool.images}/bad.qcow2: ")


def test_one_machine(pool: PoolBuilder) -> None:
    pool.add("good", raw_image(pool.images / "good.raw"))
    pool.add("bad", Image(pool.images / "missing.raw", "raw"))
    assert ovafs("check", pool.path, "good").stdout.startswith("good: ok")
    assert ovafs("check", pool.path, "bad", status=1).stdout.startswith("bad: broken: ")
    assert "there is no machine 'nobody'" in ovafs("check", pool.path, "nobody", status=1).stderr
    assert "--template needs a NAME" in ovafs("check", "--template", pool.path, status=2).stderr


def test_json(pool: PoolBuilder) -> None:
    good = pool.add("good", raw_image(pool.images / "good.raw"))
    bad = pool.add("bad", Image(pool.images / "missing.raw", "raw"))
    documents = json.loads(ovafs("check", "--json", pool.path, status=1).stdout)
    assert [document["name"] for document in documents] == ["bad", "good"]
    assert documents[0] == {
        "name": "bad",
        "uuid": bad.uuid,
        "kind": "vm",
        "ok": False,
        "reason": f"{pool.images}/missing.raw: cannot be opened: No such file or directory",
        "hint": "check that the path exists and that the user of ovafs may read it",
        "warning": "",
        "size": 0,
        "stored": 0,
    }
    assert (documents[1]["uuid"], documents[1]["ok"], documents[1]["reason"]) == (good.uuid, True, "")
    assert 3 * MIB < documents[1]["stored"] < documents[1]["size"]


def test_damaged_rows_of_the_catalog(pool: PoolBuilder) -> None:
    pool.add("good", raw_image(pool.images / "good.raw"))
    pool.add("odd", raw_image(pool.images / "odd.raw"))
    with contextlib.closing(sqlite3.connect(pool.path / "catalog.sqlite")) as catalog:
        catalog.execute("PRAGMA ignore_check_constraints = ON")
        catalog.execute("UPDATE machines SET memory = -5 WHERE name = 'odd'")
        catalog.commit()
    result = ovafs("check", pool.path, status=1)
    good, odd = result.stdout.splitlines()
    assert good.startswith("good: ok")
    assert odd.startswith("odd: broken: its definition is damaged: ")


def test_no_pool(tmp_path: Path) -> None:
    result = ovafs("check", tmp_path, status=1)
    assert result.stderr.startswith("ovafs: error: ")


def test_files_that_are_no_machines(pool: PoolBuilder) -> None:
    volumes = pool.path / "volumes"
    number = "0a000000-0000-4000-8000-000000000001"
    part, unused = volumes / f".{number}.part", volumes / "own.raw"
    part.write_bytes(b"x" * 8192)
    unused.write_bytes(b"y" * 4096)
    pool.add("web", Image(raw_image(volumes / "web.raw").path, "raw"))
    lines = ovafs("check", pool.path).stdout.splitlines()
    assert lines[0].startswith("web: ok, ")
    assert lines[1:] == [
        f"{part}: 8.00 KiB; warning: left by an interrupted import; --repair removes it",
        f"{unused}: 4.00 KiB; warning: no machine uses it",
    ]
    found = json.loads(ovafs("check", "--json", pool.path).stdout)[1:]
    assert [(one["name"], one["kind"], one["ok"], one["size"]) for one in found] == [
        (str(part), "file", True, 8192),
        (str(unused), "file", True, 4096),
    ]
    assert len(ovafs("check", pool.path, "web").stdout.splitlines()) == 1
    assert "no machine uses it" in ovafs("check", "--repair", pool.path).stdout
    assert sorted(path.name for path in volumes.iterdir()) == ["own.raw", "web.raw"]


def test_files_are_not_looked_at_while_an_import_runs(pool: PoolBuilder) -> None:
    (pool.path / "volumes" / "own.raw").write_bytes(b"y")
    with contextlib.closing(PoolLanding(pool.pool)):
        result = ovafs("check", pool.path)
    assert result.stdout == ""
    assert "an import runs, so unused files were not looked for" in result.stderr


def test_repair_is_for_a_pool_as_a_whole(pool: PoolBuilder) -> None:
    assert "--repair is for a whole pool" in ovafs("check", "--repair", pool.path, "web", status=2).stderr
