"""How much memory an import takes: the same for any size of package."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import run

if TYPE_CHECKING:
    from tests.support.packages import ImportPool

# A package of 1 GiB that is made while it is read: every tenth MiB of the disk is data.
IMPORT = """
import contextlib, os, sys
from ovafs.inventory.pool import Pool
from ovafs.transfer.ingest.choices import ImportChoices
from ovafs.transfer.ingest.package import import_package
from tests.support.attack_tars import END, header, member
from tests.support.packages import DiskText, descriptor

pool, kind = sys.argv[1:]
MIB, COUNT = 1 << 20, 1024
data = [os.urandom(MIB)] + [bytes(MIB)] * 9

def disk():
    for number in range(COUNT):
        yield memoryview(data[number % 10])

def package():
    text = member(b"vm.ovf", descriptor(DiskText("d", COUNT * MIB)))
    if kind == "late":
        yield memoryview(header(b"d", COUNT * MIB))
        yield from disk()
        yield memoryview(text + END)
    else:
        yield memoryview(text + header(b"d", COUNT * MIB))
        yield from disk()
        yield memoryview(END)

with contextlib.closing(Pool(pool)) as opened:
    import_package(opened, package(), "vm", ImportChoices(spool_limit=COUNT * MIB))
with open("/proc/self/status") as status:  # not ru_maxrss: that begins with the parent's
    print(next(line.split()[1] for line in status if line.startswith("VmHWM:")))
"""


@pytest.mark.parametrize("kind", ["raw", "late"])
def test_an_import_of_1_gib(pool: ImportPool, kind: str) -> None:
    result = run(sys.executable, "-c", IMPORT, pool.path, kind)
    assert int(result.stdout) < 100 << 10  # KiB
    pool.assert_whole(1)
