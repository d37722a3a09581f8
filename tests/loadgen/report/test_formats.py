"""Every form of a report tells the same facts, whatever the run."""

import csv
import io
import json
import re
from collections.abc import Callable
from xml.etree import ElementTree

import jsonschema
import pytest
from rich.console import Console
from runs import lognormal, outcome, series

from loadgen.outcome import Fault, Outcome, Second, Sent, Series, Worker
from loadgen.report import console, document, junit, markdown, table, text
from loadgen.report.contents import Report
from loadgen.report.formats import FORMATS, by_name, render
from loadgen.slo.compare import compare
from loadgen.slo.judge import assess
from loadgen.slo.language import parse_all

HOSTILE = "<script>alert(1)</script>|\"'&`*\x00\x1b[31m\n=1+1"
TWO = outcome(
    series("v1", lognormal(0.05, 4000)),
    series(
        "v2",
        lognormal(0.08, 1000, seed=2),
        failures={"status 503": 40},
        timed_out=10,
        samples={"status 503": "no healthy upstream"},
    ),
)


def report(run: Outcome, *slos: str, **more: object) -> Report:
    found, problems = parse_all(slos)
    assert not problems
    return Report(run, assess(run, found), **more)  # type: ignore[arg-type]


def full() -> Report:
    slos = ("latency-p99<=200ms", "error-rate<=1%", "v2.latency-p95<=1.2*v1.latency-p95", "v9.latency-p50<=1s")
    compared = compare(TWO, "v1", "v2", weights={"v1": 80, "v2": 20})
    return report(TWO, *slos, comparison=compared, command="headgate load x")


def invalid() -> Report:
    lost = Worker("worker 2", 10, 0.99, 0.08, 3000.0, lost=True)
    faults = (Fault("lag", "requests started 80 ms late", "lower the rate"), Fault("worker", "worker 2 was lost"))
    return report(outcome(series("v1", [0.1] * 50), faults=faults, workers=(lost,)), "latency-p99<=1s")


def stream() -> Report:
    tokens = {"ttft": lognormal(0.1, 500), "itl": lognormal(0.02, 5000), "tpot": lognormal(0.02, 500)}
    run = outcome(series("v1", lognormal(1.0, 500), metrics=tokens, good=450, tokens=9000))
    return report(run, "ttft-p95<=400ms", "goodput>=80%")


def hostile() -> Report:
    told = {HOSTILE: HOSTILE}
    bad = series(HOSTILE, lognormal(0.05, 400), scenario=HOSTILE, failures={HOSTILE: 7}, samples=told)
    named = outcome(bad, series("=cmd()", [0.1], scenario="plain"), faults=(Fault("other", HOSTILE, HOSTILE),))
    return report(named, "latency-p99<=1s", title=HOSTILE, command=HOSTILE)


def odd() -> Report:
    """Versions without samples, seconds without percentiles, accounts without series."""
    bare = Series("default", "v1", ok=3, timeline=(Second(0, 0, 0), Second(5, 3, 0)))
    silent = Series("default", "v2")
    accounts = (Sent("default", 5, 3, 2, dropped=4), Sent("never", 0, 0, 0))
    return report(Outcome("odd", 1.7e9, 0.0, accounts, (bare, silent), interrupted=True), "latency-p50<=1s")


