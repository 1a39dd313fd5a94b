#!/bin/bash
# The whole way of a machine, on real images: a disk with a file system in it, kept as a chain of three qcow2
# images; a pool; a mount; a copy; and the proof, by other programs, that the copy holds that disk.
#
# Works in a folder of its own and removes it, whatever happens. Needs no root but a FUSE mount.
set -euo pipefail
export LC_ALL=C.UTF-8 PATH="$PATH:/usr/sbin:/sbin"

work=$(mktemp -d "${TMPDIR:-/tmp}/ovafs-demo.XXXXXX")
mount_point=$work/mnt

finish() {
    local status=$?
    trap - EXIT
    cd /
    if grep -qs " $mount_point " /proc/self/mounts; then
        ovafs umount "$mount_point" || fusermount3 -u -z "$mount_point" || true
    fi
    if grep -qs " $mount_point " /proc/self/mounts; then
        printf '\ndemo: %s is still mounted; %s is left there\n' "$mount_point" "$work" >&2
    else
        rm -rf "$work"
    fi
    [ "$status" = 0 ] || printf '\ndemo: FAILED with exit code %d\n' "$status" >&2
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

title() { printf '\n== %s\n' "$*"; }
show() {
    local word line='$'
    for word; do
        case $word in
            *[!A-Za-z0-9_./=,:-]*) line+=" '$word'" ;;
            *) line+=" $word" ;;
        esac
    done
    printf '%s\n' "$line"
    "$@"
}
fail() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}

# Add to the chain what a guest would have written after a snapshot: a file, put into a copy of the file system;
# rebase then keeps in the new image only the clusters in which the copy differs from the image below it.
add_layer() {
    local below=$1 image=$2 file=$3
    show debugfs -w -R "write $file $file" state.raw 2>&1 | grep -v '^debugfs\|^Allocated' || true
    qemu-img create -q -f qcow2 -b state.raw -F raw "$image"
    show qemu-img rebase -f qcow2 -b "$below" -F qcow2 "$image"
}

# Make NAME.ova of the disk state.raw: a streamOptimized VMDK, an OVF 1 descriptor and a manifest.
pack_foreign() {
    local name=$1
    show qemu-img convert -f raw -O vmdk -o subformat=streamOptimized state.raw "$name-disk1.vmdk"
    cat >"$name.ovf" <<END
<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
  <References><File ovf:id="file1" ovf:href="$name-disk1.vmdk" ovf:size="$(stat -c %s "$name-disk1.vmdk")"/></References>
  <DiskSection><Info>Disks</Info>
    <Disk ovf:diskId="disk1" ovf:fileRef="file1" ovf:capacity="256" ovf:capacityAllocationUnits="byte * 2^20"
      ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/></DiskSection>
  <VirtualSystem ovf:id="$name"><Info>A machine</Info><Name>$name</Name>
    <VirtualHardwareSection><Info>Hardware</Info>
      <Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType>
        <rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
      <Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:InstanceID>2</rasd:InstanceID>
        <rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>1024</rasd:VirtualQuantity></Item>
      <Item><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType>
        <rasd:ResourceType>6</rasd:ResourceType></Item>
      <Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/disk1</rasd:HostResource>
        <rasd:InstanceID>4</rasd:InstanceID><rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>
    </VirtualHardwareSection></VirtualSystem>
</Envelope>
END
    sha256sum --tag "$name.ovf" "$name-disk1.vmdk" | sed 's/ (\(.*\)) = /(\1)= /' >"$name.mf"
    show tar cf "$name.ova" "$name.ovf" "$name.mf" "$name-disk1.vmdk"
}

# The only volume that the pool made after those that are listed in known.
new_volume() {
    local volume
    volume=$(find pool/volumes -name '*.qcow2' | grep -vxF -f known)
    [ "$(wc -l <<<"$volume")" = 1 ] || fail "one new volume was expected, not: $volume"
    echo "$volume" | tee -a known
}

cd "$work"
title "A disk: an ext4 file system with files in it, 256 MiB"
mkdir files
head -c 20000000 /dev/urandom >files/random.bin
echo "written before the first snapshot" >files/first.txt
echo "written after the first snapshot" >second.txt
head -c 5000000 /dev/urandom >third.bin
show mke2fs -q -t ext4 -d files state.raw 256M

title "The same disk as a chain of three images, as snapshots leave it"
show qemu-img convert -f raw -O qcow2 state.raw base.qcow2
add_layer base.qcow2 snapshot1.qcow2 second.txt
add_layer snapshot1.qcow2 web.qcow2 third.bin
show qemu-img info --backing-chain web.qcow2 | grep -E '^\$|^image|^disk size|^backing file:'

title "A pool, and a machine on that chain: nothing is copied"
show ovafs pool create pool
show ovafs vm add pool web --disk web.qcow2 --memory 2GiB --cpus 2 --nic default --description "web server of the demo"
show ovafs vm list pool

title "A mount"
mkdir mnt
echo none >known
show ovafs mount pool mnt
show ls -l mnt/vms

title "The export is cp"
show cp mnt/vms/web.ova copy.ova

title "The import is cp, too"
show cp copy.ova mnt/drop/again.ova
again=$(new_volume)
show ls -l mnt/vms
show cp mnt/vms/web-2.ova second.ova

title "So it is for packages of others: a disk as VMware's programs write it, a descriptor, a manifest"
pack_foreign appliance
show tar tvf appliance.ova
show cp appliance.ova mnt/drop/
foreign=$(new_volume)
show ls -l mnt/vms
show ovafs umount mnt

title "Proof: tar, qemu-img and e2fsprogs judge the copy; ovafs is not running any more"
show tar tvf copy.ova
mkdir unpacked
tar xf copy.ova -C unpacked
disk=$(find unpacked -type f ! -name '*.ovf')
[ "$(wc -l <<<"$disk")" = 1 ] || fail "one disk was expected, not: $disk"
show qemu-img check -f qcow2 "$disk"
show qemu-img compare -f qcow2 -F qcow2 "$disk" web.qcow2
show qemu-img compare -f qcow2 -F raw "$disk" state.raw
show qemu-img convert -f qcow2 -O raw "$disk" disk.raw
show e2fsck -f -n disk.raw
for file in first.txt second.txt; do
    show debugfs -R "cat $file" disk.raw 2>/dev/null
done
for file in files/random.bin third.bin; do
    debugfs -R "dump ${file##*/} dumped" disk.raw 2>/dev/null
    show cmp dumped "$file"
done

title "Proof: the machines that were dropped have the same disk"
for volume in "$again" "$foreign"; do
    show qemu-img check -f qcow2 "$volume"
    show qemu-img compare -f qcow2 -F qcow2 "$volume" web.qcow2
done
show ovafs vm list pool

title "Done: copy.ova ($(stat -c %s copy.ova) bytes) holds the disk, byte for byte"
