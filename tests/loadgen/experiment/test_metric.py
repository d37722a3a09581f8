import math

import pytest

from loadgen.experiment.metric import MetricFault, MetricName, Observed, aggregate, built_in, normal, parse, read
from loadgen.experiment.result import Insights, InsightsFault, label
from loadgen.histogram import Distribution, Histogram


def distribution(*seconds: float) -> Distribution:
    made = Histogram()
    made.record(seconds)
    return made.rest()


def test_percentiles_are_written_in_one_way() -> None:
    assert normal("http/latency-p95.00") == "http/latency-p95"
    assert normal("grpc/latency/p99.90") == "grpc/latency/p99.9"
    assert normal("http-canary/latency-p50") == "http-canary/latency-p50"


@pytest.mark.parametrize("name", ["latency", "a//b", "", "a/b c", "/a"])
def test_a_name_has_a_backend_and_a_metric(name: str) -> None:
    with pytest.raises(MetricFault, match="is not the name of a metric"):
        normal(name)


@pytest.mark.parametrize("name", ["http/latency-p101", "grpc/latency/p0", "http/latency-p100.5"])
def test_there_is_no_percentile_beyond_100(name: str) -> None:
    with pytest.raises(MetricFault, match="there is no percentile"):
        normal(name)


def test_both_ways_of_writing_an_aggregate_mean_the_same() -> None:
    assert parse("http/latency-p97.5") == parse("http/latency/p97.5") == MetricName("http/latency", "p97.5")
    assert parse("istio-prom/latency-mean") == MetricName("istio-prom/latency", "mean")
    assert parse("db/rows") == MetricName("db/rows")


def test_metrics_of_loads_are_known_before_anything_runs() -> None:
    assert built_in("http-canary/latency-p99") == ("http", "canary")
    assert built_in("grpc/error-rate") == ("grpc", "")
    assert built_in("istio-prom/error-rate") is None
    with pytest.raises(MetricFault) as fault:
        built_in("http/eror-rate")
    assert fault.value.hint == "did you mean 'http/error-rate'?"
    with pytest.raises(MetricFault, match="is a distribution"):
        built_in("http/latency")


# Iter8's own tables


def test_aggregates_of_samples() -> None:
    seen = Observed(tuple(float(each) for each in range(2, 21, 2)))
    assert aggregate(seen, parse("grpc/latency/mean")) == 11
    assert aggregate(seen, parse("grpc/latency/stddev")) == pytest.approx(5.744562646538029)
    assert aggregate(seen, parse("grpc/latency/min")) == 2
    assert aggregate(seen, parse("grpc/latency/max")) == 20
    assert aggregate(seen, parse("grpc/latency/count")) == 10
    assert aggregate(seen, parse("grpc/latency/p78.3")) == 15
    assert aggregate(seen, parse("grpc/latency/p80")) == 16
    assert aggregate(seen, parse("grpc/latency/p100")) == 20


def test_the_last_value_of_a_gauge_counts() -> None:
    assert read("http/error-rate", {"http/error-rate": Observed((0.5, 0.25))}).value == 0.25


def test_any_percentile_of_a_distribution_can_be_asked() -> None:
    known = {"http/latency": Observed(distribution=distribution(*(each / 1000 for each in range(1, 1001))))}
    reading = read("http/latency-p97.5", known)
    assert reading.value == pytest.approx(975, rel=0.001)
    assert (reading.samples, reading.percent) == (1000, 97.5)


def test_what_was_not_measured_has_no_value() -> None:
    assert read("grpc/latency/p95", {}).value is None
    empty = {"grpc/latency": Observed(distribution=Histogram().rest())}
    assert read("grpc/latency/p95", empty).value is None
    assert read("grpc/latency/count", empty).value == 0
    assert math.isfinite(read("grpc/latency/count", empty).value or 0)


@pytest.mark.parametrize(
    ("version", "track", "shown"),
    [("", "", "version 0"), ("v1", "", "v1"), ("", "stable", "stable"), ("v1", "stable", "stable (v1)")],
)
def test_what_a_version_is_called(version: str, track: str, shown: str) -> None:
    assert label(version, track, 0) == shown


def test_versions_stay_as_many_as_they_were() -> None:
    one = Insights().with_versions(("",))
    assert one.with_versions(("",)) == one
    with pytest.raises(InsightsFault, match=r"old \(1\); new \(2\)"):
        one.with_versions(("a", "b"))
