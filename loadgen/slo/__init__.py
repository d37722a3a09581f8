"""Service level objectives: a small language, verdicts with their intervals, exit codes."""
