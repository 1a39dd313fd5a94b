"""``ovafs import`` as users run it: words, options, exit codes, signals, pipes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING

import pytest

from tests.support import signing
from tests.support.filesystems import in_memory
from tests.support.packages import (
    DiskText,
    archive,
    content,
    descriptor,
    guest_bytes,
    import_pool,
    manifest,
    small_package,
)
from tests.support.pools import eventually
from tests.support.processes import ENVIRONMENT, end, ovafs
from tests.support.signing import Authority, signed_package

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.packages import ImportPool

MIB = 1 << 20
UUID = "0f0e0d0c-0b0a-4908-8706-050403020100"
MAC = "52:54:00:00:00:01"


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[ImportPool]:
    with import_pool(tmp_path / "pool") as opened:
        yield opened


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package of two disks, with a manifest."""
    path = tmp_path / "appliance.ova"
    parts = small_package(uuid=UUID, macs=[MAC])
    path.write_bytes(archive({**parts, "web.mf": manifest(parts)}))
    return path


def test_a_file(pool: ImportPool, package: Path, tmp_path: Path) -> None:
    result = ovafs("import", pool.path, package)
    assert (result.stdout, result.stderr) == (f"imported vm web ({UUID})\n", "")
    machine = pool.pool.find("web")
    assert (machine.memory, machine.nics[0].mac, machine.nics[0].network) == (512 * MIB, MAC, "lan")
    disks = [guest_bytes(disk.volume.path, "qcow2", tmp_path) for disk in machine.disks]
    assert disks == [small_package()["a.raw"], small_package()["b.raw"]]
    assert oct(os.stat(machine.disks[0].volume.path).st_mode & 0o777) == "0o600"
    pool.assert_whole(1)
    assert "web" in ovafs("vm", "list", pool.path).stdout
    ovafs("check", pool.path)


def test_a_clash_is_said(pool: ImportPool, package: Path) -> None:
    ovafs("import", pool.path, package)
    result = ovafs("import", pool.path, package)
    new = pool.pool.find("web-2")
    assert result.stdout == f"imported vm web-2 ({new.uuid})\n"
    assert result.stderr.splitlines() == [
        "ovafs: warning: the name is taken; the machine is called 'web-2'",
        f"ovafs: warning: the UUID {UUID} is taken; the machine has a new one",
        f"ovafs: warning: adapter 'nic1': the MAC address {MAC} is taken; it has {new.nics[0].mac}",
    ]


def test_a_pipe(pool: ImportPool, package: Path) -> None:
    command = [sys.executable, "-m", "ovafs", "import", str(pool.path), "-"]
    with subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        data = package.read_bytes()
        for start in range(0, len(data), 50_001):
            process.stdin.write(data[start : start + 50_001])
            process.stdin.flush()
        process.stdin.close()
        assert process.stdout.read() == f"imported vm web ({UUID})\n".encode()
    assert process.returncode == 0
    pool.assert_whole(1)


def test_options(pool: ImportPool, package: Path) -> None:
    options = ["--name", "new ü", "--format", "raw", "--memory", "2GiB", "--map-network", "lan=wan", "--template"]
    result = ovafs("import", "--json", *options, "--map-network", "x=y", pool.path, package)
    document = json.loads(result.stdout)
    assert document.keys() == {"machines", "warnings"}
    assert document["warnings"] == ["no adapter is on the network 'x' that is mapped; the package has: 'lan'"]
    assert document["machines"] == [json.loads(ovafs("vm", "show", "--json", "--template", pool.path, "new ü").stdout)]
    machine = document["machines"][0]
    assert (machine["name"], machine["kind"], machine["memory"]) == ("new ü", "template", 2 << 30)
    assert machine["nics"][0]["network"] == "wan"
    assert {disk["volume"]["format"] for disk in machine["disks"]} == {"raw"}
    pool.assert_whole(1)


