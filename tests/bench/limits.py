"""What limits each case, in words: written by people who looked, printed beside the figures of every run.

Keys are those of the verdicts; a key that ends in "*" holds for all that begin so, the longest match first.
"""

from __future__ import annotations

LIMITS = {
    "sequential-*": "copying: source pages to the daemon, to the mount's pages, to the reader, on two cores",
    "sequential-chain-minimal": "as raw, and a read of 1 MiB is gathered from three or four extents in several files",
    "sequential-raw-c": "the stack: compare the minimal file system's own rate with passthrough_ll's",
    "sequential-chain-c": "the stack: compare the minimal file system's own rate with passthrough_ll's",
    "random-4k-*": "Python: a request costs 35 µs of trio, pyfuse3 and system calls before ovafs does anything",
    "random-4k-1": "two context switches a read between reader and daemon, then Python",
    "random-128k-*": "half copying, half Python's and the kernel's work for each request",
    "cp-*": "the destination: page cache and disk take most of the time, whoever reads",
    "ls-first": "one core: opening, checking and planning each image, and keeping the plan",
    "ls-again": "requests of ls itself; names and attributes are in the kernel",
    "ls-expired": "the directory is read again, names and attributes come with it",
    "ls-restart": "one stat of each image, catalog and plans from SQLite",
    "ls-processes": "the one is ldconfig, started by Python's ctypes when the daemon starts",
    "first-byte-first": "2,048 L2 tables are read and searched, 100,000 entries decoded",
    "first-byte-restart": "5 MiB of plan from SQLite, checked by a digest",
    "first-byte-warm": "opening and locking the image in a worker thread",
    "memory": "the interpreter and its libraries (30 MiB), the plan (5 MiB), a buffer of 1 MiB for each request",
    "compressed-*": "decompressing, on one core for each request, and the hop to a worker thread",
    "import": "the disk below: reading the package and writing the volume; for VMDK one core that inflates",
    "import-durable": "as above, and the peer waits for its volume to be on disk, as ovafs does",
    "import-digests": "hashing runs beside the decoding, in a thread; on two cores they share memory's bandwidth",
    "domains-again": "one stat of each image; definitions are asked for again only when libvirt tells of a change",
    "nbd": "Python: headers, a copy out of the socket, a turn of trio's loop for each piece that the kernel has",
    "live": "opening: the backup job, and the question what is stored; then as over NBD",
    "guest-gap": "two cores for the guest, which is emulated, QEMU's server, ovafs and the reader",
    "import-visible": "the commit itself: fsync of the volume, of its directory, of the catalog",
}


def limit(key: str) -> str:
    """The text for a verdict; empty if nobody has looked yet."""
    prefixes = [f"{key[:length]}*" for length in range(len(key), 0, -1)]
    return next((LIMITS[name] for name in [key, *prefixes] if name in LIMITS), "")
