"""``ovafs vm``: machines on real images."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from ovafs.cli import vm as vm_module
from ovafs.cli.main import cli
from ovafs.inventory.attachments import Attachments
from ovafs.inventory.pool import Pool, create_pool
from ovafs.model import state_of
from tests.support.definitions import machine, nic, rich_machine
from tests.support.processes import ovafs, run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with the pool ``pool`` and a chain of two images."""
    monkeypatch.chdir(tmp_path)
    create_pool("pool")
    run("qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", "64M", cwd=tmp_path)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2", cwd=tmp_path)
    (tmp_path / "a,b.raw").write_bytes(bytes(1 << 20))
    return tmp_path


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="ovafs")


def add(*arguments: str) -> Any:
    result = invoke("vm", "add", "pool", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refused(*arguments: str, code: int = 1) -> str:
    """The message on stderr of a ``vm add`` that changes nothing."""
    result = invoke("vm", "add", "pool", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    with closing(Pool("pool")) as pool:
        assert pool.machines() == []
    return result.stderr


class TestAdd:
    def test_defaults(self, folder: Path) -> None:
        result = invoke("vm", "add", "pool", "web")
        assert re.fullmatch(r"added vm web \([0-9a-f-]{36}\)\n", result.stdout)
        found = json.loads(invoke("vm", "show", "pool", "web", "--json").stdout)
        assert found["uuid"] in result.stdout
        assert (found["kind"], found["memory"], found["cpu"]) == (
            "vm",
            1 << 30,
            {"sockets": 1, "cores": 1, "threads": 1},
        )
        assert (found["firmware"], found["os"], found["disks"], found["nics"]) == ("bios", "other", [], [])

    def test_everything(self, folder: Path) -> None:
        added = add(
            *("web", "--disk", "top.qcow2", "--disk", "a,,b.raw,interface=sata,format=raw", "--memory", "4GiB"),
            *("--sockets", "2", "--cores", "3", "--threads", "2", "--nic", "lan,,1", "--template"),
            *("--nic", ",model=e1000,mac=52-54-00-AA-BB-CC", "--firmware", "uefi-secure", "--os", "debian12"),
            *("--description", "two\nlines"),
        )
        assert added == json.loads(invoke("vm", "show", "pool", "web", "--json").stdout)
        assert (added["kind"], added["memory"]) == ("template", 4 << 30)
        assert added["cpu"] == {"sockets": 2, "cores": 3, "threads": 2}
        assert (added["firmware"], added["os"], added["description"]) == ("uefi-secure", "debian12", "two\nlines")
        assert [
            (disk["volume"]["path"], disk["volume"]["format"], disk["interface"], disk["boot"])
            for disk in added["disks"]
        ] == [(f"{folder}/top.qcow2", "qcow2", "virtio", True), (f"{folder}/a,b.raw", "raw", "sata", False)]
        assert [(one["network"], one["model"]) for one in added["nics"]] == [("lan,1", "virtio"), ("", "e1000")]
        assert added["nics"][1]["mac"] == "52:54:00:aa:bb:cc"

    def test_cpus(self, folder: Path) -> None:
        assert add("web", "--cpus", "6")["cpu"] == {"sockets": 1, "cores": 6, "threads": 1}

    def test_the_images_are_not_touched(self, folder: Path) -> None:
        images = [folder / name for name in ("base.qcow2", "top.qcow2", "a,b.raw")]
        before = [(image.read_bytes(), image.stat().st_mtime_ns) for image in images]
        add("web", "--disk", "top.qcow2", "--disk", "a,,b.raw")
        assert invoke("vm", "remove", "pool", "web").exit_code == 0
        assert [(image.read_bytes(), image.stat().st_mtime_ns) for image in images] == before

    def test_a_missing_image(self, folder: Path) -> None:
        assert refused("web", "--disk", "no.qcow2").startswith("ovafs: error: no.qcow2: No such file or directory; ")

    def test_a_broken_backing_file(self, folder: Path) -> None:
        (folder / "base.qcow2").unlink()
        message = refused("web", "--disk", "top.qcow2")
        assert "base.qcow2" in message
        assert "top.qcow2" in message

    def test_corrupt_tables(self, folder: Path) -> None:
        """Not in the header: found because all extents are read now."""
        run("qemu-io", "-c", "write 0 1M", "-f", "qcow2", "base.qcow2", cwd=folder)
        with (folder / "base.qcow2").open("r+b") as file:
            file.seek(40)
            l1_table = int.from_bytes(file.read(8))
            file.seek(l1_table)
            file.write((1 << 63 | 1 << 40).to_bytes(8))
        assert "base.qcow2" in refused("web", "--disk", "top.qcow2")

    def test_a_format_that_is_not_the_image(self, folder: Path) -> None:
        assert refused("web", "--disk", "a,,b.raw,format=qcow2").startswith(f"ovafs: error: {folder}/a,b.raw: ")

    def test_the_same_image_twice(self, folder: Path) -> None:
        (folder / "link").symlink_to("top.qcow2")
        message = refused("web", "--disk", "top.qcow2", "--disk", "link")
        assert "are the same image; each disk needs an image of its own" in message

    def test_an_operating_system_that_is_not_known(self, folder: Path) -> None:
        result = invoke("vm", "add", "pool", "typo", "--os", "debain12")
        assert result.exit_code == 0
        assert "warning: the operating system 'debain12' is not known" in result.stderr
        assert invoke("vm", "add", "pool", "right", "--os", "debian12").stderr == ""

    def test_an_image_of_another_machine(self, folder: Path) -> None:
        add("first", "--disk", "top.qcow2")
        result = invoke("vm", "add", "pool", "second", "--disk", "top.qcow2")
        assert result.exit_code == 0
        assert result.stderr == f"ovafs: warning: the image {folder}/top.qcow2 is a disk of first too\n"

    def test_a_name_that_is_taken(self, folder: Path) -> None:
        first = add("web")
        result = invoke("vm", "add", "pool", "web")
        assert result.exit_code == 1
        assert result.stderr == (f"ovafs: error: there is a vm 'web' already ({first['uuid']}); choose another name\n")
        assert add("web", "--template")["kind"] == "template"

    def test_a_mac_address_that_is_used(self, folder: Path) -> None:
        add("web", "--nic", "lan,mac=52:54:00:00:00:01")
        result = invoke("vm", "add", "pool", "db", "--nic", "lan,mac=52:54:00:00:00:01")
        assert result.exit_code == 1
        assert "the MAC address 52:54:00:00:00:01 is used by 'web' already" in result.stderr

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--disk", ""], "Invalid value for '--disk': the path is missing"),
            (["--disk", ",format=raw"], "Invalid value for '--disk': the path is missing"),
            (["--disk", "x,format=dmg"], "format=dmg is not one of raw, qcow2, qcow, vmdk, vdi"),
            (["--disk", "x,interface=usb"], "interface=usb is not one of virtio, virtio-scsi, sata, ide"),
            (["--disk", "x,format=raw,format=raw"], "format= is given twice"),
            (
                ["--disk", "x,y"],
                "'y' is not format=… or interface=… or secret=… (a comma within a name is written ',,')",
            ),
            (["--disk", "x,size=1"], "'size=1' is not format=…"),
            (["--nic", "lan,model=ne2k"], "model=ne2k is not one of virtio, e1000, e1000e, rtl8139"),
            (["--nic", "lan,mac=1"], "Invalid value for '--nic': '1' is not a MAC address"),
            (["--memory", "much"], "Invalid value for '--memory': 'much' is not a size"),
            (["--cpus", "two"], "Invalid value for '--cpus'"),
            (["--cpus", "2", "--cores", "2"], "give either --cpus or --sockets, --cores and --threads"),
            (["--firmware", "coreboot"], "'coreboot' is not one of 'bios', 'uefi', 'uefi-secure'"),
        ],
    )
    def test_wrong_usage(self, folder: Path, arguments: list[str], message: str) -> None:
        assert message in refused("web", *arguments, code=2)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["a\nb"], "the name 'a\\nb' contains the character U+000A"),
            ([""], "the name is empty"),
            (["web", "--memory", "1000"], "memory of 1000 bytes cannot be; give a multiple of 1 MiB"),
            (["web", "--cpus", "0"], "each must be at least 1"),
            (["web", "--description", "\x1b"], "the description contains the character U+001B"),
        ],
    )
    def test_broken_rules(self, folder: Path, arguments: list[str], message: str) -> None:
        error = refused(*arguments)
        assert error.startswith("ovafs: error: ")
        assert message in error

    def test_a_name_that_is_not_utf8(self, folder: Path) -> None:
        result = ovafs("vm", "add", folder / "pool", "caf\udce9", status=1)
        assert result.stderr == "ovafs: error: the name 'caf\\udce9' contains the byte 0xe9, which is not UTF-8\n"
        result = ovafs("vm", "show", folder / "pool", "caf\udce9", status=1)
        assert result.stderr == "ovafs: error: there is no machine 'caf\\udce9'; 'ovafs vm list' shows what there is\n"

    def test_no_pool(self, folder: Path) -> None:
        result = invoke("vm", "add", "nowhere", "web")
        assert result.exit_code == 1
        assert result.stderr == (
            f"ovafs: error: {folder}/nowhere/catalog.sqlite: No such file or directory; "
            f"is {folder}/nowhere a pool? 'ovafs pool create' makes one\n"
        )


