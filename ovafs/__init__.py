"""Virtual machines as .ova files: a FUSE file system where export is ``cp`` and import is ``cp``."""

__version__ = "0.1.0"
