"""Signed packages; keys, certificates and signatures are those of openssl."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import InvalidChoices, InvalidPackage
from ovafs.transfer.ingest.certificates import check_chain, check_signature, read_certificates
from ovafs.transfer.ingest.signature import CertificatePolicy, Trust, load_trust
from tests.support import signing
from tests.support.packages import archive, manifest, small_package
from tests.support.processes import run
from tests.support.shared import shared_path
from tests.support.signing import Authority, Signer, signed_package

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.packages import ImportPool

IGNORE, WARN, REQUIRE = CertificatePolicy


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def root(authority: Authority) -> Signer:
    return authority.signer("root", extension=signing.CA)


@pytest.fixture(scope="module")
def vendor(authority: Authority, root: Signer) -> Signer:
    return authority.signer("vendor", root)


def required(*trusted: Signer) -> Trust:
    return Trust(policy=REQUIRE, certificates=b"".join(one.pem for one in trusted))


def unsigned() -> bytes:
    parts = small_package()
    return archive({**parts, "web.mf": manifest(parts)})


def test_what_is_trusted_is_imported_without_a_word(pool: ImportPool, vendor: Signer, root: Signer) -> None:
    run("openssl", "verify", "-CAfile", root.certificate, vendor.certificate)
    for trust in (required(root), required(vendor), Trust(certificates=root.pem), Trust(policy=IGNORE)):
        imported = pool.take(signed_package(vendor), trust=trust)
        assert [warning for warning in imported.warnings if "name" not in warning] == []
    pool.assert_whole(4)


@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha512"])
@pytest.mark.parametrize("key", [signing.EC, signing.RSA], ids=["ecdsa", "rsa"])
def test_every_key_and_digest(
    pool: ImportPool, authority: Authority, root: Signer, key: tuple[str, ...], digest: str
) -> None:
    signer = authority.signer("any", root, key=key)
    imported = pool.take(signed_package(signer, digest=digest), trust=required(root))
    weak = "web.cert: its signature is good, but made with SHA-1, which is too weak to rely on"
    assert imported.warnings == ([weak] if digest == "sha1" else [])


def test_issuers_in_between_come_with_the_package(pool: ImportPool, authority: Authority, root: Signer) -> None:
    issuers = [root]
    for number in range(3):
        issuers.append(authority.signer(f"issuer-{number}", issuers[-1], signing.CA))
    signer = authority.signer("far", issuers[-1])
    assert pool.take(signed_package(signer, *issuers[:0:-1]), trust=required(root)).warnings == []
    with pytest.raises(InvalidPackage, match=r"'web.cert': no trusted certificate vouches for it"):
        pool.take(signed_package(signer, *issuers[:1:-1]), trust=required(root))


def test_who_is_not_trusted(pool: ImportPool, authority: Authority, vendor: Signer, root: Signer) -> None:
    stranger = authority.signer("stranger", extension=signing.CA)
    last = authority.signer("last", root, signing.LAST_CA)
    beyond = authority.signer("beyond", last, signing.CA)
    for package, reason in (
        (signed_package(stranger), "no trusted certificate vouches for it, nor for an issuer in the package"),
        (signed_package(authority.signer("x", vendor), vendor), "the trusted certificates do not vouch for it: "),
        (signed_package(authority.signer("x", beyond), beyond, last), "the trusted certificates do not vouch for it: "),
    ):
        with pytest.raises(InvalidPackage, match=f"'web.cert': {reason}"):
            pool.take(package, trust=required(root))
        pool.assert_whole()
        (warning,) = pool.take(package, trust=Trust(certificates=root.pem), dry=True).warnings
        assert warning.startswith(f"web.cert: {reason}")


def test_nobody_is_trusted(pool: ImportPool, vendor: Signer) -> None:
    assert pool.take(signed_package(vendor)).warnings == [
        "web.cert: signed by CN=vendor,O=Example; no certificates are trusted, so nobody vouches for that"
    ]


def test_dates(vendor: Signer, root: Signer) -> None:
    signer, trusted = read_certificates(vendor.pem), read_certificates(root.pem)
    now = datetime.now(UTC)
    check_chain(signer, trusted, now)
    for days in (-1, 10):
        with pytest.raises(ValueError, match=r"its certificate is valid from 20..-..-.. to 20..-..-.. only"):
            check_chain(signer, trusted, now + timedelta(days=days))


def test_a_signature_of_something_else(pool: ImportPool, authority: Authority, vendor: Signer, root: Signer) -> None:
    parts = small_package()
    text = manifest(parts)
    good = vendor.certificate_file(text)
    for certificate, reason in (
        (vendor.certificate_file(text + b"\n"), "its signature is not that of the manifest"),
        (good.replace(vendor.pem, root.pem), "its signature is not that of the manifest"),
        (vendor.certificate_file(text, name="other.mf"), "signs 'other.mf', not 'web.mf'"),
        (b"nonsense", "does not begin with a line"),
        (good.replace(b"MII", b"AII"), "error parsing asn1 value"),
        (good + vendor.pem * 10, "it has 11 certificates, more than 10"),
        (good.replace(b"CERTIFICATE", b"CERTIFICATE REQUEST"), "Unable to load PEM file"),
    ):
        for order in (["web.mf", "web.cert", *parts], ["web.cert", *parts, "web.mf"], [*parts, "web.mf", "web.cert"]):
            members = {**parts, "web.mf": text, "web.cert": certificate}
            package = archive({name: members[name] for name in order})
            with pytest.raises(InvalidPackage, match=f"'web.cert': {reason}"):
                pool.take(package, trust=required(root))
            pool.assert_whole()
            (warning,) = (one for one in pool.take(package, dry=True).warnings if "web.cert" in one)
            assert warning.startswith(f"web.cert: {reason}")
            assert "web.cert" not in str(pool.take(package, trust=Trust(policy=IGNORE), dry=True).warnings)


def test_a_key_that_is_not_for_signatures_of_this_kind(pool: ImportPool, authority: Authority, root: Signer) -> None:
    parts = small_package()
    signer = authority.signer("ed", root, key=("-newkey", "ed25519"))
    certificate = b"SHA256(web.mf)= 00ff\n" + signer.pem
    with pytest.raises(InvalidPackage, match="the key of its certificate is neither RSA nor ECDSA"):
        pool.take(archive({**parts, "web.mf": manifest(parts), "web.cert": certificate}), trust=required(root))


def test_what_is_required_is_missing(pool: ImportPool, vendor: Signer, root: Signer) -> None:
    parts = small_package()
    text = manifest(parts)
    certificate = vendor.certificate_file(text)
    short = manifest({name: data for name, data in parts.items() if name != "b.raw"})
    for members, reason in (
        ({**parts}, r"signatures are required, but the package has no signature \(\*.cert\)"),
        ({**parts, "web.mf": text}, r"signatures are required, but the package has no signature \(\*.cert\)"),
        ({**parts, "web.cert": certificate}, r"signatures are required, but the package has no manifest \(\*.mf\)"),
        (
            {**parts, "web.mf": short, "web.cert": vendor.certificate_file(short)},
            "'b.raw': signatures are required, but the signed manifest does not list it",
        ),
        ({**parts, "web.mf": text, "web.cert": bytes(2 << 20) + certificate}, "has no signature"),
    ):
        with pytest.raises(InvalidPackage, match=reason):
            pool.take(archive(members), trust=required(root))
        pool.assert_whole()
    imported = pool.take(archive({**parts, "web.cert": certificate}))
    assert imported.warnings == ["web.cert: signs a manifest that is not in the package"]


def test_only_the_first_certificate_counts(pool: ImportPool, vendor: Signer, root: Signer) -> None:
    parts = small_package()
    text = manifest(parts)
    members = {**parts, "web.mf": text, "other.cert": b"nonsense", "web.cert": vendor.certificate_file(text)}
    with pytest.raises(InvalidPackage, match=r"'other.cert': does not begin"):
        pool.take(archive(members), trust=required(root))
    warnings = pool.take(archive(members)).warnings
    assert "web.cert: not in the descriptor, ignored" in warnings


def test_the_check_comes_as_soon_as_it_can(pool: ImportPool, vendor: Signer, root: Signer) -> None:
    """A package of many GiB is refused before its disks come, where manifest and certificate stand in front."""
    parts = small_package()
    start = {"web.ovf": parts["web.ovf"], "web.mf": manifest(parts), "web.cert": vendor.certificate_file(b"")}
    with pytest.raises(InvalidPackage, match="its signature is not that of the manifest"):
        pool.take(archive(start, end=False), trust=required(root))


def test_ovftool(pool: ImportPool) -> None:
    """Its label is SHA1, its padding 100 KiB of blanks, its key of 1024 bits."""
    data = shared_path("samples/ovftool/tdAppliance1-t4.ova").read_bytes()
    who = "CN=beispiel.example.org,O=Beispiel GmbH,L=For Instance,ST=Example,C=DE"
    warnings = pool.take(data, dry=True).warnings
    assert f"tdAppliance1-t4.cert: signed by {who}; no certificates are trusted, so nobody vouches for that" in warnings
    trusted = data[data.index(b"-----BEGIN") :]
    warnings = pool.take(data, dry=True, trust=Trust(certificates=trusted)).warnings
    said = "its signature is good, but made with an RSA key of 1024 bits, which is too weak to rely on"
    assert [one for one in warnings if ".cert" in one] == [f"tdAppliance1-t4.cert: {said}"]
    with pytest.raises(
        InvalidPackage, match=r"'tdAppliance1-t4.ovf': signatures are required, but the signed manifest"
    ):
        pool.take(data, trust=Trust(policy=REQUIRE, certificates=trusted))


def test_without_the_library(pool: ImportPool, vendor: Signer, root: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ovafs.transfer.ingest.certificates", None)
    monkeypatch.delattr("ovafs.transfer.ingest.certificates")
    assert pool.take(signed_package(vendor)).warnings == [
        "web.cert: not checked: that needs the Python package cryptography; install it: pip install 'ovafs[verify]'"
    ]
    with pytest.raises(InvalidChoices, match="signatures are checked with the Python package cryptography"):
        load_trust(REQUIRE, str(root.certificate))
    assert load_trust(WARN, None) == Trust()


def test_trusted_certificates(tmp_path: Path, root: Signer, vendor: Signer) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(b"# us\n" + root.pem + b"# them\n" + vendor.pem)
    assert load_trust(REQUIRE, str(both)) == Trust(policy=REQUIRE, certificates=both.read_bytes())
    assert load_trust(IGNORE, "/nonexistent") == Trust(policy=IGNORE)
    with pytest.raises(InvalidChoices, match="signatures are required, but nobody is trusted"):
        load_trust(REQUIRE, None)
    with pytest.raises(InvalidChoices, match="/nonexistent: trusted certificates cannot be read: No such file"):
        load_trust(WARN, "/nonexistent")
    with pytest.raises(InvalidChoices, match="trusted certificates cannot be read: Is a directory"):
        load_trust(WARN, str(tmp_path))
    for text in (b"", b"nonsense", root.key.read_bytes(), root.pem[:200]):
        both.write_bytes(text)
        with pytest.raises(InvalidChoices, match=r"both.pem: no certificates in PEM: "):
            load_trust(WARN, str(both))
    with both.open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(InvalidChoices, match="more than 16777216 bytes of trusted certificates"):
        load_trust(WARN, str(both))


def test_signatures_of_anything(vendor: Signer) -> None:
    for signature in (b"", b"\0", bytes(64), bytes(100_000)):
        with pytest.raises(ValueError, match="its signature is not that of the manifest"):
            check_signature(vendor.pem, signature, b"text")
