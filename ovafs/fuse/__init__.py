"""The protocol adapter: operations, errno table, mount. The only importer of pyfuse3."""
