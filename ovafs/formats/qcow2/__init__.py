"""The qcow2 format (qemu docs/interop/qcow2.txt): header and tables."""
