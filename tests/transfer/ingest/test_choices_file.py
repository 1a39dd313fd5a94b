"""Choices in a file: what its keys mean, and what is refused, in words."""

from __future__ import annotations

import pytest

from ovafs.errors import InvalidChoices
from ovafs.model import CpuTopology, DiskInterface, Firmware, MachineKind
from ovafs.transfer.ingest.choices import Clash, DiskChoices, Identity, ImportChoices
from ovafs.transfer.ingest.choices_file import MAX_SIZE, parse_choices
from ovafs.transfer.ingest.target import TargetFormat

EVERYTHING = """
name = "web ü"
description = '''
two
lines'''
os = "debian12"
memory = "4GiB"
sockets = 2
threads = 2
firmware = "uefi-secure"
template = true
format = "keep"
mac = "new"
uuid = "new"
on_clash = "refuse"
network = "lan"

[networks]
"VM Network" = "wan"

[disks."disk1.vmdk"]
format = "raw"
interface = "virtio"

[disks.2]
interface = "ide"
"""


def test_everything() -> None:
    choices = parse_choices(EVERYTHING.encode("utf-8-sig"), ImportChoices(spool_limit=7))
    assert choices == ImportChoices(
        name="web ü",
        description="two\nlines",
        os="debian12",
        memory=4 << 30,
        cpu=CpuTopology(sockets=2, threads=2),
        firmware=Firmware.UEFI_SECURE,
        kind=MachineKind.TEMPLATE,
        network="lan",
        networks={"VM Network": "wan"},
        mac=Identity.NEW,
        uuid=Identity.NEW,
        on_clash=Clash.REFUSE,
        format=TargetFormat.KEEP,
        disks={
            "disk1.vmdk": DiskChoices(format=TargetFormat.RAW, interface=DiskInterface.VIRTIO),
            "2": DiskChoices(interface=DiskInterface.IDE),
        },
        spool_limit=7,
    )


def test_what_is_not_said_is_as_before() -> None:
    base = ImportChoices(network="lan", on_clash=Clash.REFUSE, format=TargetFormat.RAW)
    assert parse_choices(b"", base) == base
    assert parse_choices(b"# nothing\r\n", base) == base
    assert parse_choices(b"cpus = 3\ntemplate = false", base).cpu == CpuTopology(cores=3)
    assert parse_choices(b"template = false", base).kind is MachineKind.VM


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('memroy = "4GiB"', "the key 'memroy' is not known; known are name, description, os, memory, cpus"),
        ("'' = 1", "the key '' is not known; known are name"),
        ("spool_limit = 1", "the key 'spool_limit' is not known"),
        ("[disks.a]\nbus = 1", "the key 'bus' is not known for the disk 'a'; known are format, interface"),
        ('firmware = "efi"', "firmware: this value cannot be; write one of bios, uefi, uefi-secure"),
        ("[disks.a]\nformat = 'x'", "disks[...].format: this value cannot be; write one of qcow2, raw, keep"),
        ("memory = 4096", 'memory: this must be text; such as memory = "4GiB"'),
        ("memory = 'much'", "memory: 'much' is not a size; write for example 4GiB"),
        ("memory = '1000'", "memory of 1000 bytes cannot be; give a multiple of 1 MiB"),
        ("name = 1", "name: this must be text"),
        ("name = 2026-01-01", "name: this must be text"),
        ('cpus = "4"', "cpus: this must be a number"),
        ("cpus = 0", "cpus: this must be a number >= 1"),
        ("cpus = 4097", "cpus: this must be a number <= 4096"),
        ("cpus = 2\ncores = 2", "cpus and cores are both given; give either cpus or the topology"),
        ("template = 1", "template: this must be true or false"),
        ("disks = 1", "disks: this must be a table"),
        ("networks.a = 1", "networks[...]: this must be text"),
        ("name = web", "this is not TOML: Invalid value (at line 1, column 8); write for example: name = "),
        ("name = ''", "the name is empty"),
        (f"cpus = {'9' * 5000}", "this is not TOML: Exceeds the limit"),
        (f"cpus = 0x{'f' * 60000}", "cpus: this must be a number <= 4096"),
        (f"a = {'[' * 60000}", "the values are nested too deeply"),
        (f"\n{'a.' * 30000}a = 1", "line 2 has more than 200 dots"),
        ("#" * (MAX_SIZE + 1), f"{MAX_SIZE + 1} bytes are too many for choices; the limit is 65536"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidChoices) as error:
        parse_choices(text.encode(), ImportChoices())
    assert str(error.value).startswith(message)


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(InvalidChoices, match="byte 8 is not UTF-8; save the file as UTF-8"):
        parse_choices(b"name = '\xff'", ImportChoices())
