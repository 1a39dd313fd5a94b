"""Mount options: every known one, and a clear refusal of the rest."""

from __future__ import annotations

import pytest

from ovafs.errors import MountFailed
from ovafs.fuse.options import MountOptions, options_document, parse_options
from ovafs.inventory.inventory import Freeze
from ovafs.inventory.selection import Selection
from ovafs.transfer.adapt.policy import Adapt
from ovafs.transfer.packager import Pin


def test_defaults() -> None:
    assert parse_options(()) == MountOptions()
    assert MountOptions().mode == 0o440
    assert MountOptions().read_ahead == 1 << 20


def test_all_values() -> None:
    options = parse_options(
        ("allow_other,ro,nodev", "uid=36,gid=36,mode=0444,read_ahead=4MiB,keep_partial=1.5d,log=/tmp/a\\,b.log,debug")
    )
    assert options == MountOptions(
        kernel=frozenset({"allow_other", "ro", "nodev"}),
        uid=36,
        gid=36,
        mode=0o444,
        read_ahead=4 << 20,
        keep_partial=36 * 3600.0,
        log="/tmp/a,b.log",
        debug=True,
    )


def test_choices_for_uploads() -> None:
    options = parse_options(("drop_format=keep,drop_network=VM Network,drop_clash=refuse",))
    assert (options.drop_format, options.drop_network, options.drop_clash) == ("keep", "VM Network", "refuse")
    options = parse_options(("drop_certificate=require,drop_ca_file=/etc/../vendors.pem",))
    assert (options.drop_certificate, options.drop_ca_file) == ("require", "/vendors.pem")


def test_choices_for_libvirt() -> None:
    options = parse_options(("backup_age=90m,scratch=/var/../srv/scratch,scratch_reserve=8GiB,pin=reflink",))
    assert (options.backup_age, options.scratch, options.scratch_reserve) == (5400.0, "/srv/scratch", 8 << 30)
    assert options.pin is Pin.REFLINK
    assert (options.freeze, parse_options(("freeze=require",)).freeze) == (Freeze.AUTO, Freeze.REQUIRE)
    options = parse_options(("adapt=v2v,adapt_limit=90m",))
    assert (options.adapt, options.adapt_limit) == (Adapt.V2V, 5400.0)
    options = parse_options(("include=web*,snapshots", "tag=nightly,tag=weekly,templates=base,exclude=old"))
    assert options.selection == Selection(("web*",), ("old",), ("base",), ("nightly", "weekly"), snapshots=True)
    assert options_document(options)["tag"] == ["nightly", "weekly"]
    assert options_document(options)["snapshots"] is True


def test_options_of_fstab_are_ignored() -> None:
    text = "defaults,rw,noauto,user,nofail,_netdev,x-systemd.automount,comment=hello"
    assert parse_options((text,)) == MountOptions()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("allow_othr", "unknown mount option 'allow_othr'"),
        ("auto_unmount", "unknown mount option 'auto_unmount'"),
        ("ro=1", "unknown mount option 'ro=1'"),
        ("uid", "mount option uid= needs a value"),
        ("uid=", "mount option uid= needs a value"),
        ("uid=root", "uid=root: not a number of a user or group, for example 1000"),
        ("gid=-1", "gid=-1: not a number"),
        ("gid=4294967295", "gid=4294967295: not a number"),
        ("mode=0644", "mode=0644: only read permission bits can be given"),
        ("mode=0", "mode=0: only read"),
        ("mode=0o444", "mode=0o444: not permission bits, for example 0770"),
        ("drop_mode=1777", "drop_mode=1777: not permission bits"),
        ("keep_partial=24", "keep_partial=24: '24' is not a duration; write for example 24h"),
        ("keep_partial=-1h", "is not a duration"),
        ("keep_partial=99999999999w", "is not a duration"),
        ("drop_format=vmdk", "drop_format=vmdk: not one of qcow2, raw, keep"),
        ("drop_clash=x", "drop_clash=x: not one of suffix, refuse"),
        ("drop_certificate=yes", "drop_certificate=yes: not one of ignore, warn, require"),
        ("drop_network=a\nb", "the network 'a.nb' contains"),
        ("pin=copy", "pin=copy: not one of lock, reflink"),
        ("backup_age=1", "backup_age=1: '1' is not a duration"),
        ("scratch=", "mount option scratch= needs a value"),
        ("scratch_reserve=-1", "scratch_reserve=-1: '-1' is not a size"),
        ("snapshots=yes", "unknown mount option 'snapshots=yes'"),
        ("tag=", "mount option tag= needs a value"),
        ("read_ahead=much", "read_ahead=much: 'much' is not a size"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(MountFailed, match=message):
        parse_options((text,))
