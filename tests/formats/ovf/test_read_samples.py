"""Descriptors that other products wrote: what each says, as their text says it, or why it is refused."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

import pytest

from ovafs.errors import InvalidPackage
from ovafs.formats.ovf.read import read_descriptor
from tests.support.shared import shared_path

if TYPE_CHECKING:
    from ovafs.formats.ovf.read_model import Descriptor

NO_SYSTEM = "the descriptor describes no virtual system"

ORDER = "ovf-vmware/standard_ovas/order/order-mf-cert-ovf-vmdk"

# Name, processors, MiB of memory, disks and network adapters of each system. Where a descriptor offers
# configurations these are the numbers of its default one.
_System = tuple[str, int | None, int | None, int, int]

EXPECTED: dict[str, list[_System] | str] = {
    "other/glance/testserver-bad-ovf.ova": "the descriptor is not well-formed XML",
    "other/glance/testserver-no-disk.ova": [("testserver", 1, 512, 1, 1)],
    "other/glance/testserver.ova": [("testserver", 1, 512, 1, 1)],
    "other/harvester/test.ova": [("ubuntu", 1, 512, 1, 1)],
    "other/open-ovf/examples_someOVF.ovf": [("MyLampService", 1, 256, 1, 1)],
    "other/open-ovf/py_tests_test_files_ourOVF.ova": NO_SYSTEM,
    "other/open-ovf/py_tests_test_files_ourOVF.ovf": "its root is 'Envelope' in the namespace 'http://schemas.dmtf.org/ovf/envelope'",
    "other/open-ovf/py_tests_test_files_someOVF.ovf": [("MyLampService", 1, 256, 1, 1)],
    "ovf-cot/csr1000v.ovf": [("Cisco CSR 1000V Cloud Services Router", 1, 4096, 1, 3)],
    "ovf-cot/csr1000v_2017.ovf": [("Cisco CSR 1000V Cloud Services Router", 1, 4096, 1, 3)],
    "ovf-cot/ersatz_ovf_3.0.ovf": "the namespace 'http://schemas.dmtf.org/ovf/envelope/3'",
    "ovf-cot/input.ovf": [("test", 4, 4096, 1, 3)],
    "ovf-cot/invalid.ovf": "disk 'flash2' is in the file 'flash2', which is not in the References",
    "ovf-cot/iosv.ovf": [("Cisco IOSv", 1, 384, 2, 2)],
    "ovf-cot/minimal.ovf": [("x", None, None, 0, 0)],
    "ovf-cot/ubuntu.2.0.ovf": [("ubuntu", 1, 512, 1, 1)],
    "ovf-cot/v0.9.ovf": [("v0.9", 1, 8192, 1, 1)],
    "ovf-cot/vmware.ovf": [("vmw", 2, 1536, 1, 4)],
    "ovf-vmware/ImportOvf2014/1GB_template.ovf": [("1GB_template", 1, 2048, 1, 1)],
    "ovf-vmware/ImportOvf2014/3VMvApp.ovf": [("vm2", 1, 4, 1, 1), ("vm3", 1, 4, 1, 1), ("vm1", 1, 4, 1, 1)],
    "ovf-vmware/ImportOvf2014/MsDos-MaxCpuUtilization.ovf": [("MsDos-MaxCpuUtilization", 1, 4, 1, 0)],
    "ovf-vmware/ImportOvf2014/MsDos-MaxMemoryUtilization.ovf": [("MsDos-MaxMemoryUtilization", 1, 4, 1, 0)],
    "ovf-vmware/ImportOvf2014/VM_OVF10.ovf": [("CentOS_6_JeOS_-_Minimal", 1, 512, 1, 1)],
    "ovf-vmware/ImportOvf2014/aag-1-vm-AA.ovf": [("Test System", None, None, 0, 0)],
    "ovf-vmware/ImportOvf2014/aag-1-vm-no-group.ovf": [("Test System", None, None, 1, 0)],
    "ovf-vmware/ImportOvf2014/aag-1-vm.ovf": [("Test System", None, None, 1, 0)],
    "ovf-vmware/ImportOvf2014/aag-2-vm-vapp-no-group.ovf": [
        ("Test System 1", None, None, 0, 0),
        ("Test System 2", None, None, 0, 0),
    ],
    "ovf-vmware/ImportOvf2014/aag-2-vm-vapp.ovf": [
        ("Test System", None, None, 0, 0),
        ("Test System", None, None, 0, 0),
    ],
    "ovf-vmware/ImportOvf2014/aag-tbp-1-vm.ovf": [("Test System", None, None, 1, 0)],
    "ovf-vmware/ImportOvf2014/aag-tbp-2-vm-vapp.ovf": [
        ("Test System", None, None, 0, 0),
        ("Test System", None, None, 0, 0),
    ],
    "ovf-vmware/ImportOvf2014/annotation.ovf": [("Test VM", None, None, 0, 0)],
    "ovf-vmware/ImportOvf2014/complete_vs.ovf": "holds an empty part",
    "ovf-vmware/ImportOvf2014/complete_vs_11.ovf": [("Test System", 1, 64, 1, 1)],
    "ovf-vmware/ImportOvf2014/complete_vsc.ovf": "the disk 'ovf:/disk/vmdisk1' or its file is attached twice",
    "ovf-vmware/ImportOvf2014/complete_vsc_11.ovf": [("Test System", 1, 64, 1, 1)],
    "ovf-vmware/ImportOvf2014/complete_vsc_orig.ovf": "holds an empty part",
    "ovf-vmware/ImportOvf2014/computeResource.ovf": [("Test System", 1, 512, 0, 0)],
    "ovf-vmware/ImportOvf2014/deploymentoption.ovf": [("Test System", None, None, 0, 0)],
    "ovf-vmware/ImportOvf2014/empty-disk.ovf": [("Test System", None, None, 1, 0)],
    "ovf-vmware/ImportOvf2014/empty_vsc.ovf": NO_SYSTEM,
    "ovf-vmware/ImportOvf2014/eula.ovf": [("Test VM", None, None, 0, 0), ("Test VM 2", None, None, 0, 0)],
    "ovf-vmware/ImportOvf2014/extraconfig.ovf": [("Test System", None, None, 0, 0)],
    "ovf-vmware/ImportOvf2014/haoUnOS1VM.ovf": [("vm2", 1, 256, 1, 1)],
    "ovf-vmware/ImportOvf2014/haoUnOS1VMVAPP.ovf": [("vm1", 1, 256, 1, 1)],
    "ovf-vmware/ImportOvf2014/haoUnOS1VMVAPPTAG.ovf": [("vm1", 1, 256, 1, 1)],
    "ovf-vmware/ImportOvf2014/haoUnOS2VMs.ovf": [("vm2", 1, 256, 1, 1), ("vm1", 1, 256, 1, 1)],
    "ovf-vmware/ImportOvf2014/haoUnOS2VMsNoNics.ovf": [("vm2", 1, 256, 1, 0), ("vm1", 1, 256, 1, 0)],
    "ovf-vmware/ImportOvf2014/invalid.ovf": [("Test System", None, None, 0, 0)],
    "ovf-vmware/ImportOvf2014/network.ovf": [("VS1", None, None, 0, 1)],
    "ovf-vmware/ImportOvf2014/nostalgia-two-disks.ovf": [("Nostalgia", 1, 64, 2, 1)],
    "ovf-vmware/ImportOvf2014/parentDisk.ovf": [("Test System", None, None, 1, 0)],
    "ovf-vmware/ImportOvf2014/pbm-1-vm-vapp.ovf": [("Test System", None, None, 1, 0)],
    "ovf-vmware/ImportOvf2014/pbm-2-vm-vapp.ovf": [
        ("Test System", None, None, 0, 0),
        ("Test System", None, None, 0, 0),
    ],
    "ovf-vmware/ImportOvf2014/pbm.ovf": "holds an empty part",
    "ovf-vmware/ImportOvf2014/properties.ovf": [("Test System", None, None, 0, 0)],
    "ovf-vmware/ImportOvf2014/properties_filtering.ovf": NO_SYSTEM,
    "ovf-vmware/ImportOvf2014/scaleout.ovf": [("Test System", None, None, 0, 0)],
    "ovf-vmware/ImportOvf2014/scaleoutDisk.ovf": [("Test System", None, None, 1, 0)],
    "ovf-vmware/ImportOvf2014/scaleoutMax.ovf": [("Test System", None, None, 0, 0)],
    "ovf-vmware/ImportOvf2014/scaleoutStartup.ovf": NO_SYSTEM,
    "ovf-vmware/ImportOvf2014/scaleoutUnbound.ovf": [("Test System", None, None, 0, 0)],
    "ovf-vmware/ImportOvf2014/scaleoutVApp.ovf": NO_SYSTEM,
    "ovf-vmware/ImportOvf2014/soft-aag-2-vm-vapp-no-group.ovf": [
        ("Test System", None, None, 0, 0),
        ("Test System", None, None, 0, 0),
    ],
    "ovf-vmware/ImportOvf2014/soft-aag-2-vm-vapp.ovf": [
        ("Test System", None, None, 0, 0),
        ("Test System", None, None, 0, 0),
    ],
    "ovf-vmware/ImportOvf2014/soft-aag-tbp-2-vm-vapp.ovf": [
        ("Test System", None, None, 0, 0),
        ("Test System", None, None, 0, 0),
    ],
    "ovf-vmware/ImportOvf2014/storagegroup.ovf": [("Test System", None, None, 0, 0)],
    "ovf-vmware/ImportOvf2014/storagegroupVApp.ovf": [("VM 1", None, None, 1, 0), ("VM 2", None, None, 1, 0)],
    "ovf-vmware/ImportOvf2014/storagegroupWithDisk.ovf": [("Test System", None, None, 1, 0)],
    "ovf-vmware/ImportOvf2014/tagBasedPlacementGroupSection/tagBasedPlacementGroup001.ovf": NO_SYSTEM,
    "ovf-vmware/ImportOvf2014/tagBasedPlacementGroupSection/tagBasedPlacementGroup002.ovf": [
        ("Test System", None, None, 0, 0)
    ],
    "ovf-vmware/ImportOvf2014/tagBasedPlacementGroupSection/tagBasedPlacementGroup003.ovf": NO_SYSTEM,
    "ovf-vmware/ImportOvf2014/tagBasedPlacementGroupSection/tagBasedPlacementGroup004.ovf": NO_SYSTEM,
    "ovf-vmware/ImportOvf2014/tagBasedPlacementGroupSection/tagBasedPlacementGroup005.ovf": NO_SYSTEM,
    "ovf-vmware/ImportOvf2014/tagBasedPlacementSection/tagBasedPlacement001.ovf": NO_SYSTEM,
    "ovf-vmware/ImportOvf2014/tagBasedPlacementSection/tagBasedPlacement002.ovf": [("Test System", None, None, 0, 0)],
    "ovf-vmware/ImportOvf2014/tagBasedPlacementSection/tagBasedPlacement003.ovf": [("Test System", None, None, 0, 0)],
    "ovf-vmware/ImportOvf2014/tagBasedPlacementSection/tagBasedPlacement004.ovf": NO_SYSTEM,
    "ovf-vmware/ImportOvf2014/tagBasedPlacementSection/tagBasedPlacement005.ovf": NO_SYSTEM,
    "ovf-vmware/ImportOvf2014/tagBasedPlacementSection/tagBasedPlacement006.ovf": [("Test System", None, None, 0, 0)],
    "ovf-vmware/ImportOvf2014/tagBasedPlacementSection/tagBasedPlacement007.ovf": [("Test System", None, None, 0, 0)],
    "ovf-vmware/ImportOvf2014/unknownsections.ovf": [("Test System", None, None, 0, 0)],
    "ovf-vmware/ImportOvf2014/unknownsections_updated.ovf": NO_SYSTEM,
    "ovf-vmware/ImportOvf2014/windowsVM40g.ovf": [("workload-driver-cloudmark042", 4, 16384, 1, 1)],
    "ovf-vmware/category-grouping.ovf": [("category-vm", 1, 1024, 0, 0)],
    "ovf-vmware/configspec.ovf": [("haproxy", 2, 4096, 1, 2)],
    "ovf-vmware/deployment-configs.ovf": [("deployment-configs-vm", 8, 8192, 3, 1)],
    "ovf-vmware/disk-capacity-property.ovf": [("disk-capacity-property-vm", 1, 512, 1, 0)],
    "ovf-vmware/dmtf_gos_test.ovf": [("PTC01_VM", None, None, 1, 1)],
    "ovf-vmware/dmtf_gos_versioned_test.ovf": [("debian12_vm", None, None, 1, 0)],
    "ovf-vmware/empty.ovf": NO_SYSTEM,
    "ovf-vmware/file-ref-path.ovf": [("file-ref-path-vm", 1, 512, 1, 0)],
    "ovf-vmware/invalid-property-key.ovf": [("invalid-key-vm", 1, 512, 0, 0)],
    "ovf-vmware/invalid_ovf/path1/testLonCharacterPathLimit/testDBpathLimitwwwwwwwwwwwwwww/descriptor.ovf": "the descriptor is empty",  # noqa: E501
    "ovf-vmware/mixed-disks.ovf": [("mixed-disks-vm", 1, 512, 2, 0)],
    "ovf-vmware/multiple_disks.ovf": [("uber", 2, 64, 4, 1)],
    "ovf-vmware/ovf_negative_test/New folder/haoUnOS2VMs/haoUnOS2VMs.ovf": [
        ("vm2", 1, 256, 1, 1),
        ("vm1", 1, 256, 1, 1),
    ],
    "ovf-vmware/ovf_negative_test/ovf_with_missing_ovf_content/haoUnOS2VMs.ovf": [
        ("vm2", 1, 256, 1, 1),
        ("vm1", 1, 256, 1, 1),
    ],
    "ovf-vmware/ovf_negative_test/ovf_with_wrong_size/haoUnOS2VMs/haoUnOS2VMs.ovf": [
        ("vm2", 1, 256, 1, 1),
        ("vm1", 1, 256, 1, 1),
    ],
    "ovf-vmware/photon5.ovf": [("Photon OS", 1, 2048, 1, 1)],
    "ovf-vmware/properties.ovf": [("test-vm", 2, 2048, 0, 1)],
    "ovf-vmware/property-types.ovf": [("property-types-vm", 1, 512, 1, 0)],
    "ovf-vmware/qualifiers.ovf": [("qualifiers-vm", 1, 512, 1, 0)],
    "ovf-vmware/security-test-content/ovf/large-disk/haoUnOS2VMs.ovf": [("vm2", 1, 32, 1, 1), ("vm1", 1, 32, 1, 1)],
    "ovf-vmware/security-test-content/ovf/negative-out-of-bound-disk/haoUnOS2VMs.ovf": "-9223372036854775809",
    "ovf-vmware/security-test-content/ovf/negative-size-disk/haoUnOS2VMs.ovf": "-9223372036854775807",
    "ovf-vmware/security-test-content/ovf/out-of-bounds-disk/haoUnOS2VMs.ovf": "9223372036854775808",
    "ovf-vmware/standard_ovas/cdRemoteAtapi/cdRemoteAtapi.ovf": [("VS1", None, None, 0, 0)],
    "ovf-vmware/standard_ovas/disk-no-file/disk-no-file.ovf": [("Test System", None, None, 1, 0)],
    "ovf-vmware/standard_ovas/diskstoragegroup/diskStoragegroup.ovf": [("VS1", None, None, 1, 0)],
    "ovf-vmware/standard_ovas/eula-vm/eula-vm.ovf": [("Test VM", None, None, 0, 0)],
    "ovf-vmware/standard_ovas/external-msg/external.ovf": [("Nostalgia", 1, 64, 1, 1)],
    "ovf-vmware/standard_ovas/incorrect-disk/incorrect-disk.ovf": [("Nostalgia", 1, 64, 1, 1)],
    "ovf-vmware/standard_ovas/internal-bundle/internal-bundle.ovf": [("Test System Collection", None, None, 0, 0)],
    "ovf-vmware/standard_ovas/internal-sha1/internal.ovf": [("Test System Collection", None, None, 0, 0)],
    "ovf-vmware/standard_ovas/ipassignment/ipassignment.ovf": [("ipassignment", 1, 256, 0, 0)],
    "ovf-vmware/standard_ovas/nostalgia-chunkdisk/Nostalgia.ovf": [("Nostalgia", 1, 64, 1, 1)],
    f"{ORDER}/nostalgia-order-mf-cert-ovf-vmdk/nostalgia-order-mf-cert-ovf-vmdk.ovf": [("Nostalgia", 1, 64, 1, 1)],
    "ovf-vmware/standard_ovas/parentDisk/parentDisk.ovf": [("Test System", None, None, 1, 0)],
    "ovf-vmware/standard_ovas/preferSCSILSI_disk/preferSCSILSI_disk.ovf": [("VS1", None, None, 1, 0)],
    "ovf-vmware/standard_ovas/ttylinux/ttylinux.ovf": [("ttylinux", 1, 16, 1, 1)],
    "ovf-vmware/standard_ovas/unsupportedHardwareVersion/unsupportedHardwareVersion.ovf": [
        ("Test System", None, None, 0, 0)
    ],
    "ovf-vmware/standard_ovas/versionMultipleSameSection/versionMultipleSameSection.ovf": [
        ("Test System", None, None, 0, 0)
    ],
    "ovf-vmware/standard_ovas/with_spaces/special char.s-in_name/special char.s-in_name.ovf": [("ùàçéè", 1, 40, 1, 1)],
    "ovf-vmware/ttylinux.ovf": [("ttylinux-pc_i486-16.1", 1, 32, 1, 1)],
    "ovf-vmware/uber.ovf": [("uber-vm", 1, 512, 1, 1)],
    "ovf-vmware/ubuntu24.10.ovf": [("ubuntu-oracular-24.10-cloudimg-20241109", 2, 1024, 1, 1)],
    "ovf-vmware/unsupported-resourcesubtype.ovf": [("my-vm", 2, 4096, 0, 0)],
    "ovf-vmware/unsupported-resourcetype.ovf": [("my-vm", 2, 4096, 0, 0)],
    "ovf-vmware/virtualsystemcollection.ovf": "is not a valid URI",
    "ovftool/tdAppliance1-t1.ova": [("tdAppliance1-t1", 1, 256, 0, 1)],
    "ovftool/tdAppliance1-t2.ova": [("tdAppliance1-t2", 1, 16, 1, 1)],
    "ovftool/tdAppliance1-t3-ovftool-4.1.0.ova": [("tdAppliance1-t3", 1, 256, 1, 1)],
    "ovftool/tdAppliance1-t4.ova": [("tdAppliance1-t4", 1, 1024, 2, 1)],
    "ovftool/tdAppliance1-t7-bad-instance.ova": [("tdAppliance1-t7", 1, 16, 1, 1)],
    "ovirt/engine-4.5.8-writer.template.ovf": [("demo", 2, 2048, 2, 1)],
    "ovirt/engine-4.5.8-writer.vm.ovf": [("demo", 2, 2048, 2, 1)],
    "ovirt/handwritten-minimal.template.ovf": [("tiny-template", 1, 1024, 1, 1)],
    "ovirt/handwritten-minimal.vm.ovf": [("tiny", 1, 1024, 1, 1)],
    "ovirt/oracle-mk-envelope.template.ovf": [("OL9U2_x86_64-olvm-b1", 2, 2048, 1, 1)],
    "ovirt/oracle-mk-envelope.vm.ovf": [("OL9U2_x86_64-olvm-b1", 2, 2048, 1, 1)],
    "ovirt/ost-test-vm.v2v-rhv-upload.ovf": [("test-vm", 1, 2048, 1, 1)],
    "ovirt/vdsm-v2v_test-read_ovf.ovf": [("First", 1, 2048, 2, 1)],
    "ovirt/virt-v2v-test-i-ova-as-root.ovf": [("ova-test", 2, 4096, 1, 0)],
    "ovirt/virt-v2v-test-i-ova-checksums.ovf": [("ova-test", 2, 4096, 1, 0)],
    "ovirt/virt-v2v-test-i-ova-formats.ovf": [("2K8R2EESP1_2_Medium", 1, 1024, 1, 1)],
    "ovirt/virt-v2v-test-i-ova-gz.ovf": [("2K8R2EESP1_2_Medium", 1, 1024, 1, 1)],
    "ovirt/virt-v2v-test-i-ova-snapshots.ovf": [("2K8R2EESP1_2_Medium", 1, 1024, 1, 1)],
    "ovirt/virt-v2v-test-i-ova-subfolders.ovf": [("2K8R2EESP1_2_Medium", 1, 1024, 1, 1)],
    "ovirt/virt-v2v-test-i-ova-tar.ovf": [("2K8R2EESP1_2_Medium", 1, 1024, 1, 1)],
    "ovirt/virt-v2v-test-i-ova-two-disks.ovf": [("2K8R2EESP1_2_Medium", 1, 1024, 2, 1)],
    "ovirt/virt-v2v-test-i-ova.ovf": [("TestOva", 1, 2048, 1, 1)],
    "virtualbox/ctl-virtio-ovf10.ova": [("ctl-virtio", 1, 1024, 1, 1)],
    "virtualbox/diskless.ova": [("diskless", 1, 1024, 0, 1)],
    "virtualbox/efi-scsi-ovf20-iso.ova": [("efi scsi späce 虚拟机", 4, 2048, 2, 2)],
    "virtualbox/linux-sata-nomf.ova": [("linux-sata", 2, 512, 1, 1)],
    "virtualbox/linux-sata-ovf10.ova": [("linux-sata", 2, 512, 1, 1)],
    "virtualbox/linux-sata-ovf20.ova": [("linux-sata", 2, 512, 1, 1)],
    "virtualbox/two-vms-ovf10.ova": [("linux-sata", 2, 512, 1, 1), ("efi scsi späce 虚拟机", 4, 2048, 2, 2)],
}


def descriptor(name: str) -> bytes:
    """A descriptor: a file, or the first ``.ovf`` in an archive."""
    data = shared_path(f"samples/{name}").read_bytes()
    if not name.endswith(".ova"):
        return data
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = next(info for info in archive if info.name.endswith(".ovf"))
        file = archive.extractfile(member)
        assert file is not None
        return file.read()


def summary(found: Descriptor) -> list[_System]:
    return [
        (
            system.name,
            system.cpu.total if system.cpu else None,
            system.memory >> 20 if system.memory else None,
            len(system.disks),
            len(system.nics),
        )
        for system in found.systems
    ]


@pytest.mark.parametrize("name", EXPECTED)
def test_sample(name: str) -> None:
    expected = EXPECTED[name]
    data = descriptor(name)
    if isinstance(expected, list):
        assert summary(read_descriptor(data)) == expected
        return
    with pytest.raises(InvalidPackage) as caught:
        read_descriptor(data, "vm.ovf")
    assert expected in caught.value.reason
    assert caught.value.member == "vm.ovf"


def test_every_sample_is_in_the_table() -> None:
    folder = shared_path("samples")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*.ov[af]")}
    without_descriptor = {"other/glance/testserver-no-ovf.ova", "other/glance/testserver-not-tar.ova"}
    assert found == EXPECTED.keys() | without_descriptor
