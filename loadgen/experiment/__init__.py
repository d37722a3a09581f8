"""Experiments: an ordered list of tasks, its results, and where they are kept."""
