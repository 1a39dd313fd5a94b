"""Programs that keep directories equal, with drop/ as one of them: what is new is imported, and sent only once."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.drop import Place, place_in
from tests.support.pools import eventually
from tests.support.processes import run, started

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONG_AGO = 1_600_000_000


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as own:
        yield own


def folder_of(place: Place, *names: str) -> Path:
    """A directory with these packages."""
    folder = place.folder / "packages"
    folder.mkdir(exist_ok=True)
    for name in names:
        package = place.package(name)
        os.utime(package, (LONG_AGO, LONG_AGO))
        shutil.move(package, folder)
    return folder


def uploads(place: Place) -> int:
    """How many were imported since the mount began."""
    return place.mount.log().count(": imported vm ")


TWICE = {
    "rsync -a": "rsync -a $S/ $D/",
    "rsync -rt": "rsync -rt $S/ $D/",
    "rsync -a --inplace": "rsync -a --inplace $S/ $D/",
    "rsync -a --delay-updates": "rsync -a --delay-updates $S/ $D/",
    "rsync -a --partial -S": "rsync -a --partial -S $S/ $D/",
    "rsync -a --checksum": "rsync -a --checksum $S/ $D/",
    "rsync -a --delete": "rsync -a --delete $S/ $D/",
    "cp -au": "cp -au $S/. $D/",
    "rclone sync": "rclone --config /dev/null sync $S $D",
    "rclone copy --checksum": "rclone --config /dev/null copy --checksum $S $D",
    "unison": "unison -batch -ui text -perms 0 -times $S $D",
    "unison -fastcheck false": "unison -batch -ui text -perms 0 -times -fastcheck false $S $D",
}


@pytest.mark.parametrize("way", TWICE)
def test_twice(place: Place, way: str) -> None:
    folder = folder_of(place, "one", "two")
    environment = {"S": str(folder), "D": str(place.drop), "UNISON": str(place.folder / "unison")}
    run("bash", "-ec", TWICE[way], env=environment)
    for name in ("one", "two"):
        place.assert_imported(name)
    run("bash", "-ec", TWICE[way], env=environment)
    assert (place.machines(), uploads(place)) == (["one", "two"], 2)
    folder_of(place, "three")
    run("bash", "-ec", TWICE[way], env=environment)
    assert (place.machines(), uploads(place)) == (["one", "three", "two"], 3)
    assert sorted(os.listdir(folder)) == ["one.ova", "three.ova", "two.ova"], "nothing comes back"


def test_lsyncd(place: Place) -> None:
    """It watches a directory, and calls rsync."""
    folder = folder_of(place, "one")
    settings = place.folder / "lsyncd.conf"
    settings.write_text(
        f'settings {{ nodaemon = true }}\nsync {{ default.rsync, source = "{folder}", target = "{place.drop}",'
        " delete = false, delay = 1, rsync = { archive = true } }\n"
    )
    with started("lsyncd", settings, log=place.folder / "lsyncd.log"):
        eventually(lambda: uploads(place) == 1, "what was there is imported")
        folder_of(place, "two")
        eventually(lambda: uploads(place) == 2, "what is new is imported")
    for name in ("one", "two"):
        place.assert_imported(name)
    assert place.machines() == ["one", "two"]


_DEVICE = '<device id="{}"><address>tcp://127.0.0.1:{}</address></device>'
_SYNCTHING = """<configuration version="36">
  <folder id="ova" path="{path}" type="{kind}" rescanIntervalS="2" fsWatcherEnabled="false">
    <device id="{ids[0]}"/><device id="{ids[1]}"/><minDiskFree unit="%">0</minDiskFree></folder>
  {devices}
  <gui enabled="false"/>
  <options>
    <listenAddress>tcp://127.0.0.1:{port}</listenAddress>
    <globalAnnounceEnabled>false</globalAnnounceEnabled><localAnnounceEnabled>false</localAnnounceEnabled>
    <relaysEnabled>false</relaysEnabled><natEnabled>false</natEnabled><startBrowser>false</startBrowser>
    <urAccepted>-1</urAccepted><crashReportingEnabled>false</crashReportingEnabled>
    <autoUpgradeIntervalH>0</autoUpgradeIntervalH><reconnectionIntervalS>1</reconnectionIntervalS>
    <minHomeDiskFree unit="%">0</minHomeDiskFree>
  </options>
</configuration>
"""


@contextlib.contextmanager
def syncthing(place: Place, source: Path, target: Path) -> Iterator[None]:
    """Two of them, one that only sends and one that only receives, in a network where nobody else is."""
    homes = [place.folder / "sender", place.folder / "receiver"]
    for home in homes:
        run("syncthing", "generate", "--home", home, "--no-default-folder", "--skip-port-probing")
    ids = [run("syncthing", "--home", home, "--device-id").stdout.strip() for home in homes]
    ports = (22001, 22002)
    devices = "".join(_DEVICE.format(*pair) for pair in zip(ids, ports, strict=True))
    for home, path, kind, port in zip(homes, (source, target), ("sendonly", "receiveonly"), ports, strict=True):
        path.joinpath(".stfolder").mkdir()
        text = _SYNCTHING.format(path=path, kind=kind, ids=ids, devices=devices, port=port)
        (home / "config.xml").write_text(text)
    script = (
        'ip link set lo up; p=; for h; do syncthing serve --home $h --no-browser --no-restart & p+=" $!"; done;'
        " trap 'kill $p; wait; exit 0' TERM; wait"
    )
    with started("unshare", "--net", "bash", "-c", script, "-", *homes, log=place.folder / "syncthing.log"):
        yield


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes networks")
def test_syncthing(place: Place) -> None:
    """Blocks in any order, the size first, zeros left out, and a rename."""
    folder = folder_of(place, "one")
    with syncthing(place, folder, place.drop):
        eventually(lambda: uploads(place) == 1, "what was there is imported", patience=60)
        folder_of(place, "two")
        eventually(lambda: uploads(place) == 2, "what is new is imported", patience=60)
    for name in ("one", "two"):
        place.assert_imported(name)
        assert (place.drop / f"{name}.ova").stat().st_mtime == LONG_AGO
    assert place.machines() == ["one", "two"]
