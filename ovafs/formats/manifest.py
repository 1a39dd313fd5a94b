"""The manifest (``.mf``) and the certificate (``.cert``) of a package, as real producers write them.

A manifest has one line for each digest, ``SHA256(NAME)= HEX`` by DSP0243. What is met beside that, and read:

=====================================================================  ============================================
spelling                                                               who
=====================================================================  ============================================
``SHA1 (f) = h``, ``SHA1(f)=h``, CRLF, blanks at the end of a line     VirtualBox, ``sha1sum --tag``, people
``SHA2-256``, ``SHA-256``                                              VMware
``SHA512``                                                             ova-compose
blanks for a manifest, or behind its last line (no LF)                 ovftool reserves the place and fills it later
empty lines, the same line twice, the manifest and the certificate     repacked packages, open-ovf
themselves, names in parentheses
files that the package does not have; files that the manifest lacks    VMware; ovftool (the .ovf), VirtualBox (ISOs)
=====================================================================  ============================================

A certificate is ``SHA256(NAME.mf)= HEX``, the signature of the manifest, which may be broken over lines, and PEM
blocks; ovftool pads it with blanks to 100 KiB. There is no cryptography here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ovafs.errors import InvalidPackage

MAX_MANIFEST = 4 << 20
"""Bytes of a manifest: room for some ten thousand members with long names."""

MAX_CERTIFICATE = 1 << 20
"""Bytes of a certificate, its padding included."""

_ALGORITHMS = {"SHA1": "sha1", "SHA256": "sha256", "SHA2256": "sha256", "SHA512": "sha512", "SHA2512": "sha512"}
_DIGEST_SIZES = {"sha1": 20, "sha256": 32, "sha512": 64}
_LINE = re.compile(r"([A-Za-z0-9-]{1,20})[ \t]*\((.*)\)[ \t]*=[ \t]*([0-9A-Fa-f]*)")
_PADDING = " \t\r\n\0"


class Digest(NamedTuple):
    """What a file must hash to; ``algorithm`` as ``hashlib`` spells it: sha1, sha256 or sha512."""

    algorithm: str
    value: bytes


class Manifest(NamedTuple):
    """The digests of each file, by its name in the package, in the order of the manifest."""

    files: dict[str, tuple[Digest, ...]]


class Certificate(NamedTuple):
    """``signature`` is that of the manifest called ``manifest_name``; ``pem`` is the text of all PEM blocks.

    ``algorithm`` is what the line is labelled with, which need not be the one that was signed with: ovftool writes
    SHA1 there whatever it used.
    """

    algorithm: str
    manifest_name: str
    signature: bytes
    pem: str


def parse_manifest(data: bytes, name: str = "") -> Manifest:
    """The manifest in ``data``; ``name``, the member's, is for messages. Listed files are not looked for here.

    Lines for files named ``*.mf`` and ``*.cert`` are left out: a manifest cannot hold its own digest, and the
    certificate is made after it.

    Raises InvalidPackage when a line is not understood, an algorithm is unknown, or two digests contradict.
    """
    digests: dict[str, list[Digest]] = {}
    for number, line in enumerate(_text(data, MAX_MANIFEST, name).split("\n"), 1):
        if not line.strip(_PADDING):
            continue
        listed, digest = _parse_line(line.strip(_PADDING), f"line {number}", name)
        if listed.lower().endswith((".mf", ".cert")):
            continue
        known = digests.setdefault(listed, [])
        if digest not in known:
            if any(other.algorithm == digest.algorithm for other in known):
                raise InvalidPackage(f"line {number}: a second digest of {listed!r}", member=name)
            known.append(digest)
    return Manifest({listed: tuple(known) for listed, known in digests.items()})


def _text(data: bytes, limit: int, name: str) -> str:
    if len(data) > limit:
        raise InvalidPackage(f"is {len(data)} bytes long; at most {limit} are read", member=name)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidPackage(f"its byte {error.start} is not UTF-8", member=name) from None


def _parse_line(line: str, place: str, name: str) -> tuple[str, Digest]:
    match = _LINE.fullmatch(line)
    if match is None:
        raise InvalidPackage(f"{place} is not of the form 'SHA256(NAME)= DIGEST': {line[:80]!r}", member=name)
    label, listed, digits = match.groups()
    algorithm = _algorithm(label, place, name)
    if len(digits) != 2 * _DIGEST_SIZES[algorithm]:
        raise InvalidPackage(f"{place}: {len(digits)} digits are no {label} digest", member=name)
    return listed.removeprefix("./"), Digest(algorithm, bytes.fromhex(digits))


def _algorithm(label: str, place: str, name: str) -> str:
    algorithm = _ALGORITHMS.get(label.upper().replace("-", ""))
    if algorithm is None:
        known = "SHA1, SHA256 and SHA512 are known"
        raise InvalidPackage(f"{place}: unknown digest algorithm {label!r}; {known}", member=name)
    return algorithm


def split_certificate(data: bytes, name: str = "") -> Certificate:
    """The parts of a ``.cert``; ``name``, the member's, is for messages. Nothing is verified here.

    Raises InvalidPackage when it has no line with a signature or no PEM block behind it.
    """
    text = _text(data, MAX_CERTIFICATE, name).strip(_PADDING)
    signed, begin, rest = text.partition("-----BEGIN ")
    match = _LINE.fullmatch(re.sub(r"[\r\n]+", "", signed).strip(_PADDING))
    if match is None or not match[3] or len(match[3]) % 2:
        raise InvalidPackage("does not begin with a line 'SHA256(NAME.mf)= SIGNATURE'", member=name)
    if not re.search(r"^-----END [A-Z0-9 ]+-----$", rest.rstrip(_PADDING).rpartition("\n")[2]):
        raise InvalidPackage("has no complete PEM block behind the signature", member=name)
    algorithm = _algorithm(match[1], "its first line", name)
    return Certificate(algorithm, match[2], bytes.fromhex(match[3]), begin + rest)
