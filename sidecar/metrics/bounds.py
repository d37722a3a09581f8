"""Upper bounds of the buckets in which times of requests are counted, in seconds."""

from __future__ import annotations

BOUNDS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 120.0, 3600.0),
)
"""Those that the control plane gives to Envoy. What takes longer than the last is counted there."""
