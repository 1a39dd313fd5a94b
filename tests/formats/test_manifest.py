"""Manifests and certificates, as producers and repackers write them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovafs.errors import InvalidPackage
from ovafs.formats.manifest import MAX_CERTIFICATE, MAX_MANIFEST, Digest, parse_manifest, split_certificate
from tests.support.shared import shared_path

SHA1, SHA256, SHA512 = ("a" * 40, "b1" * 32, "c" * 128)
ONE = {"f": (Digest("sha1", bytes.fromhex(SHA1)),)}
TWO = {"f": (Digest("sha256", bytes.fromhex(SHA256)),)}
FIVE = {"f": (Digest("sha512", bytes.fromhex(SHA512)),)}
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"


@pytest.mark.parametrize(
    ("text", "files"),
    [
        (f"SHA1(f)= {SHA1}\n", ONE),
        (f"SHA1 (f) = {SHA1}\n", ONE),
        (f"SHA1(f)={SHA1}", ONE),
        (f"sha1(f)= {SHA1.upper()}\r\n", ONE),
        (f"SHA-1(f)= {SHA1}\n\n\n", ONE),
        (f"SHA256(f)= {SHA256}\n", TWO),
        (f"SHA2-256(f)= {SHA256}\n", TWO),
        (f"\ufeffSHA-256 (f)  =  {SHA256}   \n", TWO),
        (f"SHA512(f)= {SHA512}\n", FIVE),
        (f"SHA1(f)= {SHA1}\nSHA256(f)= {SHA256}\n", {"f": ONE["f"] + TWO["f"]}),
        (f"SHA1(f)= {SHA1}\n" * 5, ONE),
        (f"SHA1(./f)= {SHA1}\n", ONE),
        (f"SHA1(f)= {SHA1}\nSHA1(me.mf)= {SHA1}\nSHA1(Me.CERT)= {SHA1}\n", ONE),
        (f"SHA1(f)= {SHA1}\n" + " " * 68, ONE),
        (f"SHA1(f)= {SHA1}\n" + "\0" * 68, ONE),
        (" " * 68, {}),
        ("", {}),
        (f"SHA1(Kali (Workshop) = x.ovf)= {SHA1}\n", {"Kali (Workshop) = x.ovf": ONE["f"]}),
        (f"SHA1(späce 虚拟机)= {SHA1}\n", {"späce 虚拟机": ONE["f"]}),
    ],
)
def test_spellings(text: str, files: dict[str, tuple[Digest, ...]]) -> None:
    assert parse_manifest(text.encode()).files == files


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (f"MD5(f)= {'a' * 32}\n".encode(), "line 1: unknown digest algorithm 'MD5'; SHA1, SHA256 and SHA512 are known"),
        (f"SHA3-256(f)= {SHA256}\n".encode(), "line 1: unknown digest algorithm 'SHA3-256'"),
        (f"\nSHA256(f)= {SHA1}\n".encode(), "line 2: 40 digits are no SHA256 digest"),
        (b"SHA1(f)= \n", "line 1: 0 digits"),
        (f"SHA1(f)= {SHA1} x\n".encode(), "line 1 is not of the form"),
        (f"{SHA1}  f\n".encode(), "line 1 is not of the form"),
        (b"<Envelope/>", "line 1 is not of the form"),
        (f"SHA1(f)= {SHA1}\nSHA1(f)= {'d' * 40}\n".encode(), "line 2: a second digest of 'f'"),
        (b"\xff", "its byte 0 is not UTF-8"),
        (b" " * (MAX_MANIFEST + 1), f"is {MAX_MANIFEST + 1} bytes long"),
    ],
)
def test_refusals(data: bytes, message: str) -> None:
    with pytest.raises(InvalidPackage) as caught:
        parse_manifest(data, "vm.mf")
    assert str(caught.value).startswith(f"'vm.mf': {message}")


def members(name: str) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(shared_path(f"samples/{name}").read_bytes())) as archive:
        files = ((info.name, archive.extractfile(info)) for info in archive)
        return {name: file.read() for name, file in files if file is not None}


# How many members the manifest lists, and what is listed with a digest that is not the member's.
SAMPLES: dict[str, tuple[int, set[str]]] = {
    "ovftool/tdAppliance1-t1.ova": (0, set()),
    "ovftool/tdAppliance1-t2.ova": (1, set()),
    "ovftool/tdAppliance1-t3-ovftool-4.1.0.ova": (2, set()),
    "ovftool/tdAppliance1-t4.ova": (2, set()),
    "ovftool/tdAppliance1-t7-bad-instance.ova": (3, set()),
    "virtualbox/ctl-virtio-ovf10.ova": (2, set()),
    "virtualbox/diskless.ova": (1, set()),
    "virtualbox/efi-scsi-ovf20-iso.ova": (4, set()),
    "virtualbox/linux-sata-ovf10.ova": (2, set()),
    "virtualbox/linux-sata-ovf20.ova": (2, set()),
    "virtualbox/two-vms-ovf10.ova": (5, set()),
    "other/harvester/test.ova": (2, set()),
    "other/open-ovf/py_tests_test_files_ourOVF.ova": (3, {"ourOVF.ovf"}),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples(name: str) -> None:
    files = members(name)
    text = next(data for name, data in files.items() if name.endswith(".mf"))
    manifest = parse_manifest(text)
    wrong = {
        listed
        for listed, digests in manifest.files.items()
        for digest in digests
        if hashlib.new(digest.algorithm, files[listed]).digest() != digest.value
    }
    assert (len(manifest.files), wrong) == SAMPLES[name]


# -- certificates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"SHA1(vm.mf)= c0ffee\n{PEM}",
        f"SHA1 (vm.mf) = c0ffee\r\n{PEM}\r\n",
        f"SHA-1(vm.mf)= c0f\nfee\n{PEM}",
        f"SHA1(vm.mf)= c0ffee\n{PEM}\n" + " " * 100_000,
        f"SHA1(vm.mf)= C0FFEE\n\n{PEM}",
    ],
)
def test_certificates(text: str) -> None:
    found = split_certificate(text.encode())
    assert found == ("sha1", "vm.mf", b"\xc0\xff\xee", PEM)


def test_a_chain_of_certificates() -> None:
    chain = PEM + "\n" + PEM.replace("CERTIFICATE", "CMS")
    assert split_certificate(f"SHA512(vm.mf)= 00\n{chain}\n".encode()).pem == chain


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not begin with a line 'SHA256(NAME.mf)= SIGNATURE'"),
        (PEM.encode(), "does not begin with a line"),
        (f"SHA1(vm.mf)= \n{PEM}".encode(), "does not begin with a line"),
        (f"SHA1(vm.mf)= abc\n{PEM}".encode(), "does not begin with a line"),
        (f"MD5(vm.mf)= abcd\n{PEM}".encode(), "its first line: unknown digest algorithm 'MD5'"),
        (b"SHA1(vm.mf)= abcd\n", "has no complete PEM block behind the signature"),
        (b"SHA1(vm.mf)= abcd\n-----BEGIN CERTIFICATE-----\nMIIB\n", "has no complete PEM block"),
        (b" " * (MAX_CERTIFICATE + 1), f"is {MAX_CERTIFICATE + 1} bytes long"),
    ],
)
def test_certificate_refusals(data: bytes, message: str) -> None:
    with pytest.raises(InvalidPackage) as caught:
        split_certificate(data, "vm.cert")
    assert str(caught.value).startswith(f"'vm.cert': {message}")


def test_certificate_of_ovftool() -> None:
    data = members("ovftool/tdAppliance1-t4.ova")["tdAppliance1-t4.cert"]
    found = split_certificate(data)
    assert (len(data), found.algorithm, found.manifest_name, len(found.signature)) == (
        102400,
        "sha1",
        "tdAppliance1-t4.mf",
        128,
    )
    assert found.pem.count("-----") == 4


def test_certificate_of_open_ovf_has_a_signature_over_two_lines() -> None:
    found = split_certificate(members("other/open-ovf/py_tests_test_files_ourOVF.ova")["ourOVF.cert"])
    assert (found.manifest_name, len(found.signature)) == ("ourOvf.mf", 64)


@given(st.binary(max_size=300) | st.text("SHA15(26).mf)= \r\nabf-BEGIND", max_size=200).map(str.encode))
def test_anything_is_read_or_refused(data: bytes) -> None:
    for parse in (parse_manifest, split_certificate):
        with contextlib.suppress(InvalidPackage):
            parse(data)
