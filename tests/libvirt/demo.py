"""``make demo-libvirt``: a running machine is copied while it writes, and the copy, dropped back, starts.

With a libvirt of its own, in a mount namespace, so that the host's is not touched. The guest is one sector that counts:
each iteration n writes n at the beginning of the disk, somewhere in it, and at its end.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import click

from tests.libvirt.serial_port import listen
from tests.support import processes
from tests.support.guests import CountingGuest, counters, counting_image
from tests.support.libvirtd import own_libvirt
from tests.support.mount import mounted
from tests.support.oracles import tar_members
from tests.support.processes import run

_LINE = re.compile(rb"[0-9a-f]{16}\n")


def title(text: str) -> None:
    """A line above what follows."""
    click.echo(f"\n== {text}")


def show(*words: str | Path) -> str:
    """Run a command, and print it with what it says."""
    click.echo(f"$ {shlex.join(str(word) for word in words)}")
    output = run(*words).stdout
    click.echo(output, nl=False)
    return output


def demo(folder: Path) -> None:
    """All of it, below ``folder``."""
    with own_libvirt(folder / "libvirt") as libvirt:
        virsh = ("virsh", "-c", libvirt.uri)
        title("A guest that runs, and writes all the time, on a chain of three images")
        guest = CountingGuest(libvirt, "web", counting_image(folder / "web.qcow2", depth=3), "qcow2", folder)
        guest.start()
        show(*virsh, "list")
        click.echo(f"it has counted to {guest.wait(500)}")

        title("A mount of libvirt: every domain is a file")
        click.echo(f"$ ovafs mount {libvirt.uri} {folder / 'mnt'} -o scratch={folder / 'scratch'}")
        with mounted(libvirt.uri, folder, f"scratch={folder / 'scratch'}") as mount:
            show("ls", "-l", mount.path / "vms")

            title("The export of the running machine is cp")
            before = guest.number
            show("cp", mount.path / "vms" / "web.ova", folder / "copy.ova")
            after = guest.wait(200)
            click.echo(
                f"it counted from {before} to {after} meanwhile; its clock stood still {guest.longest_gap():.2f} s"
            )

            title("Proof: the copy is of one moment")
            show("tar", "tvf", folder / "copy.ova")
            disk = tar_members(folder / "copy.ova")[-1].name
            show("tar", "xf", folder / "copy.ova", "-C", folder, disk)
            show("qemu-img", "check", "-f", "qcow2", folder / disk)
            show("qemu-img", "convert", "-f", "qcow2", "-O", "raw", folder / disk, folder / "disk.raw")
            first, last, between = counters(folder / "disk.raw")
            click.echo(f"beginning {first}, end {last}, in between {between}")
            if not (before <= last == between and first in {last, last + 1}):
                sys.exit("demo: the copy is a mixture of moments")

            title("The import is cp, too: a domain that starts")
            show("cp", folder / "copy.ova", mount.path / "drop" / "again.ova")
            show(*virsh, "list", "--all")
            with listen(libvirt, "web-2") as said:
                click.echo(f"web-2 says on its serial port: {said(_LINE).decode().strip()}")
            title("Done: the copy of a running machine runs")


def main() -> None:
    """Set the place up, and take it away whatever happens."""
    if os.getuid() != 0:
        sys.exit("demo: needs root, for a mount namespace with a libvirt of its own")
    folder = Path(tempfile.mkdtemp(prefix="ovafs-demo-"))
    processes.ENVIRONMENT["XDG_STATE_HOME"] = str(folder / "state")
    try:
        demo(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
