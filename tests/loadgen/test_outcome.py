import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.histogram import Histogram
from loadgen.outcome import Outcome, Series
from loadgen.plan import Arrivals, Load, Payload, Plan, Scenario, Stage, Target

seconds = st.lists(st.floats(0.00001, 3600), min_size=1, max_size=300)


def recorded(values: list[float]) -> Histogram:
    made = Histogram()
    made.record(values)
    return made


@given(seconds, st.sampled_from([0, 50, 90, 99, 99.9, 100]))
@settings(max_examples=60, deadline=None)
def test_a_percentile_is_within_a_thousandth_of_a_recorded_value(values: list[float], percent: float) -> None:
    truth = float(np.percentile(values, percent, method="inverted_cdf"))
    assert abs(recorded(values).percentile(percent) - truth) <= 0.001 * truth + 0.000_001


@given(seconds, seconds)
@settings(max_examples=40, deadline=None)
def test_histograms_add_up_to_what_one_process_would_have_recorded(one: list[float], other: list[float]) -> None:
    together, added = recorded(one + other), recorded(one).rest().histogram()
    added.add(recorded(other).rest().histogram())
    assert added.buckets() == together.buckets()
    assert (added.count, added.least, added.greatest) == (together.count, together.least, together.greatest)
    assert abs(added.total - together.total) <= 1e-9 * together.total


def test_a_plan_and_an_outcome_travel_as_json_unchanged() -> None:
    load = Load(arrivals=Arrivals(stages=(Stage(1, 2, 2),)))
    plan = Plan("x", (Scenario("a", Target("http://x/", payload=Payload(bodies=(b"\xff\x00",))), load),))
    assert Plan.from_json(plan.to_json()) == plan
    outcome = Outcome("x", 1.0, 2.0, (), (Series("a", "v1", ok=2, metrics={"latency": recorded([0.1, 0.2]).rest()}),))
    assert Outcome.from_json(outcome.to_json()) == outcome
