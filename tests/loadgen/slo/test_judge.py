import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import lognormal, outcome, series

from loadgen.outcome import Fault, Outcome, Sent
from loadgen.slo.judge import assess
from loadgen.slo.language import parse_all
from loadgen.slo.verdict import Assessment, ExitCode, Verdict

LATE = Fault("lag", "requests started 80 ms late", "use fewer requests per second")


def judged(run: Outcome, *texts: str, **how: object) -> Assessment:
    slos, problems = parse_all(texts)
    assert not problems
    return assess(run, slos, **how)  # type: ignore[arg-type]


def only(found: Assessment) -> Verdict:
    (verdict,) = found.verdicts
    return verdict


def rulings(found: Assessment) -> dict[str, str]:
    return {each.version: each.ruling for each in found.verdicts}


two = outcome(
    series("v1", lognormal(0.05, 5000)), series("v2", lognormal(0.08, 5000, seed=2), failures={"status 503": 200})
)


def test_an_slo_without_a_version_is_judged_for_each() -> None:
    found = judged(two, "latency-p99<=200ms", "error-rate<=1%")
    assert rulings(found) == {"v1": "PASS", "v2": "FAIL"}
    assert [each.version for each in found.verdicts] == ["v1", "v2", "v1", "v2"]
    assert found.exit_code == ExitCode.BROKEN
    assert judged(two, "v1.latency-p99<=200ms", "v1.error-rate<=1%").exit_code == ExitCode.HELD


def test_a_verdict_tells_value_limit_margin_and_interval() -> None:
    verdict = only(judged(two, "v2.error-rate<=1%"))
    assert (verdict.value, verdict.limit, verdict.samples) == (0.04, 0.01, 5000)
    assert verdict.margin == pytest.approx(-3.0)
    assert verdict.interval is not None
    assert verdict.interval.low == pytest.approx(0.0347, abs=1e-4)
    assert verdict.interval.high == pytest.approx(0.0458, abs=1e-4)
    assert verdict.why == "error-rate is 4 % (200 of 5,000)"


def test_a_percentile_and_its_interval_are_values_that_were_measured() -> None:
    values = np.sort(lognormal(0.05, 5000))
    verdict = only(judged(two, "v1.latency-p95<=200ms"))
    assert verdict.value == pytest.approx(values[4749], rel=0.002)
    assert verdict.interval is not None
    assert verdict.interval.low == pytest.approx(values[4720], rel=0.01)
    assert verdict.interval.high == pytest.approx(values[4781], rel=0.01)


def test_two_versions_are_compared_by_their_ratio() -> None:
    verdict = only(judged(two, "v2.latency-p95<=1.2*v1.latency-p95"))
    assert (verdict.ruling, verdict.scale, verdict.limit) == ("FAIL", "ratio", 1.2)
    assert verdict.value == pytest.approx(1.6, abs=0.1)
    assert verdict.interval is not None
    assert 1.45 < verdict.interval.low < 1.6 < verdict.interval.high < 1.75
    assert "v1's latency-p95" in verdict.why
    assert only(judged(two, "v2.latency-p95<=1.9*v1.latency-p95")).ruling == "PASS"
    assert only(judged(two, "v2.latency-p95 - v1.latency-p95 <= 20ms")).ruling == "FAIL"


def test_shares_are_compared_by_their_difference_so_that_none_at_all_is_no_trouble() -> None:
    verdict = only(judged(two, "v2.error-rate<=2*v1.error-rate"))
    assert (verdict.ruling, verdict.scale, verdict.value, verdict.limit) == ("FAIL", "share", 0.04, 0.0)


def test_nobody_is_compared_with_itself() -> None:
    assert rulings(judged(two, "latency-p95<=1.2*v1.latency-p95")) == {"v2": "FAIL"}
    assert rulings(judged(two, "latency-p99<=9*latency-p50")) == {"v1": "PASS", "v2": "PASS"}


def test_too_few_samples_are_inconclusive_and_say_how_many_it_takes() -> None:
    few = outcome(series("v1", [0.01] * 100))
    found = judged(few, "latency-p99<=200ms")
    assert (only(found).ruling, only(found).needed) == ("INCONCLUSIVE", 368)
    assert "it takes at least 368" in only(found).why
    assert found.exit_code == ExitCode.INCONCLUSIVE
    assert judged(few, "latency-p99<=200ms", inconclusive="pass").exit_code == ExitCode.HELD
    assert judged(few, "latency-p99<=200ms", inconclusive="fail").exit_code == ExitCode.BROKEN
    assert only(judged(few, "error-rate<=1%")).needed == 368


