"""Programs of this machine that copy into the drop directory: each ends in an imported machine with the same disk."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.drop import Place, place_in
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG_AGO = 1_600_000_000


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place_in(tmp_path_factory.mktemp("tools")) as place:
        yield place


TOOLS = {
    "cp": "cp $S $D",
    "cp -a": "cp -a $S $D",
    "cp --sparse=always": "cp --sparse=always $S $D",
    "cp --sparse=never": "cp --sparse=never $S $D",
    "cp --reflink=auto": "cp --reflink=auto $S $D",
    "cp -f, attributes": "setfattr -n user.origin -v x $S; setfacl -m u:1234:r $S; cp -f --preserve=all $S $D",
    "mv": "cp -p $S $S.copy && mv $S.copy $D && ! test -e $S.copy",
    "install": "install -m 640 $S $D",
    "rsync": "rsync $S $D",
    "rsync -a": "rsync -a $S $D",
    "rsync -a, a directory": "mkdir $S.d && cp -p $S $S.d && rsync -a $S.d/ ${D%/*}/",
    "rsync -aHAX": "setfattr -n user.origin -v x $S; setfacl -m u:1234:r $S; rsync -aHAX $S $D",
    "rsync --inplace": "rsync --inplace $S $D",
    "rsync -S": "rsync -S $S $D",
    "rsync -W": "rsync -W $S $D",
    "rsync -z": "rsync -z $S $D",
    "rsync --partial": "rsync --partial $S $D",
    "rsync --partial-dir": "rsync --partial-dir=.rsync-partial $S $D",
    "rsync --delay-updates": "rsync --delay-updates $S $D",
    "rsync --fsync": "rsync --fsync $S $D",
    "rsync --preallocate": "rsync --preallocate $S $D",
    "rsync --temp-dir": "mkdir -p ${D%/*}/.t && rsync --temp-dir=${D%/*}/.t $S $D && rmdir ${D%/*}/.t",
    "dd bs=7000": "dd if=$S of=$D bs=7000",
    "dd bs=513": "dd if=$S of=$D bs=513",
    "dd bs=3M": "dd if=$S of=$D bs=3M",
    "dd conv=fsync": "dd if=$S of=$D bs=1M conv=fsync",
    "dd conv=sparse": "dd if=$S of=$D bs=64K conv=sparse",
    "dd oflag=direct": "dd if=$S of=$D bs=1M oflag=direct",
    "dd oflag=dsync": "dd if=$S of=$D bs=1M oflag=dsync",
    "dd conv=excl": "dd if=$S of=$D bs=1M conv=excl",
    "cat >": "cat $S > $D",
    "cat >>": "cat $S >> $D",
    "tee": "tee $D < $S > /dev/null",
    "tee -a": "tee -a $D < $S > /dev/null",
    "tar -xO": "tar -C ${S%/*} -cf - ${S##*/} | tar -xOf - > $D",
    "tar -x": "tar -C ${S%/*} -cf - ${S##*/} | tar -C ${D%/*} -xf -",
    "tar -xS": "tar -C ${S%/*} -cSf - ${S##*/} | tar -C ${D%/*} -xf -",
    "bsdtar -x": "bsdtar -C ${S%/*} -cf - ${S##*/} | bsdtar -C ${D%/*} -xf -",
    "curl": "curl -s -o $D file://$S",
    "gio": "gio copy $S $D",
    "rclone": "rclone --config /dev/null copyto $S $D",
    "python copy2": "python3 -c 'import shutil, sys; shutil.copy2(*sys.argv[1:])' $S $D",
    "python copyfile": "python3 -c 'import shutil, sys; shutil.copyfile(*sys.argv[1:])' $S $D",
    "python move": "cp -p $S $S.copy && python3 -c 'import shutil, sys; shutil.move(*sys.argv[1:])' $S.copy $D",
    "rename": "cp $S $D.part && mv $D.part $D",
    "rename out of a directory": "mkdir ${D%/*}/.tmp && cp $S ${D%/*}/.tmp/x.part && mv ${D%/*}/.tmp/x.part $D"
    " && rmdir ${D%/*}/.tmp",
    "truncate first": "truncate -s $(stat -c %s $S) $D.part; dd if=$S of=$D.part bs=1M conv=notrunc; mv $D.part $D",
    "flock": "flock $D.part cat $S > $D.part && mv $D.part $D",
}

# Each keeps the time of the source, so it is what a second run looks at.
KEEPS_TIMES = ("cp -a", "cp -f", "mv", "rsync -a", "rclone", "python copy2", "python move", "tar -x", "bsdtar")


@pytest.mark.parametrize("tool", TOOLS)
def test_tools(shared: Place, tool: str) -> None:
    name = f"{list(TOOLS).index(tool)}{re.sub(r'[^a-z]+', '-', tool)}"
    source, target = shared.package(name), shared.drop / f"{name}.ova"
    os.utime(source, (LONG_AGO, LONG_AGO))
    run("bash", "-ec", TOOLS[tool], env={"S": str(source), "D": str(target)})
    shared.assert_imported(name)
    assert target.stat().st_size == source.stat().st_size
    if tool.startswith(KEEPS_TIMES) and tool != "tar -xO":
        assert target.stat().st_mtime == LONG_AGO
    assert [one for one in shared.names() if name in one or one.startswith(".")] == [target.name]
