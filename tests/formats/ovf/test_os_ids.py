"""Guest systems: libosinfo's short ids in oVirt's and the CIM's numbers."""

from __future__ import annotations

import pytest

from ovafs.formats.ovf.os_ids import guest_os


@pytest.mark.parametrize(
    ("short_id", "ovirt", "cim"),
    [
        *(("rhel3", 15, 80), ("rhel6.10", 19, 80), ("rhel7.9", 24, 80), ("rhel8.4", 30, 80), ("rhel9.0", 34, 80)),
        *(("rhel10.0", 39, 80), ("rhel11.0", 39, 80), ("rhel9-unknown", 34, 80), ("rhel-unknown", 39, 80)),
        *(("rhel2.1", 5, 36), ("rhel-atomic-7.2", 28, 80)),
        *(("centos7.0", 24, 107), ("centos-stream9", 34, 107), ("ol8.5", 30, 109), ("rocky9", 34, 101)),
        *(("debian12", 1301, 96), ("debian8", 1300, 96), ("debian6", 5, 96), ("debiantesting", 1301, 96)),
        *(("ubuntu24.04", 1257, 94), ("ubuntu18.04", 1257, 94), ("ubuntu17.10", 1256, 94), ("ubuntu14.04", 1256, 94)),
        *(("ubuntu12.04", 1252, 94), ("ubuntu12.10", 1253, 94), ("ubuntu10.04", 5, 94)),
        *(("sles12sp5", 1193, 85), ("sle15sp4", 1193, 85), ("sles10", 5, 85), ("opensusetumbleweed", 33, 83)),
        *(("fedora40", 33, 101), ("fedora-rawhide", 33, 101), ("fedora12", 5, 36), ("fedora-coreos-stable", 33, 101)),
        *(("alpinelinux3.20", 33, 101), ("archlinux", 33, 101), ("linux2022", 33, 101), ("nixos-24.05", 33, 101)),
        *(("winxp", 1, 67), ("win7", 12, 105), ("win8.1", 21, 115), ("win10", 27, 121), ("win11", 36, 1)),
        *(("win2k12", 23, 113), ("win2k12r2", 25, 116), ("win2k16", 29, 117), ("win2k19", 31, 122)),
        *(("win2k22", 37, 1), ("win2k25", 38, 1), ("freebsd14.1", 1501, 78)),
        *(("other", 0, 1), ("unknown", 0, 1), ("openbsd7.5", 0, 1), ("win2k", 0, 1), ("", 0, 1), ("12", 0, 1)),
        *((" Debian12 ", 1301, 96), ("rhel" + "9" * 400, 39, 80)),
    ],
)
def test_numbers(short_id: str, ovirt: int, cim: int) -> None:
    assert guest_os(short_id)[:2] == (ovirt, cim)


@pytest.mark.parametrize("short_id", ["winxp", "win2k3r2", "rhel3", "rhel5.11", "centos5.0"])
def test_guests_that_ovirt_runs_on_i440fx_only(short_id: str) -> None:
    assert not guest_os(short_id).q35


@pytest.mark.parametrize("short_id", ["rhel6.0", "win7", "debian12", "other"])
def test_guests_that_may_run_on_q35(short_id: str) -> None:
    assert guest_os(short_id).q35