RUNS: dict[str, Callable[[], Report]] = {
    "full": full,
    "invalid": invalid,
    "stream": stream,
    "hostile": hostile,
    "odd": odd,
    "nothing asked": lambda: report(TWO),
    "nothing at all": lambda: report(Outcome("none", 1.7e9, 0.0, (), ()), "latency-p99<=1s"),
    "refused": lambda: report(outcome(series("unattributed", [0.001] * 90, failures={"connection refused": 90}))),
    "one sample": lambda: report(outcome(series("v1", [0.5])), "latency-p99<=1s", "error-rate<=1%"),
    "zeros": lambda: report(outcome(series("v1", [0.0] * 20)), "latency-p50<=1ms"),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", RUNS)
def test_every_run_has_every_report(name: str, form: str) -> None:
    made = render(RUNS[name](), form)
    assert made.endswith("\n")
    # Nothing that was divided by nothing: no nan and no inf among the words of any report.
    assert not re.search(r"(?i)\b(nan|inf|-inf|infinity)\b", made)


@pytest.mark.parametrize("name", RUNS)
def test_json_is_what_the_published_schema_says(name: str) -> None:
    validator = jsonschema.Draft202012Validator(document.schema())
    validator.check_schema(document.schema())
    made = json.loads(document.render(RUNS[name]()))
    assert [each.message for each in validator.iter_errors(made)] == []


def test_json_tells_the_figures_and_can_be_judged_again() -> None:
    made = json.loads(document.render(full()))
    assert (made["result"], made["exitCode"], made["requests"], made["errors"]) == ("FAIL", 99, 5000, 50)
    v1, v2, everyone = made["scenarios"][0]["versions"]
    assert (v1["version"], v2["version"], everyone["version"]) == ("v1", "v2", "all")
    assert v2["failures"] == {"status 503": 40, "timeout": 10}
    assert v2["errorRate"]["low"] < 0.05 < v2["errorRate"]["high"]
    assert v1["latency"]["percentiles"]["50"]["value"] == pytest.approx(0.05, rel=0.05)
    assert document.outcome_of(json.dumps(made)) == TWO
    with pytest.raises(ValueError, match="no report of a load"):
        document.outcome_of('{"version": "something else"}')


def test_csv_has_a_line_for_each_version_and_all() -> None:
    rows = list(csv.DictReader(io.StringIO(table.render(full()))))
    assert [row["version"] for row in rows] == ["v1", "v2", "all"]
    assert (rows[1]["requests"], rows[1]["failed"], rows[1]["timed_out"]) == ("1000", "40", "10")
    assert float(rows[1]["error_rate"]) == 0.05
    assert (
        float(rows[0]["latency_p50_low_ms"]) < float(rows[0]["latency_p50_ms"]) < float(rows[0]["latency_p50_high_ms"])
    )
    assert rows[1]["failures"] == "40 status 503; 10 timeout"


def test_csv_lets_no_name_become_a_formula() -> None:
    rows = list(csv.DictReader(io.StringIO(table.render(hostile()))))
    assert "'=cmd()" in {row["version"] for row in rows}
    assert not any(value.startswith(("=", "@", "+")) for row in rows for value in row.values())


def suites(made: str) -> dict[str, ElementTree.Element]:
    return {each.get("name", ""): each for each in ElementTree.fromstring(made)}


def test_junit_has_a_suite_for_each_version_and_a_case_for_each_slo() -> None:
    found = suites(junit.render(full()))
    assert list(found) == ["a run: the run", "v1", "v2", "v9"]
    assert found["v2"].get("failures") == "3"
    failure = found["v2"].find("testcase/failure")
    assert failure is not None
    assert "limit 200 ms" in failure.get("message", "")
    assert found["v9"].find("testcase/error") is not None
    root = ElementTree.fromstring(junit.render(full()))
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("7", "3", "1")


def test_junit_takes_an_invalid_run_for_an_error_and_an_inconclusive_slo_for_skipped() -> None:
    found = suites(junit.render(invalid()))
    error = found["a run: the run"].find("testcase/error")
    assert error is not None
    assert "requests started 80 ms late" in (error.text or "")
    assert found["v1"].find("testcase/skipped") is not None
    one = suites(junit.render(RUNS["one sample"]()))
    skipped = one["v1"].findall("testcase/skipped")
    assert len(skipped) == 2
    assert "takes at least 368" in (skipped[1].text or "")


def test_markdown_is_a_table_that_nobody_can_write_into() -> None:
    made = markdown.render(full())
    assert made.startswith("### ❌ a run: FAIL\n")
    assert "| ❌ FAIL | v2 | latency-p99&lt;=200ms |" in made
    bad = markdown.render(hostile())
    assert "<script" not in bad
    for line in bad.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (6, 12)


def test_text_tells_who_is_slow_and_why_there_are_errors() -> None:
    made = text.render(full())
    assert re.search(r"FAIL +v2 +latency-p99<=200ms +\d+ ms", made)
    assert "v2: 40 × status 503, 10 × timeout" in made
    assert "status 503: no healthy upstream" in made
    assert "Result: FAIL. 3 of 6 objectives are broken." in made
    assert "version 'v9' never answered: there are v1, v2" in made
    assert "v2 against v1: v2 is worse: latency-p50 is" in made


def test_text_says_that_everything_failed_and_that_the_generator_was_at_fault() -> None:
    assert "90 requests, 100 % errors" in text.render(RUNS["refused"]())
    assert "Result: NO_DATA. No usable data: all 90 requests failed without an answer." in text.render(
        RUNS["refused"]()
    )
    made = text.render(invalid())
    assert made.splitlines()[1] == "INVALID  requests started 80 ms late (lower the rate)"
    assert "1 lost; this machine can hold about 3,000/s" in made


def test_nothing_passes_where_nothing_was_asked_for() -> None:
    made = report(outcome(series("v1", lognormal(0.05, 500))))
    assert made.assessment.exit_code == 0
    said = {form: render(made, form) for form in ("html", "markdown", "json", "text")}
    assert 'class="badge NO_OBJECTIVES"' in said["html"]
    assert "NO OBJECTIVES" in said["html"]
    assert "a run: NO_OBJECTIVES" in said["markdown"]
    assert json.loads(said["json"])["result"] == "NO_OBJECTIVES"
    assert 'class="badge PASS"' not in said["html"]
    assert "PASS" not in said["text"] + said["markdown"]


def test_text_moves_nobodys_cursor() -> None:
    made = text.render(hostile())
    assert all(letter.isprintable() or letter == "\n" for letter in made)
    assert "\n=1+1" not in made


def test_a_terminal_gets_colours_and_a_pipe_none() -> None:
    pipe, terminal = io.StringIO(), io.StringIO()
    console.show(full(), Console(file=pipe, width=80))
    console.show(full(), Console(file=terminal, width=80, force_terminal=True, color_system="standard", no_color=False))
    assert pipe.getvalue() == text.render(full())
    assert "\x1b[1;31mFAIL" in terminal.getvalue()
    assert re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue()) == text.render(full())


def test_hundreds_of_versions_are_reported_with_what_does_not_hold_first() -> None:
    same = lognormal(0.05, 400)
    run = outcome(*(series(f"v{i}", same * (9 if i == 150 else 1), seconds=3) for i in range(200)))
    made = report(run, "latency-p99<=300ms")
    shown = text.render(made)
    assert shown.count("\n") < 250
    assert "... and 161 more versions" in shown
    assert re.search(r"Objectives.*\n +FAIL +v150 ", shown)
    page = render(made, "html")
    assert len(page) < 1_000_000
    assert page.index('class="badge FAIL"') < page.index('class="badge PASS"')


def test_a_files_name_says_which_report_it_wants() -> None:
    assert [by_name(name) for name in ("a.html", "b.XML", "c/d.md", "e.json", "f")] == [
        "html",
        "junit",
        "markdown",
        "json",
        None,
    ]
    with pytest.raises(ValueError, match="there are text, html"):
        render(full(), "pdf")
