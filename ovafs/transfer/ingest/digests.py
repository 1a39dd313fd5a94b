"""Digests of members, computed in the same pass that takes them apart."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
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

    Large pieces are hashed in a thread for each algorithm, beside their decoding. One may lag behind: where
    each was waited for before the next, checking SHA-256 cost 43 % of an import's time on two cores. More gain nothing.
    """

    def __init__(self) -> None:
        self.expects_manifest = True
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._waiting: list[Future[None]] = []
        self._copy = bytearray()  # of the piece that they hash; one made for each piece took as long in the kernel
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
        """Take the next bytes of a member."""
        if len(data) < _WORTH_A_THREAD or not hashers.updates:
            self._wait()
            for update in hashers.updates.values():
                update(data)
            return
        self._wait()
        piece = data if type(data.obj) is bytes else self._copied(data)
        self._waiting = [self._thread(name).submit(update, piece) for name, update in hashers.updates.items()]

    def _copied(self, data: memoryview) -> memoryview:
        """The same, in a buffer of our own: the caller's is its own again before this is hashed."""
        if len(data) > len(self._copy):
            self._copy = bytearray(len(data))
        piece = memoryview(self._copy)[: len(data)]
        piece[:] = data
        return piece

    def _wait(self) -> None:
        """Until the last piece is hashed."""
        for done in self._waiting:
            done.result()
        self._waiting = []

    def _thread(self, algorithm: str) -> ThreadPoolExecutor:
        """One thread, so that pieces are hashed in their order."""
        if algorithm not in self._threads:
            self._threads[algorithm] = ThreadPoolExecutor(1, f"digests {algorithm}")
        return self._threads[algorithm]

    def close(self) -> None:
        """End the threads; idempotent."""
        for thread in self._threads.values():
            thread.shutdown(cancel_futures=True)

    def end(self, name: str, hashers: Hashers) -> None:
        """The member is complete. Raises InvalidPackage if it is not what the manifest says."""
        self._wait()
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
    """Hashes the data of one member by some algorithms at once; ``updates`` take the next bytes, by algorithm."""

    def __init__(self, algorithms: Iterable[str]) -> None:
        # Not for security where it is SHA-1: the manifest's algorithm is the producer's choice.
        self._hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
        self.updates: dict[str, Callable[[memoryview], None]] = {
            name: computed.update for name, computed in self._hashes.items()
        }

    def digests(self) -> dict[str, bytes]:
        """The digest of everything so far, by algorithm."""
        return {name: computed.digest() for name, computed in self._hashes.items()}
