"""Firmware of the host, and files with the variables that machines bring along."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import NoSpace, WriteFailed
from ovafs.inventory.libvirt.firmware import firmware_builds, new_variables
from ovafs.storage.writer.new_volume import sweep

if TYPE_CHECKING:
    from pathlib import Path

UUID = "bb20f368-ed92-401f-91dd-f6082a15a406"


def describe(path: Path, code: str, template: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    files = {"executable": {"filename": code}, "nvram-template": {"filename": str(template)}}
    targets = [{"architecture": "x86_64", "machines": ["pc-q35-*"]}]
    path.write_text(json.dumps({"mapping": {"device": "flash", **files}, "targets": targets, "features": []}))


def test_an_administrators_description_replaces_the_packages(tmp_path: Path) -> None:
    template = tmp_path / "v.fd"
    template.write_bytes(bytes(100))
    etc, usr = tmp_path / "etc", tmp_path / "usr"
    describe(usr / "60-a.json", "/a", template)
    describe(usr / "50-b.json", "/b", template)
    describe(usr / "70-lost.json", "/c", tmp_path / "none.fd")
    (usr / "80-broken.json").write_text("{")
    (usr / "90-folder.json").mkdir()
    describe(etc / "60-a.json", "/mine", template)
    found = firmware_builds("x86_64", (str(etc), str(usr)))
    assert [(build.code, build.size) for build in found] == [("/b", 100), ("/mine", 100)]
    assert firmware_builds("aarch64", (str(etc), str(usr))) == ()
    assert firmware_builds("x86_64", (str(tmp_path / "none"),)) == ()


def test_a_file_stays_if_all_goes_well(tmp_path: Path) -> None:
    path = tmp_path / f"{UUID}.fd"
    with new_variables(str(path), b"variables"):
        assert path.read_bytes() == b"variables"
        assert sweep(str(tmp_path), known=(), unfinished={UUID}) == [], "it is locked"
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"variables", 0o600)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert sweep(str(tmp_path), known={UUID}, unfinished={UUID}) == []
    assert sweep(str(tmp_path), known=(), unfinished=()) == [], "without a note it is nobody's business"
    assert sweep(str(tmp_path), known=(), unfinished={UUID}) == [str(path)]


def test_a_file_is_gone_if_something_fails(tmp_path: Path) -> None:
    path = tmp_path / f"{UUID}.fd"
    with pytest.raises(ValueError, match="libvirt"), new_variables(str(path), b"variables"):
        raise ValueError("libvirt says no")
    assert os.listdir(tmp_path) == []


def test_what_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / f"{UUID}.fd"
    path.write_bytes(b"other")
    with pytest.raises(WriteFailed, match="File exists"), new_variables(str(path), b"variables"):
        pass
    assert path.read_bytes() == b"other"


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / f"{UUID}.fd"
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(NoSpace, match="No space left"), new_variables(str(path), b"variables"):
        pass
    assert os.listdir(tmp_path) == []
