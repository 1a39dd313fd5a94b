"""Disk files of a package taken apart while they arrive: bytes go in, guest data comes out."""
