"""The tree of nodes that the mount shows; knows no FUSE."""
