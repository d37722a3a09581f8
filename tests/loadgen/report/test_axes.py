import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from loadgen.report import axes
from loadgen.slo.quantities import brief, digits, duration, quantity, share, span


@given(st.floats(1e-6, 1e9))
def test_a_linear_axis_holds_the_highest_value_with_a_few_round_ticks(high: float) -> None:
    axis = axes.linear(high, str)
    assert axis.low == 0
    assert high * (1 - 1e-6) <= axis.high <= high * 2.6
    assert 3 <= len(axis.ticks) <= 8
    assert axis.place(axis.low) == 0
    assert math.isclose(axis.place(axis.high), 1)


@given(st.floats(1e-6, 1e4), st.floats(1, 1e6))
def test_a_logarithmic_axis_holds_both_ends_with_a_few_ticks(low: float, factor: float) -> None:
    axis = axes.logarithmic(low, low * factor, str)
    assert axis.low <= low * 1.002
    assert axis.high >= low * factor * 0.998
    assert 2 <= len(axis.ticks) <= 14
    places = [axis.place(value) for value, _ in axis.ticks]
    assert places == sorted(places)
    assert all(-0.02 <= place <= 1.02 for place in places)


def test_each_nine_of_a_percentile_takes_as_much_room() -> None:
    axis = axes.percentiles(99.99)
    nines = [axis.place(axes.rarity(percent)) for percent in (90, 99, 99.9, 99.99)]
    steps = [b - a for a, b in pairwise(nines)]
    assert max(steps) - min(steps) < 1e-6
    assert [words for _, words in axis.ticks] == ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"]
    assert [words for _, words in axes.percentiles(98).ticks] == ["0 %", "50 %", "90 %"]


def test_a_stall_among_fast_answers_is_drawn_on_a_logarithmic_axis() -> None:
    assert axes.for_durations([0.005] * 9 + [2.0], duration).logarithmic
    assert not axes.for_durations([0.05, 0.06, 0.1], duration).logarithmic
    assert axes.for_durations([], duration).high == 1


def test_figures_have_three_digits_and_the_unit_that_fits() -> None:
    assert [duration(each) for each in (0.0000042, 0.01234, 0.9999, 1.8049, 12.345, 3600.0)] == [
        "4.2 µs",
        "12.3 ms",
        "1,000 ms",
        "1,805 ms",
        "12.3 s",
        "3,600 s",
    ]
    assert (duration(None), duration(math.nan), duration(math.inf)) == ("-", "-", "∞")
    assert [share(each) for each in (0, 0.00386, 0.5, 1, None)] == ["0 %", "0.386 %", "50 %", "100 %", "-"]
    assert [digits(each) for each in (0, 0.1166, 1234567.8, math.inf)] == ["0", "0.117", "1,234,568", "∞"]
    assert [quantity(1.5, scale) for scale in ("time", "share", "per second", "ratio", "count")] == [
        "1,500 ms",
        "150 %",
        "1.5/s",
        "1.5×",
        "1.5",
    ]


def test_intervals_name_their_unit_once() -> None:
    assert brief(0.0494, 0.0501) == "49.4–50.1 ms"
    assert brief(0.0009, 0.0501) == "900 µs–50.1 ms"
    assert brief(0.0, 0.0501) == "0–50.1 ms"
    assert brief(0.1, math.inf) == "100 ms–∞"
    assert span(0.1, math.inf, "time") == "100 ms or more"
    assert span(0.0, 0.2, "time") == "up to 200 ms"
    assert span(0.01, 0.02, "share") == "1 % to 2 %"
