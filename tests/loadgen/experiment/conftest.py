"""Where experiments of a test are run."""

from experiment_bench import bench

__all__ = ["bench"]