def test_few_samples_are_enough_where_they_leave_no_doubt() -> None:
    slow = outcome(series("v1", [0.01] * 50 + [0.5] * 50))
    assert only(judged(slow, "latency-p99<=200ms")).ruling == "FAIL"
    assert only(judged(slow, "latency-p10<=200ms")).ruling == "PASS"
    assert only(judged(slow, "error-rate<=10%")).ruling == "PASS"


def test_the_measured_value_decides_unless_a_confidence_is_asked_for() -> None:
    close = outcome(series("v1", lognormal(0.05, 2000, sigma=0.8)))
    p99 = only(judged(close, "latency-p99<=1s")).value
    assert p99 is not None
    text = f"latency-p99<={p99 * 1.01 * 1000:.3f}ms"
    assert only(judged(close, text)).ruling == "PASS"
    assert "another run may say otherwise" in only(judged(close, text)).why
    strict = only(judged(close, text, confidence=0.95))
    assert strict.ruling == "INCONCLUSIVE"
    assert strict.needed is not None
    assert strict.needed > 100_000
    assert only(judged(close, "latency-p99<=2s", confidence=0.95)).ruling == "PASS"
    assert only(judged(close, "latency-p99<=100ms", confidence=0.95)).ruling == "FAIL"


@given(st.integers(2, 400), st.floats(0.02, 0.3), st.sampled_from([0.8, 0.95, 0.99]), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_with_a_confidence_the_interval_decides_and_nothing_else(
    n: int, limit: float, confidence: float, seed: int
) -> None:
    run = outcome(series("v1", lognormal(0.05, n, seed=seed)))
    verdict = only(judged(run, f"latency-p90<={limit!r}s", confidence=confidence))
    assert verdict.interval is not None
    low, high = verdict.interval.low, verdict.interval.high
    expected = "PASS" if high <= limit else "FAIL" if low > limit else "INCONCLUSIVE"
    assert verdict.ruling == expected
    assert math.isfinite(high) or verdict.ruling != "PASS"


def test_a_target_that_just_holds_is_rarely_called_broken() -> None:
    """The true p95 is the limit: with a confidence of 95 % at most 2.5 % of runs may fail, and as many pass."""
    limit = 0.05 * math.exp(0.5 * 1.6448536)
    found = [
        only(
            judged(outcome(series("v1", lognormal(0.05, 400, seed=seed))), f"latency-p95<={limit!r}s", confidence=0.95)
        )
        for seed in range(300)
    ]
    wrong = [each.ruling for each in found if each.ruling != "INCONCLUSIVE"]
    assert wrong.count("FAIL") <= 15
    assert wrong.count("PASS") <= 15


def test_not_one_error_is_a_fact_about_the_run_however_short() -> None:
    short = outcome(series("v1", [0.01] * 5))
    assert only(judged(short, "error-count<=0")).ruling == "PASS"
    assert only(judged(short, "error-rate<=0", confidence=0.99)).ruling == "PASS"
    assert only(judged(two, "v2.error-rate<=0")).ruling == "FAIL"


def test_requests_without_a_version_are_judged_with_all_the_others() -> None:
    run = outcome(
        series("v1", lognormal(0.05, 900)), series("unattributed", [1.0] * 100, failures={"connection refused": 100})
    )
    assert rulings(judged(run, "error-rate<=1%")) == {"v1": "PASS", "all": "FAIL"}
    plain = outcome(series("unknown", lognormal(0.05, 900)))
    assert rulings(judged(plain, "latency-p99<=1s")) == {"all": "PASS"}


def test_scenarios_are_judged_one_by_one() -> None:
    run = outcome(
        series("v1", [0.01] * 400, scenario="chat"),
        series("v1", [0.9] * 400, scenario="embed"),
        series("v2", [0.01] * 400, scenario="chat"),
    )
    found = judged(run, "latency-p95<=0.5s")
    assert [(each.scenario, each.version, each.ruling) for each in found.verdicts] == [
        ("chat", "v1", "PASS"),
        ("chat", "v2", "PASS"),
        ("embed", "v1", "FAIL"),
    ]
    assert [each.scenario for each in judged(run, "v2.latency-p95<=0.5s").verdicts] == ["chat"]
    assert only(judged(run, "embed:latency-p95 <= 1.1*chat:v1.latency-p95")).ruling == "FAIL"
    assert "no scenario 'chta' ran" in only(judged(run, "chta:latency-p95<=1s")).why


def test_what_was_not_measured_has_no_data_and_never_passes() -> None:
    for text, why in [
        ("v9.latency-p99<=1s", "version 'v9' never answered: there are v1, v2"),
        ("v1.latency-p95 <= 2*v9.latency-p95", "version 'v9' never answered"),
        ("v1.ttft-p50<=1s", "ttft was not measured (no answer was a stream)"),
        ("v1.goodput>=90%", "no goodput limits were given"),
    ]:
        found = judged(two, text)
        assert only(found).ruling == "NO_DATA"
        assert why in only(found).why
        assert found.exit_code == ExitCode.NO_DATA


FIGURES: dict[str, Callable[[], float]] = {
    "samples": lambda: 1000,
    "request-rate": lambda: 100,
    "throughput": lambda: 90,
    "error-count": lambda: 100,
    "timeout-rate": lambda: 0.04,
    "timeout-count": lambda: 40,
    "goodput": lambda: 0.8,
    "goodput-per-second": lambda: 80,
    "tokens": lambda: 5000,
    "tokens-per-second": lambda: 500,
    "dropped": lambda: 7,
    "drop-rate": lambda: 0.007,
    "split": lambda: 0.25,
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_what_it_says(name: str) -> None:
    v1 = series("v1", [0.1] * 1000, failures={"status 500": 60}, timed_out=40, good=800, tokens=5000)
    v2 = series("v2", [0.1] * 3000)
    account = Sent("default", asked=1000, sent=1000, in_flight=0, dropped=7, duration=10.0)
    run = outcome(v1, v2, accounts=(account,))
    scope = "" if name in ("dropped", "drop-rate") else "v1."
    value = only(judged(run, f"{scope}{name} > 0")).value
    assert value == pytest.approx(FIGURES[name]())


@pytest.mark.parametrize("stat", ["mean", "min", "max", "stddev", "p0", "p100", "p37.5"])
def test_every_statistic_is_that_of_the_recorded_times(stat: str) -> None:
    values = lognormal(0.05, 5000)
    truth = {
        "mean": values.mean(),
        "min": values.min(),
        "max": values.max(),
        "stddev": values.std(),
        "p0": values.min(),
        "p100": values.max(),
        "p37.5": np.percentile(values, 37.5),
    }
    verdict = only(judged(two, f"v1.latency-{stat}<=10s"))
    assert verdict.value == pytest.approx(truth[stat], rel=0.002)
    assert verdict.ruling == "PASS"
    assert (verdict.interval is None) == (stat in ("min", "max", "p0", "p100"))


def test_faults_make_a_run_invalid_whatever_the_verdicts() -> None:
    for texts in ([], ["latency-p99<=1s"], ["latency-p99<=1ms"]):
        found = judged(outcome(series("v1", lognormal(0.05, 900)), faults=(LATE,)), *texts)
        assert (found.exit_code, found.outcome, found.faults) == (ExitCode.INVALID, "INVALID", (LATE,))


def test_a_run_in_which_nothing_answered_has_no_usable_data() -> None:
    refused = outcome(series("unattributed", [0.001] * 500, failures={"connection refused": 500}))
    for run, why in [
        (Outcome("x", 0.0, 0.0, (), ()), "not one request ended"),
        (refused, "all 500 requests failed without an answer"),
    ]:
        for texts in ([], ["error-rate<=1%", "latency-p99<=1s"]):
            found = judged(run, *texts)
            assert (found.exit_code, found.silent) == (ExitCode.NO_DATA, why)


def test_a_target_that_only_answers_errors_breaks_the_limit_of_errors() -> None:
    run = outcome(series("v1", [0.01] * 500, failures={"status 500": 500}))
    assert judged(run, "error-rate<=1%").exit_code == ExitCode.BROKEN
    assert judged(run, "latency-p95<=1s").exit_code == ExitCode.NO_DATA
    assert only(judged(run, "latency-p95<=1ms")).ruling == "FAIL"
    assert judged(run).exit_code == ExitCode.NO_DATA
    assert judged(run).silent == "all 500 requests failed"


def test_a_version_that_fails_fast_does_not_pass_for_fast() -> None:
    run = outcome(series("v1", [0.1] * 500), series("v2", [0.001] * 500, failures={"status 500": 500}))
    found = judged(run, "latency-p95<=1s")
    assert rulings(found) == {"v1": "PASS", "v2": "NO_DATA"}
    assert found.verdicts[1].why == "all 500 requests failed; latency-p95 is 1 ms"


def test_a_broken_slo_outweighs_what_is_missing_and_what_is_unclear() -> None:
    few = outcome(series("v1", [0.5] * 100))
    found = judged(few, "latency-p50<=1ms", "v9.latency-p50<=1s", "error-rate<=0.1%")
    assert {each.ruling for each in found.verdicts} == {"FAIL", "NO_DATA", "INCONCLUSIVE"}
    assert found.exit_code == ExitCode.BROKEN
    assert judged(few, "v9.latency-p50<=1s", "error-rate<=0.1%").exit_code == ExitCode.NO_DATA


def test_a_confidence_that_there_is_not_is_refused() -> None:
    for confidence in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match=r"give 0\.5 to 0\.9999"):
            judged(two, "latency-p50<=1s", confidence=confidence)