@pytest.fixture
def three_machines(folder: Path) -> Path:
    with closing(Pool("pool")) as pool:
        pool.add(machine("web", nics=(nic("web", 0, "52:54:00:00:00:01"),)))
        pool.add(machine("数据", disks=()))
        pool.add(rich_machine("gold"))
    return folder


class TestList:
    def test_columns(self, three_machines: Path) -> None:
        assert invoke("vm", "list", "pool").stdout == (
            "NAME  KIND      CPUS  MEMORY    DISKS  NICS  UUID\n"
            "web   vm        1     1.00 GiB  1      1     7785b704-d8a8-5e9c-a459-17871d508f78\n"
            "数据  vm        1     1.00 GiB  0      0     dac1675b-6194-52ae-9735-cf99cd34e717\n"
            "gold  template  24    3.00 MiB  2      2     dd002390-ab58-5e5f-aa6d-7d37931e66fd\n"
        )

    def test_json(self, three_machines: Path) -> None:
        listed = json.loads(invoke("vm", "list", "pool", "--json").stdout)
        shown = [json.loads(invoke("vm", "show", "pool", name, "--json").stdout) for name in ("web", "数据", "gold")]
        assert listed == shown

    def test_nothing(self, folder: Path) -> None:
        assert invoke("vm", "list", "pool").stdout == "NAME  KIND  CPUS  MEMORY  DISKS  NICS  UUID\n"
        assert json.loads(invoke("vm", "list", "pool", "--json").stdout) == []

    def test_a_damaged_machine(self, three_machines: Path) -> None:
        with closing(sqlite3.connect("pool/catalog.sqlite")) as connection, connection:
            connection.execute("UPDATE machines SET memory = 1 WHERE name = 'web'")
        result = invoke("vm", "list", "pool", "--json")
        assert result.exit_code == 0
        assert [found["name"] for found in json.loads(result.stdout)] == ["数据", "gold"]
        assert result.stderr.startswith("ovafs: warning: web is damaged: memory of 1 bytes cannot be")

    def test_json_is_utf8_whatever_the_locale(self, three_machines: Path) -> None:
        latin = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"}
        assert "数据" in ovafs("vm", "list", "--json", three_machines / "pool", env=latin).stdout
        assert "\\u6570" in ovafs("vm", "list", three_machines / "pool", env=latin).stdout

    def test_a_uri(self) -> None:
        result = invoke("vm", "list", "test:///missing.xml")
        assert result.exit_code == 1
        assert result.stderr.startswith("ovafs: error: test:///missing.xml: ")
        assert "'virsh -c URI list' must work" in result.stderr


