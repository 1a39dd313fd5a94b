"""From a package to volumes and machines, while its bytes arrive."""
