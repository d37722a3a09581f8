import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.samples import binomial_interval, median, paired_ratio, percentile

numbers = st.lists(st.floats(-1e9, 1e9), min_size=1)


@given(numbers, st.floats(0, 100))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(values, percent):
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= percent / 100 * len(values) - 1e-6


def test_percentiles_by_nearest_rank():
    values = [15.0, 20.0, 35.0, 40.0, 50.0]
    assert [percentile(values, p) for p in (5, 30, 40, 50, 100)] == [15.0, 20.0, 20.0, 35.0, 50.0]


def test_nothing_measured_is_not_a_number_rather_than_zero():
    assert math.isnan(percentile([], 50))
    assert math.isnan(median([]))


def test_a_percentile_beyond_100_is_a_mistake():
    with pytest.raises(ValueError, match="between 0 and 100"):
        percentile([1.0], 101)


@pytest.mark.parametrize(("values", "middle"), [([3.0], 3.0), ([1.0, 9.0], 5.0), ([9.0, 1.0, 4.0], 4.0)])
def test_the_median_is_the_middle(values, middle):
    assert median(values) == middle


def test_a_neighbour_who_slows_both_of_a_pair_does_not_change_their_ratio():
    assert paired_ratio([10.0, 200.0, 12.0], [5.0, 100.0, 6.0]) == 2.0


def test_rounds_without_a_partner_are_a_mistake():
    with pytest.raises(ValueError, match="in pairs"):
        paired_ratio([1.0], [1.0, 2.0])


def mass(trials, probability, low, high):
    return math.fsum(
        math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k) for k in range(low, high + 1)
    )


@given(st.integers(1, 300), st.floats(0.01, 0.99))
def test_the_interval_holds_999_of_1000_and_is_no_wider_than_needed(trials, probability):
    low, high = binomial_interval(trials, probability)
    assert mass(trials, probability, low, high) >= 0.999 - 1e-9
    assert mass(trials, probability, 0, low) > 0.0005 - 1e-9, "the lower end could be higher"
    assert mass(trials, probability, high, trials) > 0.0005 - 1e-9, "the upper end could be lower"


def test_the_interval_of_many_trials_is_that_of_the_normal_curve():
    low, high = binomial_interval(1_000_000, 0.5)
    assert abs(low - (500_000 - 3.2905 * 500)) < 2
    assert abs(high - (500_000 + 3.2905 * 500)) < 2


@pytest.mark.parametrize(("probability", "only"), [(0.0, 0), (1.0, 50)])
def test_a_certain_outcome_has_no_room(probability, only):
    assert binomial_interval(50, probability) == (only, only)


def test_no_trials_prove_nothing():
    assert binomial_interval(0, 0.3) == (0, 0)


@pytest.mark.parametrize(("trials", "probability"), [(-1, 0.5), (1, 1.1), (1, -0.1)])
def test_an_impossible_experiment_is_a_mistake(trials, probability):
    with pytest.raises(ValueError, match="need trials"):
        binomial_interval(trials, probability)
