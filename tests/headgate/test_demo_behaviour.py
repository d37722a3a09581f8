"""What a demo server may be told to do, and what it then does to single requests."""

import statistics
from random import Random

import pytest

from headgate.demo.behaviour import Behaviour


def test_a_fixed_latency_is_the_same_for_every_request():
    drawn = {Behaviour(latency_ms=20).draw(Random(seed)) for seed in range(50)}
    assert drawn == {(0.02, False)}


def test_a_lognormal_latency_has_its_median_and_a_tail():
    random = Random(1)
    seconds = [Behaviour(latency_ms=20, latency_sigma=0.5).draw(random)[0] for _ in range(5000)]
    assert statistics.median(seconds) == pytest.approx(0.02, rel=0.05)
    assert statistics.quantiles(seconds, n=100)[98] > 0.05


def test_the_error_rate_is_kept_and_the_seed_decides_which_requests_fail():
    first, again, other = (
        [Behaviour(error_rate=0.1).draw(random)[1] for _ in range(5000)] for random in map(Random, (1, 1, 2))
    )
    assert first == again != other
    assert sum(first) / 5000 == pytest.approx(0.1, abs=0.015)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"redy": True}, "unknown field redy; there are ready, live, latency_ms"),
        ({"ready": 1}, "ready must be true or false, got 1"),
        ({"error_rate": 1.5}, "error_rate must be a number between 0 and 1, got 1.5"),
        ({"latency_ms": -1}, "latency_ms must be a number between 0 and 60000, got -1"),
        ({"latency_ms": float("nan")}, "latency_ms must be a number"),
        ({"latency_ms": "fast"}, "latency_ms must be a number"),
        ({"error_rate": True}, "error_rate must be a number"),
    ],
)
def test_a_behaviour_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Behaviour().changed(changes)
