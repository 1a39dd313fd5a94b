"""The descriptor against DMTF's schemas: valid, but for the parts that ``ovafs.formats.ovf.ovirt`` names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from lxml import etree

from ovafs.formats.ovf.ovirt import DiskFile, write_ovf
from tests.support.processes import run
from tests.support.shared import shared_path
from tests.support.strategies import machines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ovafs.model import Machine

OVF = "{http://schemas.dmtf.org/ovf/envelope/1}"
RASD = "{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData}"

OVIRTS_ITEM_PARTS = {
    *("num_of_sockets", "cpu_per_socket", "threads_per_cpu", "max_num_of_vcpus"),
    *("Name", "MACAddress"),
}

# The two small schemas that DMTF's import without a place: only the names that the others use.
XML_SCHEMA = """<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" \
targetNamespace="http://www.w3.org/XML/1998/namespace">
<xs:attribute name="lang" type="xs:language"/></xs:schema>"""
COMMON_SCHEMA = """<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" \
xmlns:cim="http://schemas.dmtf.org/wbem/wscim/1/common" \
targetNamespace="http://schemas.dmtf.org/wbem/wscim/1/common" elementFormDefault="qualified">
{types}
<xs:complexType name="cimAnySimpleType"><xs:simpleContent><xs:extension base="xs:anySimpleType">\
<xs:anyAttribute namespace="##any" processContents="lax"/></xs:extension></xs:simpleContent></xs:complexType>
<xs:complexType name="cimDateTime"><xs:simpleContent><xs:extension base="xs:string"/></xs:simpleContent>\
</xs:complexType></xs:schema>"""
COMMON_TYPE = """<xs:complexType name="{name}"><xs:simpleContent><xs:extension base="xs:{base}">\
<xs:anyAttribute namespace="##any" processContents="lax"/></xs:extension></xs:simpleContent></xs:complexType>"""
COMMON_TYPES = {
    "cimString": "string",
    "cimBoolean": "boolean",
    "cimUnsignedShort": "unsignedShort",
    "cimUnsignedInt": "unsignedInt",
    "cimUnsignedLong": "unsignedLong",
}
CIM = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2"


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> etree.XMLSchema:
    """DSP8023 with all that it imports."""
    samples = shared_path("samples/other/schemas")
    folder = tmp_path_factory.mktemp("schemas")
    types = "\n".join(COMMON_TYPE.format(name=name, base=base) for name, base in COMMON_TYPES.items())
    (folder / "xml.xsd").write_text(XML_SCHEMA)
    (folder / "common.xsd").write_text(COMMON_SCHEMA.format(types=types))
    imports = {
        "http://www.w3.org/XML/1998/namespace": "xml.xsd",
        "http://schemas.dmtf.org/wbem/wscim/1/common": "common.xsd",
        f"{CIM}/CIM_VirtualSystemSettingData": samples / "CIM_VirtualSystemSettingData.xsd",
        f"{CIM}/CIM_ResourceAllocationSettingData": samples / "CIM_ResourceAllocationSettingData.xsd",
        "http://schemas.dmtf.org/ovf/envelope/1": samples / "DSP8023.xsd",
    }
    lines = "".join(f'<xs:import namespace="{name}" schemaLocation="{place}"/>' for name, place in imports.items())
    everything = folder / "everything.xsd"
    everything.write_text(f'<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">{lines}</xs:schema>')
    return etree.XMLSchema(etree.parse(everything))


def without_general_data(root: etree._Element) -> etree._Element:
    for system in root.iter(f"{OVF}VirtualSystem"):
        for child in list(system):
            name = str(child.tag).removeprefix(OVF)
            if name not in {"Info", "Name"} and not name.endswith("Section"):
                system.remove(child)
    return root


def without_ovirts_item_parts(root: etree._Element) -> etree._Element:
    for item in root.iter(f"{OVF}Item"):
        for child in list(item):
            if str(child.tag).removeprefix(RASD) in OVIRTS_ITEM_PARTS:
                item.remove(child)
    return root


def written(machine: Machine) -> bytes:
    return write_ovf(machine, [DiskFile(1 << 30, 393_216)] * len(machine.disks))


@given(machines())
def test_valid_without_the_documented_parts(schema: etree.XMLSchema, machine: Machine) -> None:
    schema.assertValid(without_ovirts_item_parts(without_general_data(etree.fromstring(written(machine)))))


@pytest.mark.parametrize("part_removed", [without_general_data, without_ovirts_item_parts])
@given(machine=machines())
@settings(max_examples=10)
def test_each_documented_part_is_not_valid(
    schema: etree.XMLSchema, part_removed: Callable[[etree._Element], etree._Element], machine: Machine
) -> None:
    """Else the documentation names too much."""
    assert not schema.validate(part_removed(etree.fromstring(written(machine))))


@given(machines())
@settings(max_examples=5)
def test_well_formed_for_xmllint(tmp_path_factory: pytest.TempPathFactory, machine: Machine) -> None:
    path: Path = tmp_path_factory.mktemp("xmllint") / "vm.ovf"
    path.write_bytes(written(machine))
    result = run("xmllint", "--noout", path)
    assert result.stderr == ""
