"""Whatever an engine hands over, every report can be made of it, and they agree with each other."""

import csv
import io
import json
import math
from xml.etree import ElementTree

import jsonschema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loadgen.histogram import Distribution, Histogram
from loadgen.outcome import METRICS, Fault, Outcome, Second, Sent, Series, Worker
from loadgen.report import document, junit, table
from loadgen.report.contents import Report
from loadgen.report.formats import FORMATS, render
from loadgen.slo.judge import assess
from loadgen.slo.language import parse_all

SLOS, _ = parse_all(
    [
        "latency-p99<=200ms",
        "error-rate<=1%",
        "v1.latency-p95<=1.2*unknown.latency-p50",
        "v1.error-rate - all.error-rate <= 1%",
        "latency-stddev<1s && latency-mean<1s && ttft-p50<1s",
        "goodput>=50% && tokens-per-second>=1/s && dropped<=0 && v1.split>=1%",
        "a:throughput >= 2*b:v1.throughput",
    ]
)
names = st.sampled_from(["v1", "v2", "unknown", "unattributed"]) | st.text(max_size=6)
numbers = st.integers(0, 10**9)
seconds = st.just(0.0) | st.floats(1e-6, 86_400)
rates = st.floats(0, 1e9)


@st.composite
def distributions(draw: st.DrawFn) -> Distribution:
    made = Histogram()
    made.record(draw(st.lists(seconds, max_size=8)))
    return made.rest()


@st.composite
def series(draw: st.DrawFn) -> Series:
    """Counts and times that need not agree: a worker may be lost between the two."""
    return Series(
        draw(st.sampled_from(["a", "b"])),
        draw(names),
        *(draw(st.integers(0, 500)) for _ in range(3)),
        good=draw(st.none() | st.just(0)),
        tokens=draw(st.none() | numbers),
        codes=draw(st.dictionaries(st.sampled_from(["200", "OK", "503"]), numbers, max_size=2)),
        failures=draw(st.dictionaries(st.text(max_size=5), numbers, max_size=2)),
        samples=draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2)),
        metrics=draw(st.dictionaries(st.sampled_from(METRICS), distributions(), max_size=4)),
        timeline=tuple(
            Second(at, *draw(st.tuples(numbers, numbers)), *draw(st.sampled_from([(), (0.1, 0.2, 0.3, 0.4)])))
            for at in draw(st.lists(st.integers(0, 4000), max_size=3, unique=True))
        ),
    )


workers = st.builds(Worker, st.text(max_size=3), numbers, rates, st.none(), st.none() | rates)
outcomes = st.builds(
    Outcome,
    st.text(max_size=5),
    st.floats(0, 4e9),
    seconds,
    st.lists(
        st.builds(Sent, st.sampled_from(["a", "b"]), numbers, numbers, numbers, rate=rates, duration=seconds),
        max_size=2,
        unique_by=lambda sent: sent.scenario,
    ).map(tuple),
    st.lists(series(), max_size=3, unique_by=lambda one: (one.scenario, one.version)).map(tuple),
    workers=st.lists(workers, max_size=1).map(tuple),
    faults=st.lists(st.builds(Fault, st.just("lag"), st.text(max_size=5)), max_size=1).map(tuple),
    lag=st.none() | distributions(),
)


@given(outcomes, st.sampled_from([None, 0.9]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_report_of_any_run_can_be_made_and_tells_the_same(run: Outcome, confidence: float | None) -> None:
    report = Report(run, assess(run, SLOS, confidence=confidence))
    for form in FORMATS:
        assert render(report, form)
    told = json.loads(document.render(report))
    jsonschema.validate(told, document.schema())
    assert document.outcome_of(json.dumps(told)) == run
    rows = list(csv.DictReader(io.StringIO(table.render(report))))
    versions = [each for scenario in told["scenarios"] for each in scenario["versions"]]
    assert [int(row["requests"]) for row in rows] == [each["requests"] for each in versions]
    broken = sum(each["ruling"] == "FAIL" for each in told["slos"])
    root = ElementTree.fromstring(junit.render(report))
    assert int(root.get("failures", "-1")) == (0 if run.faults else broken)
    for verdict in report.assessment.verdicts:
        assert verdict.value is None or math.isfinite(verdict.value)
        assert verdict.ruling in ("NO_DATA", "INCONCLUSIVE") or verdict.value is not None
