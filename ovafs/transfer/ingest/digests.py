"""Digests of members, computed in the same pass that takes them apart."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from ovafs.errors import InvalidPackage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from ovafs.formats.manifest import Digest, Manifest

# What a manifest behind the data may ask for.
_ALL = ("sha1", "sha256", "sha512")

# Less than this is hashed at once: handing it to a thread costs more than it saves (about 30 µs).
_WORTH_A_THREAD = 64 << 10


class MemberDigests:
    """The digests of all members, checked against a manifest wherever in the archive it is.

    Before the manifest is known every algorithm is computed, unless ``expects_manifest`` says that none will come
    (oVirt's packages have none); then only those that it names.

    Large pieces are hashed in threads, beside their decoding: :meth:`wait` before their buffers change.
    """

    def __init__(self) -> None:
        self.expects_manifest = True
        self._threads = ThreadPoolExecutor(len(_ALL), "digests")
        self._running: list[Future[None]] = []
        self._manifest: Manifest | None = None
        self._found: dict[str, dict[str, bytes]] = {}

    def use(self, manifest: Manifest) -> None:
        """Check members against ``manifest`` from now on, those that have come already too. Raises InvalidPackage."""
        self._manifest = manifest
        for name, found in self._found.items():
            self._check(name, found)

    def begin(self, name: str) -> Hashers:
        """Hashers for the data of the next member."""
        algorithms: Iterable[str] = _ALL if self.expects_manifest else ()
        if self._manifest is not None:
            algorithms = {digest.algorithm for digest in self._manifest.files.get(name, ())}
        return Hashers(algorithms)

    def update(self, hashers: Hashers, data: memoryview) -> None:
        """Take the next bytes of a member; ``data`` is read until :meth:`wait` returns."""
        self.wait()
        if len(data) < _WORTH_A_THREAD:
            hashers.update(data)
        else:
            self._running = [self._threads.submit(one, data) for one in hashers.updates()]

    def wait(self) -> None:
        """Until everything that was taken is hashed."""
        if self._running:
            wait(self._running)
            for done in self._running:
                done.result()
            self._running = []

    def close(self) -> None:
        """End the threads; idempotent."""
        self._threads.shutdown()

    def end(self, name: str, hashers: Hashers) -> None:
        """The member is complete. Raises InvalidPackage if it is not what the manifest says."""
        self.wait()
        self._found[name] = found = hashers.digests()
        if self._manifest is not None:
            self._check(name, found)

    @property
    def has_manifest(self) -> bool:
        """Whether the manifest has come."""
        return self._manifest is not None

    def listed(self) -> list[str]:
        """Files that the manifest lists."""
        return list(self._manifest.files) if self._manifest else []

    def has(self, name: str) -> bool:
        """Whether a member of this name is complete."""
        return name in self._found

    def unlisted(self) -> list[str]:
        """Members without a digest, in a package with a manifest. It cannot list itself and the certificate."""
        if self._manifest is None:
            return []
        unlisted = (name for name in self._found if name not in self._manifest.files)
        return [name for name in unlisted if not name.lower().endswith((".mf", ".cert"))]

    def _check(self, name: str, found: dict[str, bytes]) -> None:
        wanted: tuple[Digest, ...] = self._manifest.files.get(name, ()) if self._manifest else ()
        for algorithm, value in wanted:
            if algorithm not in found:
                raise InvalidPackage(
                    f"its {algorithm.upper()} digest stands in a manifest behind it, where packages of oVirt have none",
                    member=name,
                    hint="pack the .mf file right behind the .ovf file",
                )
            if found[algorithm] != value:
                raise InvalidPackage(f"its {algorithm.upper()} digest is not the one in the manifest", member=name)


class Hashers:
    """Hashes the data of one member by some algorithms at once."""

    def __init__(self, algorithms: Iterable[str]) -> None:
        # Not for security where it is SHA-1: the manifest's algorithm is the producer's choice.
        self._hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}

    def update(self, data: memoryview) -> None:
        """Take the next bytes."""
        for one in self.updates():
            one(data)

    def updates(self) -> list[Callable[[memoryview], None]]:
        """What takes the next bytes; each can run in a thread of its own, hashlib lets others run meanwhile."""
        return [computed.update for computed in self._hashes.values()]

    def digests(self) -> dict[str, bytes]:
        """The digest of everything so far, by algorithm."""
        return {name: computed.digest() for name, computed in self._hashes.items()}
