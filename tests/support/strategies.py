"""Hypothesis strategies for the model: machines as an administrator, or somebody nasty, may define them."""

from __future__ import annotations

from hypothesis import strategies as st

from ovafs.model import (
    NATIVE_FORMATS,
    CpuTopology,
    Disk,
    DiskInterface,
    Firmware,
    Machine,
    MachineKind,
    Nic,
    NicModel,
    Volume,
)
from ovafs.units import MIB

# Text that has broken readers of OVFs: markup, quotes, line breaks, what oVirt edits away, what is written right to
# left or beyond the BMP, and what merely looks like an end.
NASTY = (
    *("&", "<", ">", '"', "'", "]]>", "&#10;", "&amp;", "<!--", "<?x?>", "</Name>", "<![CDATA["),
    *("\n", "\r\n", "\r", "\t", " ", "\x85", "\u2028", "\u00a0", "\ufeff", "\x7f"),
    *("::", ":::", ":", "xmlns=", 'xmlns="', "xmlns:ovirt", "xmlns=xmlns=", "=", "%s", "{}", "${x}", "\\n"),
    *("ü", "e\u0301", "中文", "שלום", "😀", "\ufffd", "\U0010fffd", "..", "/", "-"),
)

_CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\ufffe\uffff").filter(
    lambda character: character >= " " or character in "\t\n\r"
)


def texts(max_size: int = 8) -> st.SearchStrategy[str]:
    """Text that XML can carry, made of nasty pieces and of any characters; up to ``max_size`` pieces."""
    pieces = st.one_of(st.sampled_from(NASTY), st.text(_CHARACTERS, max_size=4))
    return st.lists(pieces, max_size=max_size).map("".join)


def uuids() -> st.SearchStrategy[str]:
    """UUIDs as the catalog spells them."""
    return st.uuids().map(str)


def macs() -> st.SearchStrategy[str]:
    """Ethernet addresses as the catalog spells them."""
    return st.binary(min_size=6, max_size=6).map(lambda address: address.hex(":"))


def disks() -> st.SearchStrategy[Disk]:
    """One disk on a volume somewhere."""
    volume = st.builds(Volume, uuid=uuids(), path=st.just("/pool/volumes/x"), format=st.sampled_from(NATIVE_FORMATS))
    return st.builds(
        Disk, uuid=uuids(), alias=texts(4), volume=volume, interface=st.sampled_from(DiskInterface), boot=st.booleans()
    )


def nics() -> st.SearchStrategy[Nic]:
    """One network adapter, connected or not."""
    return st.builds(Nic, uuid=uuids(), name=texts(3), network=texts(3), mac=macs(), model=st.sampled_from(NicModel))


def machines() -> st.SearchStrategy[Machine]:
    """Machines and templates of every shape, with distinct UUIDs."""
    counts = st.integers(1, 64)
    times = st.integers(0, 4_000_000_000)
    return st.builds(
        Machine,
        uuid=uuids(),
        name=texts().filter(bool),
        memory=st.integers(1, 1 << 22).map(lambda mebibytes: mebibytes * MIB),
        created=times,
        modified=times,
        kind=st.sampled_from(MachineKind),
        description=texts(),
        cpu=st.builds(CpuTopology, sockets=counts, cores=counts, threads=counts),
        firmware=st.sampled_from(Firmware),
        os=st.one_of(
            st.sampled_from(["other", "debian12", "win2k22", "rhel5.11", "winxp", "alpinelinux3.20"]), texts(2)
        ),
        disks=st.lists(disks(), max_size=5, unique_by=(lambda d: d.uuid, lambda d: d.volume.uuid)).map(tuple),
        nics=st.lists(nics(), max_size=4).map(tuple),
    )