def test_every_choice(pool: ImportPool, package: Path) -> None:
    ovafs("import", pool.path, package)
    options = ["--description", "a\nb", "--os", "debian12", "--sockets", "2", "--cores", "3", "--threads", "2"]
    options += ["--firmware", "uefi", "--vm", "--network", "other", "--mac", "new", "--uuid", "new"]
    options += ["--name", "second", "--disk", "b.raw,format=raw,interface=virtio", "--disk", "1,interface=ide"]
    document = json.loads(ovafs("import", "--json", *options, pool.path, package).stdout)
    assert document["warnings"] == []
    (machine,) = document["machines"]
    assert (machine["description"], machine["os"], machine["firmware"]) == ("a\nb", "debian12", "uefi")
    assert machine["cpu"] == {"sockets": 2, "cores": 3, "threads": 2}
    assert (machine["kind"], machine["nics"][0]["network"]) == ("vm", "other")
    assert machine["uuid"] != UUID
    assert machine["nics"][0]["mac"] != MAC
    disks = [(disk["interface"], disk["volume"]["format"]) for disk in machine["disks"]]
    assert disks == [("ide", "qcow2"), ("virtio", "raw")]
    raw = machine["disks"][1]["volume"]["path"]
    with open(raw, "rb") as file:
        assert file.read() == small_package()["b.raw"]
    pool.assert_whole(2)


def test_a_clash_is_refused_before_a_disk_is_read(pool: ImportPool, package: Path) -> None:
    ovafs("import", pool.path, package)
    package.write_bytes(package.read_bytes()[:5000])  # the descriptor alone: nothing behind it is needed
    for more in ((), ("--dry-run",)):
        result = ovafs("import", "--on-clash", "refuse", *more, pool.path, package, status=1)
        assert result.stderr == (
            "ovafs: error: the name 'web' is taken by another vm;"
            " choose another name, remove the other machine, or let clashes get a suffix\n"
        )
    pool.assert_whole(1)


