"""Archives made byte by byte, as no honest program makes them."""

from __future__ import annotations

END = bytes(1024)


def header(
    name: bytes,
    size: int = 0,
    typeflag: bytes = b"0",
    *,
    magic: bytes = b"ustar\x0000",
    size_field: bytes | None = None,
    checksum: bytes | None = None,
    prefix: bytes = b"",
) -> bytes:
    """A header block; ``size_field`` and ``checksum`` replace what would be right."""
    block = bytearray(512)
    block[:100] = name[:100].ljust(100, b"\0")
    block[100:124] = b"0000644\0" + b"0000000\0" * 2
    block[124:136] = b"%011o\0" % size if size_field is None else size_field
    block[136:148] = b"00000000000\0"
    block[148:156] = b" " * 8
    block[156:157] = typeflag
    block[257:265] = magic
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = checksum or b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: bytes, data: bytes = b"", typeflag: bytes = b"0", **fields: bytes) -> bytes:
    """Header, data and padding."""
    return header(name, len(data), typeflag, **fields) + data + bytes(-len(data) % 512)


def base256(size: int) -> bytes:
    """A size field that is no octal number."""
    return b"\x80" + size.to_bytes(11, "big")


def record(key: bytes, value: bytes) -> bytes:
    """A pax record, which begins with its own length."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % length + rest


def pax(*records: bytes, typeflag: bytes = b"x") -> bytes:
    """A pax header, for the next member or ("g") for all that follow."""
    return member(b"PaxHeaders/x", b"".join(records), typeflag)


def long_name(name: bytes) -> bytes:
    """GNU's header for a name of more than 100 bytes."""
    return member(b"././@LongLink", name + b"\0", b"L", magic=b"ustar  \0")


OVF = member(b"vm.ovf", b"<Envelope/>")
DISK = member(b"d.img", b"D" * 1000)

