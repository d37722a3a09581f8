"""Intervals hold the truth as often as they say: by exact sums where there are any, otherwise by seeded simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.slo import intervals

confidences = st.sampled_from([0.8, 0.9, 0.95, 0.99])
lean = settings(max_examples=60, deadline=None)


def chance(k: int, n: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


@given(st.integers(1, 120), st.floats(0.001, 0.999), st.data())
@lean
def test_the_binomial_distribution_is_its_sum(n: int, p: float, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    assert intervals.binomial_cdf(k, n, p) == pytest.approx(sum(chance(i, n, p) for i in range(k + 1)), abs=1e-10)


@given(st.integers(1, 5000), st.floats(0.001, 0.999), st.floats(0.001, 0.999))
@lean
def test_a_binomial_quantile_is_the_least_that_reaches_its_probability(n: int, p: float, probability: float) -> None:
    k = intervals.binomial_quantile(probability, n, p)
    assert intervals.binomial_cdf(k, n, p) >= probability > intervals.binomial_cdf(k - 1, n, p)


@given(st.floats(0.5, 500), st.floats(0.5, 500), st.floats(0.001, 0.999))
@lean
def test_a_beta_quantile_is_where_its_distribution_reaches_the_probability(a: float, b: float, p: float) -> None:
    assert intervals.beta_cdf(intervals.beta_quantile(p, a, b), a, b) == pytest.approx(p, abs=1e-8)


@pytest.mark.parametrize(
    ("confidence", "freedom", "t"), [(0.95, 1, 12.7062), (0.95, 4, 2.7764), (0.99, 10, 3.1693), (0.9, 30, 1.6973)]
)
def test_students_t_is_that_of_the_tables(confidence: float, freedom: int, t: float) -> None:
    assert intervals.student(confidence, freedom) == pytest.approx(t, abs=1e-4)
    assert intervals.student(0.95, 10**7) == pytest.approx(1.95996, abs=1e-4)


@given(st.integers(1, 150), st.floats(0.01, 0.99), confidences)
@lean
def test_two_ranks_enclose_a_quantile_at_least_as_often_as_they_say(n: int, p: float, confidence: float) -> None:
    low, high = intervals.order_ranks(n, p, confidence)
    # The quantile lies between the values of ranks r and r + 1 when r values are at or below it.
    inside = sum(chance(r, n, p) for r in range(low or 0, n + 1 if high is None else high))
    assert inside >= confidence - 1e-9


@pytest.mark.parametrize(("percent", "least"), [(50, 6), (95, 72), (99, 368), (99.9, 3688)])
def test_fewer_samples_than_a_percentile_needs_bound_it_on_one_side_only(percent: float, least: int) -> None:
    assert intervals.percentile_needs(percent, 0.95) == least
    assert intervals.order_ranks(least, percent / 100, 0.95)[1] is not None
    assert intervals.order_ranks(least - 1, percent / 100, 0.95)[1] is None


@given(st.integers(1, 60), st.floats(0, 1), confidences)
@settings(max_examples=25, deadline=None)
def test_a_shares_interval_holds_it_at_least_as_often_as_it_says(n: int, p: float, confidence: float) -> None:
    inside = 0.0
    for k in range(n + 1):
        low, high = intervals.share(k, n, confidence)
        assert low <= k / n <= high
        inside += chance(k, n, p) if low <= p <= high else 0.0
    assert inside >= confidence - 1e-9


@pytest.mark.parametrize("limit", [0.0001, 0.01, 0.2, 0.5])
def test_so_many_requests_without_an_error_show_a_limit_of_errors(limit: float) -> None:
    least = intervals.share_needs(limit, 0.95)
    assert intervals.share(0, least, 0.95)[1] <= limit < intervals.share(0, least - 1, 0.95)[1]


def test_a_share_of_a_hundred_million_is_no_matter() -> None:
    low, high = intervals.share(10**6, 10**8, 0.95)
    assert (low, high) == (pytest.approx(0.00998051, abs=1e-7), pytest.approx(0.01001952, abs=1e-7))
    assert intervals.order_ranks(10**8, 0.99, 0.95) == (98_998_049, 99_001_951)


def coverage(holds: list[bool]) -> float:
    return sum(holds) / len(holds)


def test_means_and_deviations_of_skewed_times_are_enclosed_as_often_as_they_should_be() -> None:
    random = np.random.default_rng(7)
    means, deviations = [], []
    for _ in range(400):
        values = random.gamma(3.0, 0.02, 400)  # mean 0.06, deviation 0.0346
        low, high = intervals.mean(values.mean(), values.std(), 400, 0.95)
        means.append(low <= 0.06 <= high)
        fourth = float(((values - values.mean()) ** 4).mean())
        low, high = intervals.deviation(values.std(), fourth, 400, 0.95)
        deviations.append(low <= math.sqrt(3) * 0.02 <= high)
    assert 0.92 <= coverage(means) <= 0.98
    assert 0.89 <= coverage(deviations) <= 0.98


def order(values: "np.ndarray[tuple[int], np.dtype[np.float64]]", share: float) -> intervals.Bounded:
    values = np.sort(values)
    low, high = intervals.order_ranks(len(values), share, 0.95)
    assert low is not None
    assert high is not None
    return values[math.ceil(share * len(values)) - 1], values[low - 1], values[high - 1]


def test_ratios_of_percentiles_are_enclosed_as_often_as_they_should_be() -> None:
    random = np.random.default_rng(11)
    held = []
    for _ in range(400):
        one, other = random.lognormal(math.log(1.3), 0.6, 700), random.lognormal(0.0, 0.6, 2800)
        low, high = intervals.ratio(order(one, 0.95), order(other, 0.95))
        held.append(low <= 1.3 <= high)
    assert 0.93 <= coverage(held) <= 0.995


def test_differences_of_shares_are_enclosed_as_often_as_they_should_be() -> None:
    random = np.random.default_rng(13)
    held = []
    for _ in range(400):
        (a, n), (b, m) = (random.binomial(500, 0.03), 500), (random.binomial(2000, 0.01), 2000)
        one, other = (a / n, *intervals.share(a, n, 0.95)), (b / m, *intervals.share(b, m, 0.95))
        low, high = intervals.difference(one, other, 1.2)
        held.append(low <= 0.03 - 1.2 * 0.01 <= high)
    assert 0.93 <= coverage(held) <= 0.995


def test_ends_that_nothing_bounds_stay_without_bounds() -> None:
    assert intervals.ratio((2.0, 1.0, math.inf), (1.0, 0.5, 2.0))[1] == math.inf
    assert intervals.ratio((2.0, 0.0, 3.0), (1.0, 0.5, math.inf))[0] == 0.0
    assert intervals.difference((2.0, 1.0, math.inf), (1.0, 0.5, 2.0))[1] == math.inf
    assert intervals.mean(1.0, 0.0, 1, 0.95) == (0.0, math.inf)
    assert intervals.share(0, 0, 0.95) == (0.0, 1.0)


def test_a_p_value_is_the_level_at_which_the_interval_just_touches() -> None:
    assert intervals.least_level(lambda sure: sure < 0.97) == pytest.approx(0.03, rel=0.01)
    assert intervals.least_level(lambda sure: True) == pytest.approx(1e-6)
    assert intervals.least_level(lambda sure: False) == pytest.approx(1.0)
