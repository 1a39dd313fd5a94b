"""Names in the drop directory: which are final, which temporary, which refused."""

from __future__ import annotations

import pytest

from ovafs.errors import NameRefused
from ovafs.vfs.drop.names import (
    check_directory_name,
    check_file_name,
    is_choices,
    is_final,
    is_final_choices,
    machine_name,
    report_name,
    show,
)


@pytest.mark.parametrize("name", [b"vm.ova", b"VM.OVA", b"a b.Ova", b"\xff.ova", b"x.ova.ova"])
def test_final_names(name: bytes) -> None:
    check_file_name(name)
    assert is_final(name)


@pytest.mark.parametrize(
    "name",
    [
        b".vm.ova.Ab12Cd",  # rsync
        b".vm.ova",
        b".unison.vm.ova.0123.unison.tmp",
        b".syncthing.vm.ova.tmp",
        b".goutputstream-ABCDEF",
        b"vm.ova.part",
        b"vm.part",
        b"vm.ova.filepart",
        b"vm.ova.Ab12Cd",  # rsync --temp-dir
        b"vm.tmp",
    ],
)
def test_temporary_names(name: bytes) -> None:
    check_file_name(name)
    assert not is_final(name)


@pytest.mark.parametrize(
    "name", [b"disk.iso", b"vm", b"vm.ova.toml.report.txt", b"vm.ova.report.txt", b"ova", b"vm.vmdk"]
)
def test_names_that_never_become_a_machine_are_refused(name: bytes) -> None:
    with pytest.raises(NameRefused, match=r"NAME\.ova"):
        check_file_name(name)


def test_directories_are_temporary_or_refused() -> None:
    check_directory_name(b".rsync-partial")
    with pytest.raises(NameRefused, match="not a directory"):
        check_directory_name(b"machines")


@pytest.mark.parametrize(
    ("name", "report", "machine"),
    [
        (b"vm.ova", b"vm.ova.report.txt", "vm"),
        (b".vm.ova.Ab12Cd", b"vm.ova.report.txt", "vm"),
        (b"vm.OVA.part", b"vm.OVA.report.txt", "vm"),
        (b".syncthing.vm.ova.tmp", b"vm.ova.report.txt", "vm"),
        (b".goutputstream-X", b".goutputstream-X.report.txt", "imported"),
    ],
)
def test_reports_and_machines_have_the_final_name(name: bytes, report: bytes, machine: str) -> None:
    assert report_name(name) == report
    assert machine_name(name) == machine


@pytest.mark.parametrize(
    ("name", "is_final"),
    [
        (b"vm.ova.toml", True),
        (b"VM.OVA.toml", True),
        (b".vm.ova.toml", False),
        (b".vm.ova.toml.Ab12Cd", False),  # rsync
        (b".syncthing.vm.ova.toml.tmp", False),
        (b"vm.ova.toml~", False),
        (b"vm.ova.toml.part", False),
    ],
)
def test_choices(name: bytes, is_final: bool) -> None:
    check_file_name(name)
    assert is_choices(name)
    assert is_final_choices(name) is is_final


@pytest.mark.parametrize("name", [b"vm.ova", b"vm.toml", b"vm.ova.toml.report.txt", b"vm.ova.tomls", b"vm.ova.TOML"])
def test_no_choices(name: bytes) -> None:
    assert not is_choices(name)


def test_choices_in_capital_letters_are_refused() -> None:
    with pytest.raises(NameRefused, match="small letters"):
        check_file_name(b"vm.ova.TOML")


def test_names_are_shown_without_control_characters() -> None:
    assert show("größe.ova".encode()) == "größe.ova"
    assert show(b"a\nb\x1b\xff") == "a\\nb\\x1b\\\\xff"
