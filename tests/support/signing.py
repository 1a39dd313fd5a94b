"""Keys, certificates and signed packages, made by openssl."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tests.support.packages import archive, manifest, small_package
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
RSA = ("-newkey", "rsa:2048")
WEAK_RSA = ("-newkey", "rsa:1024")

CA = "basicConstraints=critical,CA:true"
LAST_CA = "basicConstraints=critical,CA:true,pathlen:0"
NO_CA = "basicConstraints=CA:false"


class Signer(NamedTuple):
    """A private key and its certificate, as files."""

    key: Path
    certificate: Path

    @property
    def pem(self) -> bytes:
        return self.certificate.read_bytes()

    def certificate_file(self, text: bytes, *more: Signer, name: str = "web.mf", digest: str = "sha256") -> bytes:
        """The ``.cert`` of a manifest; the certificates of ``more`` stand behind the signer's."""
        manifest_file = self.key.with_suffix(".mf")
        manifest_file.write_bytes(text)
        signature = self.key.with_suffix(".signature")
        run("openssl", "dgst", f"-{digest}", "-sign", self.key, "-out", signature, manifest_file)
        pem = b"".join(one.pem for one in (self, *more))
        return f"{digest.upper()}({name})= {signature.read_bytes().hex()}\n".encode() + pem


class Authority(NamedTuple):
    """Makes signers in a directory."""

    directory: Path

    def signer(
        self, name: str, issuer: Signer | None = None, extension: str = NO_CA, key: Sequence[str] = EC
    ) -> Signer:
        """A signer for nine days from now on, and by whom it was issued; None: by itself."""
        signer = Signer(self.directory / f"{name}.key", self.directory / f"{name}.pem")
        by = () if issuer is None else ("-CA", issuer.certificate, "-CAkey", issuer.key)
        subject = ("-subj", f"/O=Example/CN={name}", "-addext", extension, "-days", "9")
        files = ("-nodes", "-keyout", signer.key, "-out", signer.certificate)
        run("openssl", "req", "-x509", "-config", "/dev/null", *key, *files, *subject, *by)
        return signer


def signed_package(signer: Signer, *more: Signer, digest: str = "sha256") -> bytes:
    """A small package whose manifest is signed; the certificate comes last."""
    parts = small_package()
    text = manifest(parts)
    return archive({**parts, "web.mf": text, "web.cert": signer.certificate_file(text, *more, digest=digest)})
