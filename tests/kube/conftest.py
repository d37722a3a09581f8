"""A cluster of either kind."""

from kubedouble.fixture import cluster, double

__all__ = ["cluster", "double"]
