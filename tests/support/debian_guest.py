"""A small Debian that boots from its disk by a BIOS, up to "login:" on its serial port; with QEMU's guest agent in it.

Made with debootstrap from the mirror that this machine's apt uses, in one to two minutes, and kept for the next run.
Nothing is mounted but the new system's own /proc, and no loop device is needed: mke2fs takes the file system from a
directory, and GRUB's two parts are put in front of it where they look for each other (boot.img loads sector 1, where
grub-mkimage's core image expects to be).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
SIZE = 1500 * MIB
LOGIN = re.compile(rb"ovafs-guest login:")

_SUITE = "bookworm"
_UUID = "0fa5f500-0000-4000-8000-000000000001"
_PACKAGES = (
    "systemd-sysv,udev,linux-image-cloud-amd64,initramfs-tools,grub-pc,grub2-common,e2fsprogs,dbus,qemu-guest-agent"
)

# Small and quickly packed, since virt-v2v builds it anew in an emulated machine; with drivers for all buses.
_INITRAMFS = "MODULES=list\nCOMPRESS=gzip\n"
_MODULES = "virtio_pci\nvirtio_blk\nvirtio_scsi\nvirtio_net\nsd_mod\nata_piix\nahci\next4\n"

_DEFAULTS = 'GRUB_TIMEOUT=0\nGRUB_CMDLINE_LINUX="console=ttyS0"\nGRUB_TERMINAL=serial\nGRUB_DISABLE_OS_PROBER=true\n'
_MENU = """set timeout=0
menuentry 'Debian' {{
    search --no-floppy --fs-uuid --set=root {uuid}
    linux /boot/{kernel} root=UUID={uuid} ro console=ttyS0
    initrd /boot/{initrd}
}}
"""


def debian_disk(cache: Path) -> Path:
    """The raw disk, from ``cache`` or made now. Nobody may write to it."""
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    disk = cache / f"debian-{recipe}.raw"
    if not disk.exists():
        if os.getuid() != 0:
            pytest.skip("needs root, to make a Debian guest")
        for old in cache.glob("debian-*"):
            old.unlink()
        with tempfile.TemporaryDirectory(prefix="debian-", dir=cache) as folder:
            new = Path(folder, "disk.raw")
            root = Path(folder, "root")
            _bootstrap(root)
            _configure(root)
            _write_disk(root, new)
            new.chmod(0o444)
            new.rename(disk)
    return disk


def _bootstrap(root: Path) -> None:
    mirror = next(
        iter(run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").stdout.split())
    )
    run("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, root, mirror, timeout=900)


def _configure(root: Path) -> None:
    for unneeded in (
        "var/cache/apt/archives",
        "var/lib/apt/lists",
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
    ):
        shutil.rmtree(root / unneeded, ignore_errors=True)
    (root / "var/cache/apt/archives/partial").mkdir(parents=True)
    (root / "etc/hostname").write_text("ovafs-guest\n")
    (root / "etc/fstab").write_text(f"UUID={_UUID} / ext4 defaults 0 1\n")
    shadow = root / "etc/shadow"
    shadow.write_text(re.sub("^root:[^:]*:", "root::", shadow.read_text(), flags=re.MULTILINE))
    (root / "etc/default/grub").write_text(_DEFAULTS)
    kernel, initrd = (_newest(root / "boot", name) for name in ("vmlinuz-*", "initrd.img-*"))
    (root / "boot/grub").mkdir(exist_ok=True)
    (root / "boot/grub/grub.cfg").write_text(_MENU.format(uuid=_UUID, kernel=kernel, initrd=initrd))
    (root / "etc/initramfs-tools/conf.d/small").write_text(_INITRAMFS)
    (root / "etc/initramfs-tools/modules").write_text(_MODULES)
    with _proc(root):
        run("chroot", root, "update-initramfs", "-u", "-k", kernel.removeprefix("vmlinuz-"))


def _newest(folder: Path, pattern: str) -> str:
    return max(path.name for path in folder.glob(pattern))


@contextlib.contextmanager
def _proc(root: Path) -> Iterator[None]:
    run("mount", "-t", "proc", "proc", root / "proc")
    try:
        yield
    finally:
        run("umount", root / "proc")


def _write_disk(root: Path, disk: Path) -> None:
    """One partition from 1 MiB on, and the boot loader before it."""
    modules = ("biosdisk", "part_msdos", "ext2", "search", "search_fs_uuid", "normal", "linux", "serial", "configfile")
    make = ("grub-mkimage", "-O", "i386-pc", "-o", "/tmp/core.img", "-p", "(hd0,msdos1)/boot/grub", *modules)
    run("chroot", root, *make)
    core = (root / "tmp/core.img").read_bytes()
    (root / "tmp/core.img").unlink()
    loader = (root / "usr/lib/grub/i386-pc/boot.img").read_bytes()
    assert len(core) < MIB - 512
    disk.touch()
    os.truncate(disk, SIZE)
    run("bash", "-ec", "printf 'label: dos\\nlabel-id: 0x0fa5f500\\n2048,,83,*\\n' | sfdisk -q \"$0\"", disk)
    with disk.open("r+b") as file:
        file.write(loader[:440])
        file.seek(512)
        file.write(core)
    blocks = f"{(SIZE - MIB) // 1024}k"
    run("mke2fs", "-q", "-t", "ext4", "-U", _UUID, "-E", f"offset={MIB}", "-d", root, disk, blocks)
