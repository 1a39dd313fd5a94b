"""Disks that QEMU has to read: served by processes of qemu-nbd, which are shared and ended here."""
