"""VMDK, VMware's disk image: the sparse extent (``KDMV``), its descriptor, tables and markers."""
