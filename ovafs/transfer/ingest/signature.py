"""The signature of a package (``*.cert``), and what becomes of packages that have none or a wrong one.

| policy | a package without a signature | one that is wrong, or of somebody unknown |
|---|---|---|
| ignore | imported | imported |
| warn | imported | imported, with a warning |
| require | refused | refused |

A signature is good when it is that of the manifest, and trusted certificates vouch for who made it; one that was
made with what is too weak by now (SHA-1, as older ovftools do) is good with a warning. It says nothing
of files that the manifest does not list: ``require`` refuses packages that have any.
"""

from __future__ import annotations

import enum
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from ovafs.errors import InvalidChoices, InvalidPackage
from ovafs.formats.manifest import MAX_CERTIFICATE, split_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAX_CA_FILE = 16 << 20

_HOW_TO_ALLOW = "ask its maker for a signed one, or do not require signatures"

_HOW_TO_INSTALL = "install it: pip install 'ovafs[verify]'"


class CertificatePolicy(enum.StrEnum):
    """What a signature has to be; see the module."""

    IGNORE = "ignore"
    WARN = "warn"
    REQUIRE = "require"


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """The policy, and the PEM text of the trusted certificates (empty: none are known)."""

    policy: CertificatePolicy = CertificatePolicy.WARN
    certificates: bytes = b""


def load_trust(policy: CertificatePolicy, ca_file: str | None) -> Trust:
    """Whom to trust, from a PEM file. Raises InvalidChoices when that cannot work."""
    if policy is CertificatePolicy.REQUIRE and ca_file is None:
        hint = "name a PEM file with the certificates of those whose packages you take"
        raise InvalidChoices("signatures are required, but nobody is trusted", hint)
    if policy is CertificatePolicy.IGNORE or ca_file is None:
        return Trust(policy=policy)
    try:
        with open(ca_file, "rb") as file:
            pem = file.read(_MAX_CA_FILE + 1)
    except OSError as error:
        raise InvalidChoices(f"{ca_file}: trusted certificates cannot be read: {error.strerror}") from error
    if len(pem) > _MAX_CA_FILE:
        raise InvalidChoices(f"{ca_file}: more than {_MAX_CA_FILE} bytes of trusted certificates")
    try:
        from ovafs.transfer.ingest import certificates  # noqa: PLC0415 # imports an extra

        certificates.read_certificates(pem)
    except ImportError as error:
        message = "signatures are checked with the Python package cryptography, which is missing"
        raise InvalidChoices(message, _HOW_TO_INSTALL) from error
    except ValueError as error:
        raise InvalidChoices(f"{ca_file}: no certificates in PEM: {error}") from error
    return Trust(policy=policy, certificates=pem)


class Signature:
    """Collects certificate and manifest of one package, in any order, and judges them as soon as both are there."""

    def __init__(self, trust: Trust) -> None:
        """``warnings`` are what is to be said of a package that is imported nevertheless."""
        self._trust = trust
        self._certificate: tuple[str, bytes] | None = None
        self._manifest: tuple[str, bytes] | None = None
        self.warnings: list[str] = []

    def takes(self, name: str, size: int) -> bool:
        """Whether a member is the certificate. Another one, or one that is much too long, is a file like any other."""
        return is_certificate(name) and size <= MAX_CERTIFICATE and self._certificate is None

    def take_certificate(self, name: str, data: bytes) -> None:
        """The certificate is complete. Raises InvalidPackage if it is not what the policy requires."""
        self._certificate = name, data
        self._judge()

    def take_manifest(self, name: str, data: bytes) -> None:
        """The manifest is complete. Raises as :meth:`take_certificate`."""
        self._manifest = name, data
        self._judge()

    def finish(self, unlisted: Sequence[str]) -> None:
        """All members have come; the manifest does not list those. Raises as :meth:`take_certificate`."""
        if self._trust.policy is CertificatePolicy.IGNORE:
            return
        if self._trust.policy is CertificatePolicy.REQUIRE:
            self._check_whole(unlisted)
        elif self._certificate is not None and self._manifest is None:
            self.warnings.append(f"{self._certificate[0]}: signs a manifest that is not in the package")

    def _check_whole(self, unlisted: Sequence[str]) -> None:
        for file, missing in ((self._certificate, "signature (*.cert)"), (self._manifest, "manifest (*.mf)")):
            if file is None:
                raise InvalidPackage(f"signatures are required, but the package has no {missing}", hint=_HOW_TO_ALLOW)
        if unlisted:
            reason = "signatures are required, but the signed manifest does not list it"
            raise InvalidPackage(reason, member=unlisted[0], hint=_HOW_TO_ALLOW)

    def _judge(self) -> None:
        if self._certificate is None or self._manifest is None or self._trust.policy is CertificatePolicy.IGNORE:
            return
        name = self._certificate[0]
        try:
            self.warnings += [f"{name}: {doubt}" for doubt in self._check(*self._certificate, *self._manifest)]
        except InvalidPackage as error:
            if self._trust.policy is CertificatePolicy.REQUIRE:
                raise
            self.warnings.append(f"{error.member}: {error.reason}")

    def _check(self, name: str, data: bytes, manifest_name: str, manifest: bytes) -> Iterator[str]:
        """Doubts that speak against no package; raises InvalidPackage for those that do."""
        parts = split_certificate(data, name)
        if parts.manifest_name.lower() != manifest_name.lower():  # open-ovf's differs in case
            reason = f"signs {parts.manifest_name!r}, not {manifest_name!r}"
            raise InvalidPackage(reason, member=name, hint=_HOW_TO_ALLOW)
        try:
            from ovafs.transfer.ingest import certificates  # noqa: PLC0415 # imports an extra
        except ImportError:
            yield f"not checked: that needs the Python package cryptography; {_HOW_TO_INSTALL}"
            return
        try:
            signed = certificates.check_signature(parts.pem.encode(), parts.signature, manifest)
            if signed.weakness:
                yield f"its signature is good, but made with {signed.weakness}, which is too weak to rely on"
            if not self._trust.certificates:
                yield f"signed by {signed.signer}; no certificates are trusted, so nobody vouches for that"
                return
            trusted = certificates.read_certificates(self._trust.certificates)
            certificates.check_chain(signed.chain, trusted, datetime.now(UTC))
        except ValueError as error:
            raise InvalidPackage(str(error), member=name, hint=_HOW_TO_ALLOW) from error


def is_certificate(name: str) -> bool:
    """Whether a member is a certificate by its name."""
    return os.path.splitext(name)[1].lower() == ".cert"