class TestShow:
    def test_fields(self, three_machines: Path) -> None:
        assert invoke("vm", "show", "pool", "gold").stdout == FIELDS

    def test_the_json_document(self, three_machines: Path) -> None:
        """Programs rely on it: fields may be added, never renamed."""
        assert json.loads(invoke("vm", "show", "pool", "gold", "--json").stdout) == DOCUMENT

    def test_by_uuid(self, three_machines: Path) -> None:
        uuid = rich_machine("gold").uuid
        assert invoke("vm", "show", "pool", uuid).stdout == FIELDS

    def test_one_name_for_two(self, three_machines: Path) -> None:
        with closing(Pool("pool")) as pool:
            pool.add(machine("gold", disks=()))
        result = invoke("vm", "show", "pool", "gold")
        assert result.exit_code == 1
        assert "say which by its UUID (or --template)" in result.stderr
        assert invoke("vm", "show", "pool", "gold", "--template").stdout == FIELDS

    def test_state_and_descriptor_of_an_import(self, three_machines: Path) -> None:
        text, state = b'<?xml version="1.0"?>\r\n<Envelope>\xc3\xbc</Envelope>', b"=0=QUJD"
        with closing(Pool("pool")) as pool:
            imported = machine("taken", disks=(), nvram=state_of(state), tpm=state_of(state))
            pool.register([imported], [], Attachments({state_of(state).digest: state}, text))
        shown = invoke("vm", "show", "pool", "taken").stdout
        assert shown.endswith(
            "TPM state:           kept, 7 B\n"
            "Firmware variables:  kept, 7 B\n"
            "Descriptor:          kept, 46 B; --descriptor prints it\n"
        )
        assert json.loads(invoke("vm", "show", "pool", "taken", "--json").stdout)["tpm"]["size"] == 7
        assert invoke("vm", "show", "pool", "taken", "--descriptor").stdout_bytes == text
        assert invoke("vm", "show", "pool", "taken", "--descriptor", "--json").exit_code == 2
        none = invoke("vm", "show", "pool", "gold", "--descriptor")
        assert (none.exit_code, none.stdout) == (1, "")
        assert none.stderr == "ovafs: error: gold was not imported: there is no descriptor of it\n"

    def test_nothing(self, three_machines: Path) -> None:
        result = invoke("vm", "show", "pool", "web", "--template")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == "ovafs: error: there is no template 'web'; 'ovafs vm list' shows what there is\n"


