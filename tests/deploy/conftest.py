"""A cluster of either kind."""

from kubedouble.fixture import cluster

__all__ = ["cluster"]
