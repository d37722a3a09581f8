import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import lognormal, outcome, series

from loadgen.outcome import Outcome
from loadgen.slo.compare import compare
from loadgen.slo.split import check_split, holm


def run(slower: float = 1.0, errors: int = 0, count: int = 4000, seed: int = 1) -> Outcome:
    return outcome(
        series("v1", lognormal(0.05, count, seed=seed)),
        series(
            "v2", lognormal(0.05 * slower, count, seed=seed + 1000), failures={"status 500": errors} if errors else None
        ),
    )


def test_a_slower_candidate_is_called_slower_with_figures() -> None:
    found = compare(run(slower=1.2), "v1", "v2")
    assert (found.meaning, found.words.split(":")[0]) == ("worse", "v2 is slower")
    p50 = found.differences[0]
    assert p50.change == pytest.approx(0.2, abs=0.05)
    assert p50.interval is not None
    assert 0.1 < p50.interval.low < 0.2 < p50.interval.high < 0.3
    assert "latency-p50 is" in found.words
    assert "% higher (+" in found.words


def test_a_faster_candidate_with_more_errors_is_worse_and_both_are_told() -> None:
    found = compare(run(slower=0.8, errors=120), "v1", "v2")
    assert found.meaning == "worse"
    assert "error-rate is 3 points higher" in found.words
    assert "Better: latency-p50 is" in found.words


def test_no_difference_is_not_called_equality() -> None:
    found = compare(run(), "v1", "v2")
    assert (found.meaning, found.words) == ("no difference shown", "no difference between v2 and v1 is shown")


def test_equal_versions_are_seldom_told_apart() -> None:
    """At 95 % and corrected for four figures, at most about 5 of 100 comparisons may see what is not there."""
    seen = [compare(run(count=600, seed=seed), "v1", "v2").meaning for seed in range(30)]
    assert sum(each in ("worse", "better") for each in seen) <= 5


def test_too_few_samples_are_said_to_be_too_few() -> None:
    found = compare(run(slower=3, count=20), "v1", "v2", figures=["latency-p99", "latency-p50"])
    assert [each.meaning for each in found.differences] == ["too few samples", "worse"]
    assert found.differences[0].primary is not None
    assert compare(run(count=10), "v1", "v2", figures=["error-rate"]).meaning == "too few samples"


def test_a_version_that_did_not_answer_is_named() -> None:
    assert compare(run(), "v1", "v3").words == "nothing to compare: v3 did not answer"


@pytest.mark.parametrize("name", ["latency-max", "error-count", "latency-p101", "throughput", "split"])
def test_what_is_no_estimate_is_not_compared(name: str) -> None:
    with pytest.raises(ValueError, match=r"compared|percentile"):
        compare(run(count=50), "v1", "v2", figures=[name])


def test_streams_are_compared_by_their_tokens_too() -> None:
    ttft = {"ttft": lognormal(0.1, 500)}
    streams = outcome(*(series(name, lognormal(1.0, 500), metrics=ttft) for name in ("v1", "v2")))
    assert {"ttft-p50", "ttft-p95"} <= {each.figure.name for each in compare(streams, "v1", "v2").differences}


def test_a_comparison_holds_the_split_against_the_intended_one() -> None:
    found = compare(run(), "v1", "v2", weights={"v1": 80, "v2": 20})
    assert found.split is not None
    assert not found.split.fair
    assert found.split.words == "The split is not as intended: v1 got 50 % instead of 80 %, v2 got 50 % instead of 20 %"


def test_a_fair_split_is_seldom_called_unfair_and_an_unfair_one_is_found() -> None:
    random = np.random.default_rng(5)
    draws = [int(each) for each in random.binomial(10_000, 0.2, 400)]
    assert sum(not check_split({"v1": 10_000 - n, "v2": n}, {"v1": 80, "v2": 20}).fair for n in draws) <= 3
    assert not check_split({"v1": 7_500, "v2": 2_500}, {"v1": 80, "v2": 20}).fair


def test_who_has_no_weight_should_get_nothing() -> None:
    assert not check_split({"v1": 1000, "v3": 1}, {"v1": 1, "v2": 0}).fair
    assert check_split({"v1": 1000, "v2": 0}, {"v1": 1, "v2": 0}).fair
    assert check_split({}, {"v1": 1}).words == "No requests were counted"
    with pytest.raises(ValueError, match="weights"):
        check_split({"v1": 1}, {"v1": 0})


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holms_values_keep_their_order_and_lie_between_the_plain_and_bonferronis(chances: list[float]) -> None:
    corrected = holm(chances)
    for plain, value in zip(chances, corrected, strict=True):
        assert plain <= value <= 1
    assert min(corrected) == min(1.0, min(chances) * len(chances))
    by_chance = [value for _, value in sorted(zip(chances, corrected, strict=True))]
    assert by_chance == sorted(corrected)
