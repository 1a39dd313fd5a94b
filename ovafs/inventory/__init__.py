"""Which machines there are: the pool and its catalog."""
