"""URIs of disks on the network."""

from __future__ import annotations

import pytest

from ovafs.errors import InvalidDefinition
from ovafs.formats.network_disk import NetworkDisk, is_location, network_disk, parse_location

DISKS = {
    "nbd://host/": NetworkDisk("nbd", "", "host", 10809),
    "nbd://host:1/a%20b/%C3%BC": NetworkDisk("nbd", "a b/ü", "host", 1),
    "nbd://[fe80::1]:7/x": NetworkDisk("nbd", "x", "fe80::1", 7),
    "nbd+unix:///x%3Fy?socket=/run/a%20b%26c": NetworkDisk("nbd", "x?y", socket="/run/a b&c"),
    "https://host/images/a.img": NetworkDisk("https", "images/a.img", "host", 443),
    "http://127.0.0.1:8080/a": NetworkDisk("http", "a", "127.0.0.1", 8080),
    "iscsi://host/iqn.2024-01.org.example:disk/1": NetworkDisk("iscsi", "iqn.2024-01.org.example:disk/1", "host", 3260),
    "ssh://host/var/lib/a%20b.img": NetworkDisk("ssh", "var/lib/a b.img", "host", 22),
    "ssh://root@[fe80::1]:2222/x": NetworkDisk("ssh", "x", "fe80::1", 2222, user="root"),
}


@pytest.mark.parametrize("text", DISKS)
def test_there_and_back(text: str) -> None:
    assert parse_location(text) == DISKS[text]
    assert DISKS[text].location == text
    assert is_location(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("rbd://host/pool/image", "the protocol 'rbd' is not supported"),
        ("sftp://host/x", "the protocol 'sftp' is not supported"),
        ("file:///etc/shadow", "the protocol 'file' is not supported"),
        ("https://user:pw@host/x", "has a user, a password or a fragment"),
        ("ssh://user:pw@host/x", "has a user, a password or a fragment"),
        ("ssh://-oProxyCommand=x@host/x", "has the user '-oProxyCommand=x'"),
        ("ssh://@host/x", "has an empty user"),
        ("ssh://-oProxyCommand=x/x", "has the host '-oproxycommand=x'"),
        ("ssh://host/", "has the name ''"),
        ("https://host/x#y", "has a user, a password or a fragment"),
        ("https://host/x?token=1", "has parts that are not supported"),
        ("https+unix:///x?socket=/s", "has parts that are not supported"),
        ("https://host/", "has the name ''"),
        ("https:///x", "has the host ''"),
        ("nbd://host:0/x", "has the port 0"),
        ("nbd://host:99999/x", "is no URI of a disk"),
        ("nbd://[::1/x", "is no URI of a disk"),
        ("nbd://h%20/x", "has the host 'h%20'"),
        ("nbd://host/a%0Ab", "has the name"),
        ("nbd://host/" + "x" * 2000, "has the name"),
        ("nbd+unix:///x", "is not of the form"),
        ("nbd+unix:///x?socket=/a&socket=/b", "is not of the form"),
        ("nbd+unix://host/x?socket=/a", "is not of the form"),
        ("nbd+unix:///x?socket=a", "is no socket"),
        ("iscsi://host/target", "is not of the form TARGET/LUN"),
        ("iscsi://host/target/x", "is not of the form TARGET/LUN"),
    ],
)
def test_what_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidDefinition) as caught:
        parse_location(text)
    assert reason in str(caught.value)
    assert "pw" not in str(caught.value)


def test_parts_that_cannot_be() -> None:
    for protocol in ("http", "iscsi"):
        with pytest.raises(InvalidDefinition, match="is no socket"):
            network_disk(protocol, "t/1", socket="/x")
    with pytest.raises(InvalidDefinition, match="a disk by nbd has the user 'root'"):
        network_disk("nbd", "x", "host", user="root")


def test_paths() -> None:
    assert not any(map(is_location, ("/a", "/nbd://x", "a:/b", "NBD://x", "")))
