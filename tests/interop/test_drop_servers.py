"""Uploads that come over a network: ssh, Samba, NFS and HTTP, by real servers and clients on this machine."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import nfs_writer
from tests.support.drop import MIB, Place, place_in
from tests.support.processes import run
from tests.support.servers import http, nfs, samba, ssh_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import Nfs, Samba

CUT = 3 * MIB - 1

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run servers for everybody")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place_in(tmp_path_factory.mktemp("servers")) as place:
        yield place


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ssh_settings(tmp_path_factory.mktemp("ssh"))


@pytest.fixture(scope="module")
def smb(shared: Place) -> Iterator[Samba]:
    with samba(shared.folder / "samba", shared.drop) as server:
        yield server


@pytest.fixture
def exported(tmp_path: Path) -> Iterator[tuple[Place, Nfs]]:
    with place_in(tmp_path) as place, nfs(tmp_path / "nfs", place.mount.path) as server:
        yield place, server


SSH = {
    "scp": "scp -F $F $S host:$D",
    "scp -p": "scp -p -F $F $S host:$D",
    "scp -O": "scp -O -F $F $S host:$D",
    "sftp": 'sftp -b - -F $F host <<< "put $S $D"',
    "sftp -p": 'sftp -b - -F $F host <<< "put -p $S $D"',
    "sftp -f": 'sftp -b - -F $F host <<< "put -f $S $D"',
    "sftp rename": 'sftp -b - -F $F host <<< "put $S $D.part\nrename $D.part $D"',
    "rsync": "rsync -a -e 'ssh -F '$F $S host:$D",
    "cat": 'ssh -F $F host "cat > $D" < $S',
    "tar": 'tar -C ${S%/*} -cf - ${S##*/} | ssh -F $F host "tar -C ${D%/*} -xf -"',
}


def environment(place: Place, name: str, ssh: Path, source: Path) -> dict[str, str]:
    return {"S": str(source), "D": str(place.drop / f"{name}.ova"), "F": str(ssh)}


@pytest.mark.parametrize("way", SSH)
def test_ssh(shared: Place, ssh: Path, way: str) -> None:
    name = f"ssh{list(SSH).index(way)}"
    source = shared.package(name)
    run("bash", "-ec", SSH[way], env=environment(shared, name, ssh, source))
    shared.assert_imported(name)
    assert (shared.drop / f"{name}.ova").stat().st_size == source.stat().st_size


@pytest.mark.parametrize("fault", ["cut", "corrupt"])
@pytest.mark.parametrize("way", [way for way in SSH if way not in {"sftp rename", "tar"}])
def test_ssh_tells_of_failures(shared: Place, ssh: Path, way: str, fault: str) -> None:
    name = f"{fault}{list(SSH).index(way)}"
    source = shared.package(name, cut=CUT) if fault == "cut" else shared.package(name, corrupt=True)
    shared.mount.expect_log(f"{name}.ova.*: not imported")
    result = run("bash", "-ec", SSH[way], env=environment(shared, name, ssh, source), status=None)
    assert result.returncode != 0
    # The protocol has no word for EINVAL: sftp says "bad message". What rsync says at the other end is lost at times.
    assert way == "rsync" or "Invalid argument" in result.stderr or "Bad message" in result.stderr
    assert "NOT IMPORTED" in (shared.drop / f"{name}.ova.report.txt").read_text()
    assert name not in shared.machines()


@pytest.mark.parametrize("command", ["put -a", "reput"])
def test_sftp_goes_on(shared: Place, ssh: Path, command: str) -> None:
    name = "again-" + command[0:3]
    source, part, target = shared.package(name), shared.folder / "part", shared.drop / f"{name}.ova"
    part.write_bytes(source.read_bytes()[:CUT])
    shared.mount.expect_log(f"{name}.ova: not imported: .*is cut off")
    sftp = ("sftp", "-b", "-", "-F", ssh, "host")
    assert run(*sftp, text=f"put {part} {target}\n", status=None).stderr
    assert target.stat().st_size == CUT
    run(*sftp, text=f"{command} {source} {target}\n")
    shared.assert_imported(name)


@needs_root
def test_samba(shared: Place, smb: Samba) -> None:
    for name, commands in {
        "smb": ["put {} smb.ova"],
        "smb-renamed": ["put {} smb-renamed.ova.part", "rename smb-renamed.ova.part smb-renamed.ova"],
    }.items():
        source = shared.package(name)
        run(*smb.client(*(command.format(source) for command in commands)))
        shared.assert_imported(name)
        assert (shared.drop / f"{name}.ova").stat().st_size == source.stat().st_size
    run(*smb.client("put smb.ova again.ova", "rm smb.ova"), cwd=shared.folder)
    assert "smb.ova" not in shared.names()
    assert "smb" in shared.machines()


@needs_root
@pytest.mark.parametrize("fault", ["cut", "corrupt"])
def test_samba_tells_of_failures(shared: Place, smb: Samba, fault: str) -> None:
    name = f"smb-{fault}"
    source = shared.package(name, cut=CUT) if fault == "cut" else shared.package(name, corrupt=True)
    shared.mount.expect_log(f"{name}.ova: not imported")
    said = run(*smb.client(f"put {source} {name}.ova"), status=1)
    assert "NT_STATUS_INVALID_PARAMETER" in said.stdout + said.stderr
    assert name not in shared.machines()


@needs_root
def test_samba_refuses_other_names(shared: Place, smb: Samba) -> None:
    shared.mount.expect_log("disk.iso: cannot become a machine")
    said = run(*smb.client(f"put {shared.package('iso')} disk.iso"), status=1)
    assert "NT_STATUS_ACCESS_DENIED" in said.stdout + said.stderr


@needs_root
def test_nfs(exported: tuple[Place, Nfs]) -> None:
    """By a server that opens files by handle, and never closes them: what is there when COMMIT returns is all."""
    place, server = exported
    run(*server.inside, "nfs-cp", place.package("copied"), server.url("drop/copied.ova"))
    place.assert_imported("copied")
    write = (*server.inside, sys.executable, nfs_writer.__file__, server.url("drop"))
    run(*write, "/shuffled.ova", place.package("shuffled"))
    place.assert_imported("shuffled")
    place.mount.expect_log("corrupt.ova: not imported")
    failed = run(*write, "/corrupt.ova", place.package("corrupt", corrupt=True), status=1)
    assert "NFS3ERR_INVAL" in failed.stderr
    # Who commits a part may still send the rest: no error, no machine. It is said when the server ends, which closes.
    place.mount.expect_log("part.ova: not imported: .*is cut off")
    run(*server.inside, "nfs-cp", place.package("part", cut=CUT), server.url("drop/part.ova"))
    place.mount.expect_log("disk.iso: cannot become a machine")
    refused = run(*server.inside, "nfs-cp", place.package("iso"), server.url("drop/disk.iso"), status=None)
    assert "NFS3ERR_PERM" in refused.stderr
    assert place.machines() == ["copied", "shuffled"]
    shown = run(*server.inside, "nfs-ls", server.url("vms")).stdout
    assert "copied.ova" in shown
    assert "shuffled.ova" in shown


HTTP = {
    "curl": "curl -sS -o $D $URL",
    "curl, new name": "curl -sS -o $D.part $URL && mv $D.part $D",
    "curl -O": "cd ${D%/*} && curl -sS -O $URL",
    "wget": "wget -q -O $D $URL",
    "wget -P": "wget -q -P ${D%/*} $URL",
    "python": "python3 -c 'import sys, urllib.request; urllib.request.urlretrieve(*sys.argv[1:])' $URL $D",
    "rclone": "rclone --config /dev/null copyurl $URL $D",
}


@pytest.mark.parametrize("way", HTTP)
def test_http(shared: Place, way: str) -> None:
    name = f"http{list(HTTP).index(way)}"
    source = shared.package(name)
    with http(shared.folder) as url:
        run("bash", "-ec", HTTP[way], env={"D": str(shared.drop / source.name), "URL": f"{url}/{source.name}"})
    shared.assert_imported(name)


@pytest.mark.parametrize("client", ["curl -sS -C - -o $D", "wget -nv -t 1 -c -O $D", "curl -sS --retry 5 -C - -o $D"])
def test_a_download_that_breaks_off(shared: Place, client: str) -> None:
    name = f"broken{len(client)}"
    source, target = shared.package(name), shared.drop / f"{name}.ova"
    shared.mount.expect_log(f"{name}.ova: not imported: .*is cut off")
    with http(shared.folder, cut=CUT) as url:
        command = ("bash", "-c", f"{client} {url}/{source.name}")
        assert run(*command, env={"D": str(target)}, status=None).returncode != 0
    assert name not in shared.machines()
    assert target.stat().st_size == CUT
    with http(shared.folder) as url:
        run("bash", "-c", f"{client} {url}/{source.name}", env={"D": str(target)})
    shared.assert_imported(name)
    with contextlib.suppress(FileNotFoundError):
        assert "NOT IMPORTED" not in (shared.drop / f"{name}.ova.report.txt").read_text()
