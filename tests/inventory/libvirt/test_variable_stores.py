"""Variables of firmware: read from the files that libvirt names, kept until those change."""

from __future__ import annotations

import base64
import bz2
import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import MachineNotFound
from ovafs.formats.ovf.ovirt_state import read_variables
from ovafs.inventory.libvirt.inventory import LibvirtInventory
from ovafs.inventory.libvirt.variable_stores import MAX_FILE, MAX_TEXT, VariableStores
from ovafs.model import Firmware, StateKind
from tests.support.domains import domain_xml, write_node
from tests.support.processes import ovafs, run

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = bytes(40) + b"_FVH" + bytes(1 << 17)
UUID = "bb20f368-ed92-401f-91dd-f6082a15a406"


def uefi_domain(name: str, path: Path) -> str:
    firmware = f"<loader readonly='yes' type='pflash'>/usr/code.fd</loader><nvram>{path}</nvram></os>"
    return domain_xml(name).replace("</os>", firmware)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "web_VARS.fd"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_the_text_is_kept_for_the_state(file: Path) -> None:
    stores = VariableStores()
    state, reason = stores.look(UUID, str(file))
    assert state is not None
    assert reason == ""
    text = stores.text(UUID, state)
    assert text is not None
    assert bz2.decompress(base64.b64decode(text.removeprefix(b"=0="))) == CONTENT
    assert read_variables(text) == CONTENT
    assert stores.look(UUID, str(file)) == (state, "")
    stores.retain([])
    assert stores.text(UUID, state) is None


def test_a_change_is_seen_and_the_text_before_it_stays_for_its_readers(file: Path) -> None:
    stores = VariableStores()
    states = []
    for number in range(3):
        file.write_bytes(CONTENT + bytes([number]))
        states.append(stores.look(UUID, str(file))[0])
    first, second, third = states
    assert first is not None
    assert second is not None
    assert third is not None
    assert stores.text(UUID, first) is None
    assert read_variables(stores.text(UUID, second) or b"") == CONTENT + b"\1"
    assert read_variables(stores.text(UUID, third) or b"") == CONTENT + b"\2"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "has 0 bytes; those with 1 to"),
        (bytes(MAX_FILE + 1), f"has {MAX_FILE + 1} bytes; those with 1 to {MAX_FILE} are read"),
        (os.urandom(MAX_TEXT), f"at most {MAX_TEXT} can be packed"),
    ],
)
def test_what_cannot_be_packed(file: Path, content: bytes, reason: str) -> None:
    file.write_bytes(content)
    state, said = VariableStores().look(UUID, str(file))
    assert state is None
    assert reason in said


def test_what_is_no_file(file: Path) -> None:
    stores = VariableStores()
    file.unlink()
    assert stores.look(UUID, str(file)) == (None, ""), "libvirt makes it at the first start"
    os.mkfifo(file)
    assert stores.look(UUID, str(file)) == (None, f"{file} is no file")
    file.unlink()
    file.symlink_to("/etc/passwd")
    state, said = stores.look(UUID, str(file))
    assert (state, "cannot be read" in said) == (None, True)


def test_domains_have_them(file: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty_VARS.fd"
    empty.touch()
    texts = [uefi_domain("web", file), uefi_domain("new", tmp_path / "none.fd"), uefi_domain("bad", empty)]
    uri = write_node(tmp_path / "node.xml", texts)
    with contextlib.closing(LibvirtInventory(uri)) as inventory:
        web, new, bad = (inventory.find(name) for name in ("web", "new", "bad"))
        assert {one.firmware for one in (web, new, bad)} == {Firmware.UEFI}
        assert read_variables(inventory.read_state(web, StateKind.NVRAM)) == CONTENT
        assert (new.nvram, inventory.left_out(new)) == (None, ())
        assert inventory.left_out(bad) == (
            f"the firmware's variables (NVRAM): {empty} has 0 bytes; those with 1 to {MAX_FILE} are read",
        )
        for kind in StateKind:
            with pytest.raises(MachineNotFound, match=f"new has no such state of its {kind}"):
                inventory.read_state(new, kind)
        file.write_bytes(CONTENT + b"\1")
        changed = inventory.find("web")
        assert changed.nvram != web.nvram
        assert changed.modified >= web.modified
        assert read_variables(inventory.read_state(web, StateKind.NVRAM)) == CONTENT


def test_a_package_has_them(file: Path, tmp_path: Path) -> None:
    uri = write_node(tmp_path / "node.xml", [uefi_domain("web", file)])
    package = tmp_path / "web.ova"
    ovafs("export", uri, "web", package, env={"XDG_STATE_HOME": str(tmp_path / "state")})
    text = run("tar", "-xOf", package, "nvram.dat").stdout
    assert bz2.decompress(base64.b64decode(text.removeprefix("=0="))) == CONTENT
    assert "nvram.dat" in run("tar", "-xOf", package, "vm.ovf").stdout
