"""X.509: who signed a manifest, and whether trusted certificates vouch for that. Needs ``ovafs[verify]``.

The one module that imports ``cryptography``, which takes 40 ms and is an extra; it is imported when it is needed.

A signature is RSA (PKCS #1 v1.5) or ECDSA over the bytes of the manifest (``openssl dgst -sign``, ovftool). The chain
is checked as the library does for the Web: hashes, dates, path lengths, and issuers that are marked as such. What the
key may be used for is not looked at: OVF (DSP0243) does not say what a signer's must be. Nothing is asked over the
network, so a certificate that was revoked is not told from others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import verification

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

# Of a package. Real chains have two or three; every one may cost as many signatures.
_MOST_CERTIFICATES = 10

_MAX_DEPTH = 8

_LEAST_RSA_BITS = 2048  # NIST SP 800-131A

_HASHES = (hashes.SHA256(), hashes.SHA512(), hashes.SHA1())  # noqa: S303 # read only


class Signed(NamedTuple):
    """A signature that is the manifest's. ``chain`` begins with the certificate of who signed.

    ``weakness`` says in words why the signature could be somebody else's nevertheless; empty: nothing is known.
    """

    chain: Sequence[x509.Certificate]
    weakness: str

    @property
    def signer(self) -> str:
        """The subject of the certificate, as RFC 4514 writes it."""
        return self.chain[0].subject.rfc4514_string()


def read_certificates(pem: bytes) -> list[x509.Certificate]:
    """All certificates of a PEM file. Raises ValueError when there are none, or one is damaged."""
    return x509.load_pem_x509_certificates(pem)


def check_signature(pem: bytes, signature: bytes, manifest: bytes) -> Signed:
    """Who signed ``manifest``; ``pem`` is what stands behind the signature, the signer's certificate first.

    Raises ValueError, saying what is wrong, when ``signature`` is not the manifest's or cannot be checked.
    """
    chain = read_certificates(pem)
    if len(chain) > _MOST_CERTIFICATES:
        raise ValueError(f"it has {len(chain)} certificates, more than {_MOST_CERTIFICATES}")
    try:
        key = chain[0].public_key()
    except UnsupportedAlgorithm as error:
        raise ValueError(f"the key of its certificate is of an unknown kind: {error}") from error
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise ValueError("the key of its certificate is neither RSA nor ECDSA")  # noqa: TRY004 # a bad value of a file
    # The label in front of the signature does not tell the hash: ovftool writes SHA1 whatever it used.
    for algorithm in _HASHES:
        if _is_signed(key, signature, manifest, algorithm):
            return Signed(chain, _weakness(key, algorithm))
    raise ValueError("its signature is not that of the manifest, which was changed or signed with another key")


def _weakness(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, algorithm: hashes.HashAlgorithm) -> str:
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _LEAST_RSA_BITS:
        return f"an RSA key of {key.key_size} bits"
    return "SHA-1" if isinstance(algorithm, hashes.SHA1) else ""


def _is_signed(
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, signature: bytes, data: bytes, algorithm: hashes.HashAlgorithm
) -> bool:
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PKCS1v15(), algorithm)
        else:
            key.verify(signature, data, ec.ECDSA(algorithm))
    except (InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def check_chain(chain: Sequence[x509.Certificate], trusted: Sequence[x509.Certificate], when: datetime) -> None:
    """Whether ``trusted`` vouch for the first of ``chain``; the others are issuers in between.

    Raises ValueError, saying what is wrong.
    """
    signer = chain[0]
    if not signer.not_valid_before_utc <= when <= signer.not_valid_after_utc:
        dates = f"{signer.not_valid_before_utc:%Y-%m-%d} to {signer.not_valid_after_utc:%Y-%m-%d}"
        raise ValueError(f"its certificate is valid from {dates} only")
    any_extensions = verification.ExtensionPolicy.permit_all()
    issuers = any_extensions.require_present(x509.BasicConstraints, verification.Criticality.AGNOSTIC, _is_issuer)
    builder = (
        verification.PolicyBuilder().store(verification.Store(list(trusted))).time(when).max_chain_depth(_MAX_DEPTH)
    )
    policy = builder.extension_policies(ca_policy=issuers, ee_policy=any_extensions)
    try:
        policy.build_client_verifier().verify(signer, list(chain[1:]))
    except verification.VerificationError as error:
        if "no interior errors" in str(error):
            raise ValueError("no trusted certificate vouches for it, nor for an issuer in the package") from error
        raise ValueError(f"the trusted certificates do not vouch for it: {error}") from error


def _is_issuer(_: verification.Policy, __: x509.Certificate, constraints: x509.BasicConstraints) -> None:
    if not constraints.ca:
        raise ValueError("the certificate may not issue others")
