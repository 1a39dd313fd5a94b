"""The drop directory: a package that is written there is imported while it arrives."""
