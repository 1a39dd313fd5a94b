"""OVF descriptors: one writer for each dialect."""