class TestRemove:
    def test_it_says_what_stays(self, three_machines: Path) -> None:
        result = invoke("vm", "remove", "pool", "web")
        assert result.stdout == f"removed vm web ({machine('web').uuid})\nkept image /images/web-0\n"
        assert "web" not in invoke("vm", "list", "pool").stdout

    def test_nothing(self, three_machines: Path) -> None:
        result = invoke("vm", "remove", "pool", "nobody")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "there is no machine 'nobody'" in result.stderr


class TestCompletion:
    def complete(self, words: str, index: int) -> list[str]:
        environment = {"_OVAFS_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(index)}
        result = ovafs(env=environment)
        assert result.stderr == ""
        return result.stdout.split()

    def test_names(self, three_machines: Path) -> None:
        pool = three_machines / "pool"
        assert self.complete(f"ovafs vm show {pool} ", 4) == ["plain,gold", "plain,web", "plain,数据"]
        assert self.complete(f"ovafs vm remove {pool} w", 4) == ["plain,web"]

    def test_silence(self, folder: Path) -> None:
        for source in (folder / "nowhere", "qemu:///system", folder / "base.qcow2"):
            assert self.complete(f"ovafs vm show {source} ", 4) == []

    def test_commands(self) -> None:
        assert self.complete("ovafs vm ", 2) == [f"plain,{name}" for name in vm_module.COMMANDS]


FIELDS = """\
Name:              gold
UUID:              dd002390-ab58-5e5f-aa6d-7d37931e66fd
Kind:              template
Description:       two
                   lines\tand 'quotes'
Memory:            3.00 MiB
CPUs:              24 (sockets 2, cores 3, threads 4)
Firmware:          uefi-secure
Operating system:  debian12
Created:           2023-11-14 22:13:20 UTC
Modified:          2023-11-14 22:13:25 UTC
Disk 1:            /images/gold-0 (qcow2, virtio, boot)
                   volume ddd9f885-271b-598e-82e0-1cb376b98a29
Disk 2:            /dev/disk/by-id/ü,x (raw, ide)
                   volume 8ba3d8c5-cbfa-5222-9d2e-1da68d45ca5c
NIC 1:             52:54:00:ff:00:01 not connected (e1000e)
NIC 2:             52:54:00:ff:00:02 on lan (virtio)
"""

DOCUMENT = {
    "uuid": "dd002390-ab58-5e5f-aa6d-7d37931e66fd",
    "name": "gold",
    "memory": 3145728,
    "created": 1700000000,
    "modified": 1700000005,
    "kind": "template",
    "description": "two\nlines\tand 'quotes'",
    "cpu": {"sockets": 2, "cores": 3, "threads": 4},
    "firmware": "uefi-secure",
    "os": "debian12",
    "disks": [
        {
            "uuid": "7a98d908-e25d-5bb3-a7bd-0292365f9ba9",
            "alias": "gold_Disk1",
            "volume": {"uuid": "ddd9f885-271b-598e-82e0-1cb376b98a29", "path": "/images/gold-0", "format": "qcow2"},
            "interface": "virtio",
            "boot": True,
        },
        {
            "uuid": "5c6fea87-5523-5761-a1cc-217cda9e8bc8",
            "alias": "",
            "volume": {"uuid": "8ba3d8c5-cbfa-5222-9d2e-1da68d45ca5c", "path": "/dev/disk/by-id/ü,x", "format": "raw"},
            "interface": "ide",
            "boot": False,
        },
    ],
    "nics": [
        {
            "uuid": "b46dc7aa-40cb-5bc6-b2ef-8425835482cd",
            "name": "ens3",
            "network": "",
            "mac": "52:54:00:ff:00:01",
            "model": "e1000e",
        },
        {
            "uuid": "25807dfd-af68-583b-8b89-7faa4445b0dd",
            "name": "nic2",
            "network": "lan",
            "mac": "52:54:00:ff:00:02",
            "model": "virtio",
        },
    ],
    "nvram": None,
    "tpm": None,
}
