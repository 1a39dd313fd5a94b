"""What ovafs shows, as plans: segments, extents, the planned qcow2, the package. No I/O."""
