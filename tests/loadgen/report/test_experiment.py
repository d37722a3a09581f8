import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import jsonschema
import pytest
from referencing import Registry
from runs import lognormal, outcome, series

from loadgen.outcome import Fault
from loadgen.report import document
from loadgen.report.contents import Report
from loadgen.report.experiment import FORMS, Condition, ExperimentReport, Metric, render, schema
from loadgen.slo.judge import assess

RUN = outcome(series("v1", lognormal(0.05, 500)), series("v2", lognormal(0.06, 500)))
DONE = ExperimentReport(
    "sentiment",
    namespace="ml",
    completed=True,
    tasks=4,
    completed_tasks=4,
    loops=2,
    versions=("primary (v1)", "candidate (v2)"),
    conditions=(
        Condition("http/latency-p99", (True, False), upper=200, units="msec"),
        Condition("http/request-count", (True, True), lower=100),
    ),
    metrics=(
        Metric("http/latency-p99", (150.5, 250.25), units="msec"),
        Metric("abn/sales", (1.0, None), best=0),
        Metric("abn/clicks", (None, None), best=-1),
    ),
    runs=(Report(RUN, assess(RUN, ())),),
)


def test_the_text_has_the_summary_the_slos_and_the_metrics() -> None:
    made = render(DONE, "text")
    assert made.startswith("Experiment summary:\n")
    assert re.search(r"Completed +yes", made)
    assert re.search(r"Completed loops +2", made)
    assert re.search(r"SLO Conditions +\| primary \(v1\) \| candidate \(v2\)", made)
    assert re.search(r"http/latency-p99 \(msec\) <= 200 +\| yes +\| no", made)
    assert re.search(r"100 <= http/request-count +\| yes +\| yes", made)
    assert re.search(r"Metric +\| primary \(v1\) \| candidate \(v2\) \| Best", made)
    assert re.search(r"http/latency-p99 \(msec\) +\| 150.50 +\| 250.25 +\| n/a", made)
    assert re.search(r"abn/sales +\| 1.00 +\| unavailable +\| primary \(v1\)", made)
    assert re.search(r"abn/clicks +\| unavailable +\| unavailable +\| insufficient data", made)


def test_one_version_is_called_by_no_name() -> None:
    one = ExperimentReport(
        "x", versions=("version 0",), conditions=(Condition("a/b", (True,), upper=1),), metrics=(Metric("a/b", (0.5,)),)
    )
    made = render(one, "text")
    assert re.search(r"SLO Conditions \| Satisfied\n", made)
    assert re.search(r"Metric \| value\n", made)


@pytest.mark.parametrize("form", FORMS)
def test_an_experiment_that_has_measured_no_version_has_no_values_and_no_satisfied_slos(form: str) -> None:
    bare = ExperimentReport(
        "x", completed=True, conditions=(Condition("a/b", (), upper=1),), metrics=(Metric("a/b", ()),)
    )
    assert bare.result == "FAIL"
    assert render(bare, form)
    assert re.search(r"a/b +\| unavailable", render(bare, "text"))


def test_the_result_is_the_worst_of_what_happened() -> None:
    good = replace(DONE, conditions=DONE.conditions[1:])
    late = Report(
        replace(RUN, faults=(Fault("lag", "late"),)), assess(replace(RUN, faults=(Fault("lag", "late"),)), ())
    )
    assert good.result == "PASS"
    assert DONE.result == "FAIL"
    assert replace(good, failed=True).result == "FAIL"
    assert replace(good, completed=False, completed_tasks=2).result == "NO_DATA"
    assert replace(DONE, runs=(late,)).result == "INVALID"
    assert replace(good, completed=False, completed_tasks=2).words == "2 of 4 tasks ran."
    assert DONE.words == "All tasks ran. 1 of 2 SLOs are not satisfied."


@pytest.mark.parametrize("form", FORMS)
def test_every_form_knows_of_a_failed_task_and_of_an_experiment_that_has_not_begun(form: str) -> None:
    note = "task http failed: no <route> to host"
    made = render(replace(DONE, failed=True, notes=(note,)), form)
    assert note.replace("<", "&lt;").replace(">", "&gt;") in made or note in made
    assert render(ExperimentReport("new"), form)


def test_the_page_shows_the_experiment_above_its_runs() -> None:
    made = render(DONE, "html")
    assert made.index("<h2>SLOs</h2>") < made.index("<h2>Metrics</h2>") < made.index('<div class="run">')
    assert made.count('<svg class="chart"') == 5
    assert '<td class="bad">no</td>' in made


def test_json_has_everything_and_the_runs_reports() -> None:
    made = json.loads(render(DONE, "json"))
    assert (made["result"], made["completedTasks"], made["slos"][0]["satisfied"]) == ("FAIL", 4, [True, False])
    assert made["metrics"][1]["values"] == [1.0, None]
    assert made["runs"][0]["requests"] == 1000


@pytest.mark.parametrize("experiment", [DONE, ExperimentReport("x"), replace(DONE, failed=True, runs=())])
def test_json_is_what_the_published_schema_says(experiment: ExperimentReport) -> None:
    registry = Registry().with_contents([(each["$id"], each) for each in (document.schema(), schema())])
    validator = jsonschema.Draft202012Validator(schema(), registry=registry)
    validator.check_schema(schema())
    told = json.loads(render(experiment, "json"))
    validator.validate(told)
    assert set(told) == set(schema()["properties"])
    for wrong in ({"result": "MAYBE"}, {"runs": [{}]}, {"versions": [1]}):
        assert not validator.is_valid({**told, **wrong})


def test_a_run_without_objectives_of_its_own_has_not_passed() -> None:
    failed = replace(DONE, completed=False, failed=True)
    assert "PASS" not in render(failed, "markdown")
    assert "No objectives were given" not in render(failed, "html")
    assert "FAIL" in render(failed, "html")


def test_figures_are_neither_lost_nor_endless() -> None:
    figures = {0.0: "0.00", 0.004: "0.004", 0.5: "0.50", 1234.5: "1234.50", 1e300: "1e+300", -0.00012: "-0.00012"}
    metrics = tuple(Metric(f"a/{index}", (value,)) for index, value in enumerate(figures))
    rows = re.findall(r"a/\d +\| (\S+)", render(ExperimentReport("x", versions=("v",), metrics=metrics), "text"))
    assert rows == list(figures.values())


def test_junit_has_a_suite_for_each_version() -> None:
    root = ElementTree.fromstring(render(DONE, "junit"))
    assert [each.get("name") for each in root] == [
        "sentiment: tasks",
        "primary (v1)",
        "candidate (v2)",
        "a run: the run",
    ]
    failure = root.find("testsuite[@name='candidate (v2)']/testcase/failure")
    assert failure is not None
    assert failure.text == "http/latency-p99 is 250.25"
    assert root.get("failures") == "1"


def test_a_form_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="there are text, html"):
        render(DONE, "csv")