# What must be refused, with what the message says.
REFUSED: dict[str, tuple[bytes, str]] = {
    "dot dot": (member(b"../../x.ovf") + END, r"^'../../x.ovf' at byte 0: its name holds an empty part, '.' or '..'"),
    "dot dot in the middle": (member(b"a/../x.ovf") + END, "empty part"),
    "dot in the middle": (member(b"a/./x.ovf") + END, "empty part"),
    "two slashes": (member(b"a//x.ovf") + END, "empty part"),
    "dot dot directory": (member(b"../", typeflag=b"5") + END, "empty part"),
    "absolute": (member(b"/etc/x.ovf") + END, "its name is absolute"),
    "absolute behind a dot": (member(b".//etc/x.ovf") + END, "empty part"),
    "backslash": (member(b"..\\x.ovf") + END, "control character or a backslash"),
    "control characters": (member(b"a\nb\x1b[31m.ovf") + END, "control character"),
    "C1 control": (member("a\x9b31m.ovf".encode()) + END, "control character"),
    "not UTF-8": (member(b"\xff\xfe.ovf") + END, "its name is not UTF-8"),
    "empty name": (member(b"") + END, "name is empty"),
    "file with a slash": (member(b"dir/") + END, "ends with a slash"),
    "own folder as a file": (member(b"./") + END, "name is empty"),
    "component too long": (pax(record(b"path", b"n" * 256)) + DISK + END, "its name is too long"),
    "symbolic link": (header(b"d.img", typeflag=b"2") + OVF + END, "'d.img' at byte 0: is a symbolic link"),
    "hard link": (header(b"d.img", typeflag=b"1") + END, "is a hard link"),
    "character device": (header(b"d.img", typeflag=b"3") + END, "is a character device"),
    "block device": (header(b"d.img", typeflag=b"4") + END, "is a block device"),
    "FIFO": (header(b"d.img", typeflag=b"6") + END, "is a FIFO"),
    "contiguous": (member(b"d.img", b"D", b"7") + END, "is a contiguous file"),
    "next volume": (header(b"d.img", 1000, b"M") + bytes(1024) + END, "is the continuation of another volume"),
    "unknown type": (member(b"d.img", b"D", b"Z") + END, "of the unknown type b'Z'"),
    "old sparse": (header(b"d.img", 512, b"S") + bytes(512) + END, "is a sparse file"),
    "pax sparse": (
        pax(record(b"GNU.sparse.major", b"1"), record(b"GNU.sparse.realsize", b"1099511627776")) + DISK + END,
        r"a sparse member \(pax record 'GNU.sparse.major'\)",
    ),
    "star sparse": (pax(record(b"SCHILY.realsize", b"1000000")) + DISK + END, "sparse member"),
    "link with data": (header(b"l", 1000, b"2") + bytes(1024) + OVF + END, "is a symbolic link"),
    "twice": (OVF + OVF + END, "'vm.ovf' at byte 1024: a second member of this name"),
    "twice in other case": (OVF + member(b"VM.OVF", b"<Evil/>") + END, "second member"),
    "twice in other form": (member("\u00e9".encode()) + member("e\u0301".encode()) + END, "second member"),
    "twice by ./": (OVF + member(b"./vm.ovf") + END, "second member"),
    "negative size": (header(b"d.img", size_field=(2**96 - 512).to_bytes(12, "big")) + END, "its size is negative"),
    "size 2**80": (header(b"d.img", size_field=base256(1 << 80)) + bytes(1000), f"is {1 << 80} bytes long"),
    "size 2**63": (header(b"d.img", size_field=base256(1 << 63)) + bytes(1000), "bytes long"),
    "size 2**90": (header(b"d.img", size_field=b"\x81" + bytes(11)), "beyond any limit"),
    "minus": (header(b"d.img", size_field=b"-0000000001\0") + END, "its size is no number"),
    "blanks": (header(b"d.img", size_field=b" " * 11 + b"\0") + END, "its size is no number"),
    "no octal": (header(b"d.img", size_field=b"00000000009\0") + END, "its size is no number"),
    "behind the number": (header(b"d.img", size_field=b"0000001\0 77\0") + END, "its size is no number"),
    "directory with data": (member(b"d/", b"D", b"5") + END, "a directory with data"),
    "pax size too big": (pax(record(b"size", b"99999999999")) + DISK + OVF + END, "says '99999999999' bytes"),
    "pax size 0": (pax(record(b"size", b"0")) + DISK + OVF + END, "its own header 1000"),
    "pax size over 0": (pax(record(b"size", b"512")) + OVF[:124] + OVF[124:] + END, "says '512' bytes"),
    "pax size negative": (pax(record(b"size", b"-512")) + DISK + END, "says '-512' bytes"),
    "pax size huge": (pax(record(b"size", b"9" * 4000)) + DISK + END, "its pax header says"),
    "pax NUL": (pax(record(b"path", b"vm.ovf\0.img")) + DISK + END, "control character"),
    "pax path dot dot": (pax(record(b"path", b"../x")) + DISK + END, "empty part"),
    "pax length too big": (pax(b"999999 path=x\n") + DISK + END, "a pax header is malformed"),
    "pax length negative": (pax(b"-5 path=x\n") + DISK + END, "a pax header is malformed"),
    "pax length zero": (pax(b"0 path=x\n") + DISK + END, "a pax header is malformed"),
    "pax length short": (pax(b"3 path=x\n") + DISK + END, "a pax header is malformed"),
    "pax without value": (pax(b"7 path\n") + DISK + END, "'path' is malformed or stands twice"),
    "pax twice": (pax(record(b"path", b"a"), record(b"path", b"b")) + DISK + END, "malformed or stands twice"),
    "pax global path": (pax(record(b"path", b"x"), typeflag=b"g") + DISK + END, "sets 'path' for all members"),
    "pax too long": (header(b"x", 1 << 20, b"x") + bytes(1 << 20), "an extension header of 1048576 bytes"),
    "pax without a member": (pax(record(b"path", b"x")) + END, "an extension header without a member"),
    "two pax": (pax(record(b"path", b"x")) * 2 + DISK + END, "two extension headers"),
    "pax and long name": (pax(record(b"path", b"x")) + long_name(b"y") + DISK + END, "two extension headers"),
    "long name of 8 GiB": (header(b"././@LongLink", 1 << 33, b"L", magic=b"ustar  \0"), "an extension header"),
    "long names in a row": (long_name(b"a" * 200) * 5000 + DISK + END, "two extension headers"),
    "long link name": (member(b"././@LongLink", b"a" * 200, b"K") + DISK + END, "is a long link name"),
    "bad checksum": (header(b"vm.ovf", checksum=b"000000\0 ") + END, "the checksum of a tar header is wrong"),
    "checksum no number": (header(b"vm.ovf", checksum=b"zzzzzz\0 ") + END, "the checksum of a tar header is wrong"),
    "v7": (member(b"vm.ovf", magic=bytes(8)) + END, "not an OVA: it has no tar header"),
    "v7 later": (OVF + member(b"d.img", magic=bytes(8)) + END, "no tar header where the next member should begin"),
    "gzip": (b"\x1f\x8b\x08".ljust(512, b"x"), "it is a gzip file; unpack the outer compression first"),
    "zip": (b"PK\x03\x04".ljust(512, b"x"), "it is a zip file"),
    "qcow2": (b"QFI\xfb".ljust(512, b"x"), "it is a qcow2 file"),
    "text": (b"# Disk".ljust(512, b"\n"), "it has no tar header"),
    "one zero block": (OVF + bytes(512) + DISK + END, "data behind a zero block"),
    "behind the end": (OVF + END + DISK + END, "data behind the end of the archive"),
    "one byte behind the end": (OVF + END + b"\1", "'?at byte 2048: data behind the end|data behind the end"),
    "many": (b"".join(member(b"f%d" % number) for number in range(20000)) + END, "more than 8192 members"),
}
