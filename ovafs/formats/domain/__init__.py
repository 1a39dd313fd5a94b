"""libvirt's domain XML, read and written, and what a host offers to domains."""
