"""From machines to bytes: packages, the executor of plans, export to a path."""
