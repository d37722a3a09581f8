"""How often Envoy is read: every second, and never for more than a fifth of the time."""

from __future__ import annotations

import pytest

from sidecar.metrics.follow import rest


@pytest.mark.parametrize(("took", "expected"), [(0.0, 1.0), (0.02, 0.98), (0.2, 0.8), (0.7, 2.8)])
def test_long_readings_are_far_apart(took: float, expected: float) -> None:
    assert rest(1.0, took) == pytest.approx(expected)
    assert took <= (took + rest(1.0, took)) / 5
