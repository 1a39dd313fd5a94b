"""Disks that another program serves over NBD."""