def test_a_dry_run_makes_the_same_machines_from_a_pipe(pool: ImportPool, package: Path) -> None:
    command = [sys.executable, "-m", "ovafs", "import", "--dry-run", "--json", "--disk", "2,interface=ide"]
    with package.open("rb") as data, subprocess.Popen(["cat"], stdin=data, stdout=subprocess.PIPE) as cat:
        done = subprocess.run(
            [*command, str(pool.path), "-"], env=ENVIRONMENT, stdin=cat.stdout, capture_output=True, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")
    would = json.loads(done.stdout)
    pool.assert_whole()
    done_now = json.loads(ovafs("import", "--json", "--disk", "2,interface=ide", pool.path, package).stdout)
    for document in (would, done_now):
        (machine,) = document["machines"]
        for disk in machine["disks"]:
            del disk["uuid"], disk["volume"]["uuid"], disk["volume"]["path"]
        del machine["created"], machine["modified"], machine["nics"][0]["uuid"]
    assert would == done_now


def test_dry_run(pool: ImportPool, package: Path) -> None:
    before = (pool.path / "catalog.sqlite").read_bytes()
    result = ovafs("import", "--dry-run", pool.path, package)
    assert (result.stdout, result.stderr) == (f"would import vm web ({UUID})\n", "")
    document = json.loads(ovafs("import", "--dry-run", "--json", pool.path, package).stdout)
    assert [machine["name"] for machine in document["machines"]] == ["web"]
    damaged = bytearray(package.read_bytes())
    damaged[100_000] ^= 1
    package.write_bytes(damaged)
    result = ovafs("import", "--dry-run", pool.path, package, status=1)
    assert "SHA256 digest is not the one in the manifest" in result.stderr
    assert (pool.path / "catalog.sqlite").read_bytes() == before
    pool.assert_whole()


def test_a_package_without_a_name_is_called_as_its_file(pool: ImportPool, tmp_path: Path) -> None:
    file = tmp_path / "my appliance.ova"
    file.write_bytes(archive({"x.ovf": descriptor(name="").replace(b'ovf:id=""', b"")}))
    assert ovafs("import", pool.path, file).stdout.startswith("imported vm my appliance (")
    with file.open("rb") as data:
        command = [sys.executable, "-m", "ovafs", "import", str(pool.path), "-"]
        done = subprocess.run(command, env=ENVIRONMENT, stdin=data, capture_output=True, check=True)
    assert done.stdout.startswith(b"imported vm imported (")


def test_messages(pool: ImportPool, package: Path, tmp_path: Path) -> None:
    whole = package.read_bytes()
    package.write_bytes(whole[:100_000])
    result = ovafs("import", pool.path, package, status=1)
    assert result.stdout == ""
    cut = len(small_package(uuid=UUID, macs=[MAC])["web.ovf"])  # two headers, two disks, and what is padded to blocks
    missing = 2 * 512 + 2 * 65536 + 512 + -(-cut // 512) * 512 - 100_000
    assert result.stderr == (
        f"ovafs: error: 'b.raw': the archive is cut off: at least {missing} bytes are missing;"
        " copy the package again, or have it made again\n"
    )
    for arguments, expected in (
        ((tmp_path / "absent.ova",), "absent.ova: cannot be opened: No such file or directory; check that the path"),
        (("--memory", "1000", package), "memory of 1000 bytes cannot be; give a multiple of 1 MiB"),
        (("--name", "", package), "the name is empty"),
        (("--spool-limit", "0", package), "the archive is cut off"),
        (("--cpus", "0", package), "1 sockets, 0 cores, 1 threads cannot be; each must be at least 1"),
        (
            ("--disk", "c.raw,format=raw", package),
            "there is no disk 'c.raw' in the package; its disks are: 1: a.raw (disk0); 2: b.raw (disk1)",
        ),
        (
            ("--disk", "a.raw,format=raw", "--disk", "1,format=raw", package),
            "'a.raw' and '1' are the same disk; choose for it once",
        ),
    ):
        result = ovafs("import", *arguments[:-1], pool.path, arguments[-1], status=1)
        assert result.stderr.startswith("ovafs: error: ")
        assert expected in result.stderr
        assert result.stderr.count("\n") == 1
    result = ovafs("import", tmp_path, package, status=1)
    assert "is " in result.stderr
    assert "a pool? 'ovafs pool create' makes one" in result.stderr
    pool.assert_whole()


def test_wrong_usage(pool: ImportPool, package: Path) -> None:
    for arguments, expected in (
        (("--format", "vmdk"), "'vmdk' is not one of 'qcow2', 'raw', 'keep'"),
        (("--memory", "much"), "'much' is not a size"),
        (("--map-network", "lan"), "'lan' is not of the form OLD=NEW"),
        (("--map-network", "lan=a", "--map-network", "lan=b"), "--map-network lan is given twice"),
        (("--disk", "a.raw"), "'a.raw' does not name a disk and say its format=… or interface=…"),
        (("--disk", "a.raw,format=vmdk"), "format=vmdk is not one of qcow2, raw, keep"),
        (("--disk", "a.raw,format=raw", "--disk", "a.raw,format=raw"), "--disk a.raw is given twice"),
        (("--cpus", "2", "--cores", "2"), "give either --cpus or --sockets, --cores and --threads"),
        (("--on-clash", "x"), "'x' is not one of 'suffix', 'refuse'"),
    ):
        result = ovafs("import", *arguments, pool.path, package, status=2)
        assert expected in result.stderr
    assert "is a directory" in ovafs("import", pool.path, pool.path, status=2).stderr


def test_standard_input_that_is_closed(pool: ImportPool) -> None:
    command = ["sh", "-c", f"exec {sys.executable} -m ovafs import {pool.path} - <&-"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "ovafs: error: -: standard input is closed; give the name of a file, or a pipe\n",
    )


def test_what_a_package_says_does_not_reach_the_terminal_as_it_is(pool: ImportPool, tmp_path: Path) -> None:
    file = tmp_path / "x.ova"
    text = descriptor(DiskText("a", 512)).replace(b">AHCI<", ">evil\u009b31m\u2028ovafs: done<".encode())
    file.write_bytes(archive({"x.ovf": text, "a": b"x" * 512}))
    result = ovafs("import", pool.path, file)
    assert "evil\\x9b31m\\u2028ovafs: done becomes SATA" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals(pool: ImportPool, package: Path, number: signal.Signals) -> None:
    """While it waits for a pipe, with one disk complete."""
    command = [sys.executable, "-m", "ovafs", "import", str(pool.path), "-"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=ENVIRONMENT, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        process.stdin.write(package.read_bytes()[:100_000])
        process.stdin.flush()
        eventually(lambda: len(pool.files) == 2, "the second volume is begun")
        process.send_signal(number)
        process.wait(20)  # the pipe stays open
        assert process.stderr is not None
        assert process.stderr.read() == b"ovafs: interrupted: nothing is imported, nothing is left\n"
    assert process.returncode == 128 + number
    pool.assert_whole()


def test_a_signal_that_is_ignored(pool: ImportPool, package: Path) -> None:
    command = ["sh", "-c", f"trap '' HUP; exec {sys.executable} -m ovafs import {pool.path} -"]
    with subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        process.stdin.write(package.read_bytes()[:100_000])
        process.stdin.flush()
        eventually(lambda: len(pool.files) == 2, "the second volume is begun")
        process.send_signal(signal.SIGHUP)
        process.stdin.write(package.read_bytes()[100_000:])
        process.stdin.close()
        assert process.wait(20) == 0
    pool.assert_whole(1)


def test_a_full_pool(tmp_path: Path) -> None:
    data = content(8 * MIB)
    (tmp_path / "big.ova").write_bytes(archive({"x.ovf": descriptor(DiskText("a", len(data))), "a": data}))
    populated = DiskText("a", 1 << 40, extra=f'ovf:populatedSize="{40 << 30}"')
    (tmp_path / "huge.ova").write_bytes(archive({"x.ovf": descriptor(populated), "a": b"x"}))
    with in_memory(tmp_path, "tmpfs", "size=2M") as path, import_pool(path / "pool") as pool:
        result = ovafs("import", pool.path, tmp_path / "big.ova", status=1)
        assert "No space left on device; make room on its file system\n" in result.stderr
        result = ovafs("import", pool.path, tmp_path / "huge.ova", status=1)
        assert result.stderr.startswith("ovafs: error: the import needs 40.0 GiB, 1.")
        assert "are free in" in result.stderr
        pool.assert_whole()


def test_signatures(pool: ImportPool, package: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    root = authority.signer("root", extension=signing.CA)
    signed = tmp_path / "signed.ova"
    signed.write_bytes(signed_package(authority.signer("vendor", root)))
    require = ("--certificate", "require")
    result = ovafs("import", pool.path, signed, *require, status=1)
    assert result.stderr == (
        "ovafs: error: signatures are required, but nobody is trusted; "
        "name a PEM file with the certificates of those whose packages you take\n"
    )
    result = ovafs("import", pool.path, package, *require, "--ca-file", root.certificate, status=1)
    assert "signatures are required, but the package has no signature (*.cert); ask its maker" in result.stderr
    pool.assert_whole()
    assert ovafs("import", pool.path, signed, *require, "--ca-file", root.certificate).stderr == ""
    assert "signed by CN=vendor,O=Example; no certificates are trusted" in ovafs("import", pool.path, signed).stderr
    pool.assert_whole(2)


def test_a_mount_that_cannot_check_signatures(pool: ImportPool, tmp_path: Path) -> None:
    place = tmp_path / "mnt"
    place.mkdir()
    for options, message in (
        ("drop_certificate=require", "signatures are required, but nobody is trusted; name a PEM file"),
        ("drop_ca_file=/nonexistent", "/nonexistent: trusted certificates cannot be read: No such file or directory"),
    ):
        assert message in ovafs("mount", pool.path, place, "-o", options, status=3).stderr
        assert not place.is_mount()


def test_progress_on_a_terminal(pool: ImportPool, package: Path, tmp_path: Path) -> None:
    shown = {}
    for quiet in ([], ["-q"]):
        leader, follower = pty.openpty()
        termios.tcsetwinsize(follower, (24, 100))
        command = [sys.executable, "-m", "ovafs", "import", *quiet, str(pool.path), str(package)]
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=follower)
        os.close(follower)
        output = b""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                piece = os.read(leader, 4096)
            except OSError:  # EIO: nobody writes any more
                break
            if not piece:
                break
            output += piece
        os.close(leader)
        assert end(process) == 0
        shown[bool(quiet)] = output
    assert b"appliance.ova" in shown[False]
    assert b"100%" in shown[False]
    assert b"appliance.ova" not in shown[True]
