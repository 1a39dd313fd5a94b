"""A program in the place of virt-v2v-in-place, for what is done around it: what the real one does takes minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovafs.inventory.pool import Pool

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

VIRTIO = "virt-v2v-in-place: This guest has virtio drivers installed."

# Every disk of the definition gets a sector of 0x77 at 4096.
_SUCCESS = f"""#!/bin/sh
echo '[   0.0] Opening the source'
tr '<' '\\n' <"$3" | sed -n "s/^source file=[\\"']\\([^\\"']*\\).*/\\1/p" | while read -r image; do
    qemu-io -f qcow2 -c 'write -P 0x77 4096 512' "$image" >/dev/null
done
echo '{VIRTIO}'
"""
_FAILURE = """#!/bin/sh
tr '<' '\\n' <"$3" | sed -n "s/^source file=[\\"']\\([^\\"']*\\).*/\\1/p" | while read -r image; do
    qemu-io -f qcow2 -c 'write -P 0x66 0 65536' "$image" >/dev/null
done
echo 'virt-v2v-in-place: error: inspection could not detect the source guest'
exit 1
"""
# With a child that ends with nobody.
_HANGING = """#!/bin/sh
echo '[   3.0] Converting it'
sleep 1000 &
echo $$ $! >{pids}.new
mv {pids}.new {pids}
sleep 1000
"""


class RunningPool(Pool):
    """A pool where guests are said to run."""

    runs_guests = True


class Converter:
    """The program; it comes first in the PATH of this process."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.path = folder / "virt-v2v-in-place"
        self.pids = folder / "pids"
        self._patch = patch
        patch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def succeeds(self) -> None:
        self._write(_SUCCESS)

    def fails(self) -> None:
        """Having changed what it was given."""
        self._write(_FAILURE)

    def hangs(self) -> None:
        """Two processes, whose numbers are in ``pids``."""
        self._write(_HANGING.format(pids=self.pids))

    def talks(self) -> None:
        """Without an end."""
        self._write("#!/bin/sh\nyes\n")

    def is_missing(self) -> None:
        """Nor is anything else in the PATH."""
        self.path.unlink()
        self._patch.setenv("PATH", str(self.path.parent))

    def _write(self, text: str) -> None:
        new = self.path.with_name("new")
        new.write_text(text)
        new.chmod(0o755)
        new.rename(self.path)
