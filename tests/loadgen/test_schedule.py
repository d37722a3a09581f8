"""The law of schedules: as many arrivals as there is area under the rate, in order, and each of them in one stripe."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.plan import Arrivals, Load, Stage
from loadgen.schedule import Chunk, Schedule, Share, opening_rate

rates = st.one_of(st.just(0.0), st.floats(0.1, 400))
stages = st.lists(st.builds(Stage, st.floats(0.1, 20), rates, rates), min_size=1, max_size=4).map(tuple)
arrivals = st.one_of(
    st.builds(Arrivals, stages, st.just("constant")),
    st.builds(Arrivals, stages, st.just("poisson"), st.integers(0, 5)),
    st.lists(st.floats(0, 60), min_size=1, max_size=300).map(lambda times: Arrivals(trace=tuple(sorted(times)))),
)


def numbered(chunks: list[Chunk]) -> dict[int, float]:
    return {each.first + i * each.step: time for each in chunks for i, time in enumerate(each.times)}


def all_of(schedule: Schedule, share: Share = Share()) -> dict[int, float]:  # noqa: B008
    return numbered(list(schedule.chunks(share)))


def area(schedule: tuple[Stage, ...], until: float) -> float:
    """By hand and slowly: what the rate adds up to."""
    total = 0.0
    for each in schedule:
        part = min(max(until, 0.0), each.duration)
        total += part * (each.start + (each.start + (each.end - each.start) * part / each.duration)) / 2
        until -= each.duration
    return total


@given(stages)
@settings(max_examples=80, deadline=None)
def test_as_many_arrivals_as_area_under_the_rate_at_every_moment(given_stages: tuple[Stage, ...]) -> None:
    times = list(all_of(Schedule(Load(arrivals=Arrivals(given_stages)))).values())
    end = sum(each.duration for each in given_stages)
    assert abs(len(times) - area(given_stages, end)) <= 1 + 1e-6
    for number, time in enumerate(times):
        assert area(given_stages, time) == pytest.approx(number, abs=1e-5)
        assert 0 <= time <= end


@given(arrivals, st.integers(1, 5), st.floats(0, 3), st.integers(0, 20))
@settings(max_examples=80, deadline=None)
def test_stripes_partition_the_arrivals_and_each_is_in_order(
    given_arrivals: Arrivals, workers: int, warmup: float, warmup_requests: int
) -> None:
    schedule = Schedule(Load(arrivals=given_arrivals, warmup=warmup, warmup_requests=warmup_requests))
    whole = all_of(schedule)
    stripes = [all_of(schedule, Share(index, workers)) for index in range(workers)]
    assert sorted(number for stripe in stripes for number in stripe) == list(range(len(whole)))
    for index, stripe in enumerate(stripes):
        assert all(number % workers == index for number in stripe)
        assert all(whole[number] == time for number, time in stripe.items())
    assert all(one <= other for one, other in pairwise(whole.values()))


@given(st.floats(1, 500), st.floats(0.5, 30))
@settings(max_examples=40, deadline=None)
def test_a_constant_rate_is_evenly_spaced(rate: float, duration: float) -> None:
    times = list(all_of(Schedule(Load(arrivals=Arrivals((Stage(duration, rate, rate),))))).values())
    assert len(times) == math.ceil(rate * duration - 1e-9)
    assert all(time == pytest.approx(number / rate) for number, time in enumerate(times))


def test_a_poisson_process_has_its_rate_and_its_spread() -> None:
    load = Load(arrivals=Arrivals((Stage(100, 200, 200), Stage(100, 200, 400)), "poisson", seed=3))
    times = list(all_of(Schedule(load)).values())
    assert len(times) == pytest.approx(50_000, abs=4 * math.sqrt(50_000))
    gaps = [after - before for before, after in pairwise(times[:20_000])]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1 / 200, rel=0.03)
    assert math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) == pytest.approx(mean, rel=0.05)
    assert list(all_of(Schedule(load)).values()) == times


def test_a_warm_up_comes_first_at_the_opening_rate_and_is_not_recorded() -> None:
    load = Load(arrivals=Arrivals((Stage(10, 0, 100),)), warmup=2.0, warmup_requests=100)
    schedule = Schedule(load)
    chunks = list(schedule.chunks())
    warm = numbered([each for each in chunks if not each.recorded])
    recorded = numbered([each for each in chunks if each.recorded])
    assert opening_rate(Arrivals((Stage(10, 0, 100),))) == 100
    assert (len(warm), len(recorded)) == (300, 500)
    assert min(recorded) == 300
    assert min(recorded.values()) == schedule.warmup == 3.0
    assert (schedule.rate_at(1), schedule.rate_at(8), schedule.rate_at(14)) == (100, 50, 0)


@given(arrivals, st.integers(1, 200), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_no_more_requests_than_asked_for(given_arrivals: Arrivals, requests: int, workers: int) -> None:
    whole = len(all_of(Schedule(Load(arrivals=given_arrivals))))
    limited = Schedule(Load(arrivals=given_arrivals, requests=requests, warmup=1.0))
    stripes = [list(limited.chunks(Share(index, workers))) for index in range(workers)]
    assert sum(len(chunk.times) for stripe in stripes for chunk in stripe if chunk.recorded) == min(whole, requests)


def test_a_duration_ends_a_schedule_early() -> None:
    load = Load(arrivals=Arrivals((Stage(10, 10, 10), Stage(10, 50, 50))), duration=12.0)
    assert len(all_of(Schedule(load))) == 200
    assert Schedule(load).expected() == 200
    assert len(all_of(Schedule(Load(arrivals=Arrivals(trace=(0.0, 1.0, 2.5)), duration=1.0)))) == 2
