"""What libvirt holds: its domains as machines. One module, ``connection``, talks to the library."""
