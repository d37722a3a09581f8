"""The tasks that put nothing under load: ready, run, notify, assess, custommetrics."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from experiment_bench import Asked, Bench, answering, go, served

from loadgen.experiment.jq_number import found_within, number
from loadgen.experiment.metric import read
from loadgen.experiment.present import report
from loadgen.experiment.result import Result
from loadgen.experiment.tasks.ready import complaint
from loadgen.histogram import Distribution, Histogram
from loadgen.outcome import Fault, Series
from loadgen.report.experiment import render

# ready


@pytest.mark.parametrize(
    ("raw", "wanted", "why"),
    [
        ({}, (), ""),
        ({}, ("Ready",), "object does not contain a status"),
        ({"status": {}}, ("Ready",), "object status does not contain conditions"),
        ({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, ("Ready",), ""),
        ({"status": {"conditions": [{"type": "ready", "status": "true"}]}}, ("Ready",), ""),
        ({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}, ("Ready",), "condition Ready is False"),
        ({"status": {"conditions": [{"type": "Other", "status": "True"}]}}, ("Ready",), "condition Ready is not there"),
        (
            {"status": {"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "False"}]}},
            ("A", "B"),
            "condition B is False",
        ),
        (
            {
                "metadata": {"generation": 13},
                "status": {"observedGeneration": 12, "conditions": [{"type": "A", "status": "True"}]},
            },
            ("A",),
            "condition A is that of generation 12, the object is 13",
        ),
        ({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}}, (), "it is being deleted"),
    ],
)
def test_all_conditions_of_an_object_must_be_true(raw: dict[str, Any], wanted: tuple[str, ...], why: str) -> None:
    assert complaint(raw, wanted) == why


def test_an_address_that_never_answers_well_fails_the_task(bench: Bench) -> None:
    async def body() -> None:
        async with served() as server:
            result = await bench.run(
                f"spec: [{{task: ready, with: {{url: '{server.url}/status/503', timeout: 100ms}}}}]"
            )
        [task] = result.tasks
        assert (task.state, task.code) == ("failed", 3)
        assert "is not ready after 0.1 s: status 503" in task.message

    go(body())


def test_without_a_cluster_nothing_of_one_can_be_waited_for(bench: Bench) -> None:
    result = go(bench.run("spec: [{task: ready, with: {name: a, version: v1, resource: services}}]"))
    assert result.tasks[0].message == "there is no cluster"


# run


def test_a_script_runs_with_its_environment_and_its_output_is_kept(bench: Bench) -> None:
    result = go(
        bench.run(
            "spec:\n- run: |\n    echo $GREETING of $HEADGATE_EXPERIMENT; pwd; test -d $TEMP_DIR\n"
            "  with: {environment: {GREETING: hello}}\n"
        )
    )
    assert result.tasks[0].output == f"hello of e\n{bench.folder}\n"
    assert "  hello of e" in "\n".join(bench.lines).splitlines()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo oops >&2; exit 3", "the script ended with exit code 3: oops"),
        ("kill -9 $$", "the script ended by signal SIGKILL"),
        ("nosuchcommand", "exit code 127"),
    ],
)
def test_a_script_that_fails_fails_the_run(bench: Bench, script: str, message: str) -> None:
    result = go(bench.run(f"spec:\n- run: '{script}'\n- run: touch after\n"))
    assert message in result.tasks[0].message
    assert len(result.tasks) == 1
    assert result.failure
    assert not (bench.folder / "after").exists()


def test_a_script_that_takes_too_long_is_ended_with_all_that_it_started(bench: Bench) -> None:
    script = "sleep 600 & echo $! > child; wait"
    result = go(bench.run(f"spec: [{{run: '{script}', with: {{timeout: 300ms}}}}]"))
    assert "took longer than 0.3 s" in result.tasks[0].message
    child = int((bench.folder / "child").read_text())
    assert within(20, lambda: not alive(child))


def alive(process: int) -> bool:
    """A zombie that nobody has collected yet is not."""
    status = Path(f"/proc/{process}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        os.sched_yield()
    return True


# notify


def test_notifications(bench: Bench) -> None:
    async def body() -> None:
        async with served() as server:
            (bench.folder / "body.tpl").write_text('{"name": {{ .Summary.experiment.metadata.name | toJson }}}')
            result = await bench.run(
                f"""
spec:
- task: notify
  with: {{url: "{server.url}/get", params: {{a: 1, b: x y}}, headers: {{x-token: t}}}}
- task: notify
  with: {{url: "{server.url}/post", payloadTemplateURL: body.tpl}}
- task: notify
  with: {{url: "{server.url}/put", method: PUT, payloadTemplate: "{{{{ .Report.text }}}}"}}
- task: slack
  with: {{url: "{server.url}/slack"}}
"""
            )
            assert result.completed(), bench.lines
            get, post, put, slack = server.asked
            assert (get.method, get.query, get.headers["x-token"]) == ("GET", {"a": "1", "b": "x y"}, "t")
            assert (post.method, json.loads(post.body)) == ("POST", {"name": "e"})
            assert post.headers["content-type"] == "application/json"
            assert (put.method, b"Experiment summary" in put.body) == ("PUT", True)
            assert slack.method == "POST"
            said = json.loads(slack.body)["text"]
            assert '"numCompletedTasks": 3' in said

    go(body())


def test_a_notification_that_fails_fails_the_run_unless_it_is_soft(bench: Bench) -> None:
    async def body() -> None:
        async with served() as server:
            hard = await bench.run(
                f"spec: [{{task: notify, with: {{url: '{server.url}/status/403?secret'}}}}, {{run: 'true'}}]"
            )
            assert hard.failure
            assert "did not receive successful status code for notify task" in hard.tasks[0].message
            assert "answers 403" in hard.tasks[0].message
            assert "secret" not in hard.tasks[0].message
            soft = await bench.run(
                f"spec: [{{task: notify, with: {{url: '{server.url}/status/403', softFailure: true}}}}, {{run: ls}}]"
            )
            assert soft.completed()
            assert not soft.failure
            assert "answers 403" in soft.tasks[0].message

    go(body())


def test_a_template_that_cannot_be_rendered_is_told(bench: Bench) -> None:
    text = "spec: [{task: notify, with: {url: 'http://127.0.0.1:1/', payloadTemplate: '{{ .Summary.nothing }}'}}]"
    result = go(bench.run(text))
    assert "line 1: .Summary.nothing has no value" in result.tasks[0].message


# assess


def spread(*milliseconds: float) -> Distribution:
    made = Histogram()
    made.record([each / 1000 for each in milliseconds])
    return made.rest()


FAST = Series("http", "v1", ok=1000, metrics={"latency": spread(*[10.0] * 1000)})
SLOW = Series("http", "v2", ok=900, failed=100, metrics={"latency": spread(*[80.0] * 1000)})
LOAD = "spec:\n- task: http\n  with: {url: 'http://127.0.0.1:1/', allowInitialErrors: true}\n"


def assessed(bench: Bench, given: str, *series: Series, **more: Any) -> Result:
    text = f"{LOAD}- task: assess\n  with: {given}\n"
    return go(bench.run(text, engine=answering(*(series or (FAST, SLOW)), **more)))


def states(result: Result) -> list[tuple[str, ...]]:
    return [tuple(one.state for one in slo.verdicts) for slo in result.insights.slos]


def test_slos_are_judged_for_each_version(bench: Bench) -> None:
    given = (
        "{SLOs: {upper: [{metric: http/latency-mean, limit: 50}, {metric: http/latency-p99.0, limit: 80.1},"
        " {metric: http/error-rate, limit: 0.1}], lower: [{metric: http/request-count, limit: 1000},"
        " {metric: http/error-count, limit: 1}]}}"
    )
    result = assessed(bench, given)
    assert result.insights.versions == ("v1", "v2")
    assert states(result) == [
        ("pass", "fail"),
        ("pass", "pass"),
        ("pass", "pass"),
        ("pass", "pass"),
        ("fail", "pass"),
    ]
    assert not result.slos_hold()


def test_rewards_alone_are_assessed_too(bench: Bench) -> None:
    result = assessed(bench, "{rewards: {max: [http/request-count, http/error-rate], min: [http/latency-mean]}}")
    found = {one.metric: one.winner for one in result.insights.rewards}
    assert found == {"http/request-count": 0, "http/error-rate": 1, "http/latency-mean": 0}  # the first one wins ties
    assert result.slos_hold()


def test_what_was_not_measured_does_not_satisfy(bench: Bench) -> None:
    result = assessed(bench, "{SLOs: {upper: {http/ttft-p95: 1000}}}")
    assert states(result) == [("no data", "no data")]


def test_a_run_that_cannot_be_believed_satisfies_nothing(bench: Bench) -> None:
    fault = Fault("lag", "the generator was 80 ms late")
    result = assessed(bench, "{SLOs: {upper: {http/latency-p50: 500}}}", FAST, faults=(fault,))
    assert states(result) == [("invalid",)]
    assert result.insights.slos[0].verdicts[0].why == "the generator was 80 ms late"


def test_too_few_samples_are_inconclusive_and_it_is_told_how_many_do(bench: Bench) -> None:
    few = Series("http", "v1", ok=50, metrics={"latency": spread(*[1.0] * 50)})
    result = assessed(bench, "{SLOs: {upper: {http/latency-p99: 500, http/latency-p95: 500}}}", few)
    assert states(result) == [("inconclusive",), ("pass",)]
    assert "at least 100 are needed" in result.insights.slos[0].verdicts[0].why


def test_rules_compare_versions(bench: Bench) -> None:
    result = assessed(bench, "{rules: ['v2.latency-p95 <= 1.2*v1.latency-p95', 'latency-p95 <= 1s']}")
    found = [(one["version"], one["state"]) for one in result.insights.rules]
    assert ("v2", "fail") in found
    assert ("v1", "pass") in found
    assert not result.slos_hold()


def test_nothing_measured_is_a_failure_of_the_task(bench: Bench) -> None:
    text = f"{LOAD.replace('allowInitialErrors: true', 'allowInitialErrors: true, warmup: true')}"
    text += "- task: custommetrics\n  with: {templates: {a: nowhere.tpl}}\n  if: SLOs() and not NoFailure()\n"
    text += "- task: assess\n  with: {SLOs: {upper: {a/b: 1}}}\n"
    result = go(bench.run(text))
    assert result.tasks[-1].message == "nothing was measured (uninitialized insights within experiment)"


def test_errors_that_no_version_answered_for_are_a_column_of_their_own(bench: Bench) -> None:
    lost = Series("http", "unattributed", timed_out=5, failures={"timeout": 5})
    result = assessed(bench, "{SLOs: {upper: {http/error-rate: 0.5}}, rewards: {max: [http/error-rate]}}", FAST, lost)
    assert result.insights.versions == ("v1", "unattributed")
    assert states(result) == [("pass", "fail")]
    assert result.insights.rewards[0].winner == 0


def test_compare_needs_both_versions(bench: Bench) -> None:
    text = f"{LOAD}- task: compare\n  with: {{primary: v1, candidate: v3}}\n"
    result = go(bench.run(text, engine=answering(FAST, SLOW)))
    assert result.tasks[-1].message == "no run measured both v1 and v3 (versions seen: v1, v2)"
    worse = go(bench.run(text.replace("v3", "v2, failIfWorse: true"), engine=answering(FAST, SLOW)))
    assert (worse.tasks[-1].state, worse.tasks[-1].code) == ("failed", 99)
    assert worse.insights.comparisons[0]["meaning"] == "worse"


# custommetrics

PROMETHEUS = """\
{{- define "labels" }}{{ range $k, $v := .labels }}{{ $k }}="{{ $v }}",{{ end }}{{ end -}}
url: URL/json
provider: prom
method: GET
headers: {x-provider: p}
metrics:
- name: request-count
  type: counter
  description: how many
  params:
  - name: query
    value: sum(requests{ {{- template "labels" . }}}[{{ .elapsedTimeSeconds }}s])
  jqExpression: .data.result[0].value[1] | tonumber
- name: latency-mean
  type: gauge
  units: msec
  params: [{name: query, value: 'mean{ {{- template "labels" . }}}'}]
  jqExpression: .data.result.[0].value.[1] | tonumber
"""


def prometheus(values: dict[str, str]) -> Any:
    def answer(asked: Asked) -> Any:
        found = next(value for part, value in values.items() if part in asked.query["query"])
        return {"data": {"result": [{"value": [0, found]}]}}

    return answer


def metrics(result: Result, name: str) -> list[float | None]:
    return [read(name, known).value for known in result.insights.observed]


CUSTOM = """
spec:
- task: custommetrics
  with:
    templates: {prom: prom.tpl}
    values: {labels: {app: x}, startingTime: "2023-11-14T22:13:10Z"}
    versionValues: [{track: stable, labels: {version: a, only: first}}, {labels: {version: b}}]
    versions: [a, b]
    headers: {Authorization: "Bearer $TOKEN"}
"""


def test_metrics_of_a_database_are_read_for_each_version(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "s3cret")

    async def body() -> None:
        async with served() as server:
            server.answer = prometheus(
                {'mean{app="x",only="first"': "12.5", "mean{": "7", 'version="a"': "100", "sum": "3"}
            )
            (bench.folder / "prom.tpl").write_text(PROMETHEUS.replace("URL", server.url))
            result = await bench.run(
                CUSTOM + "- task: assess\n  with: {SLOs: {upper: {prom/latency-mean: 10}}}\n",
                now=lambda: 1_700_000_000.0,
            )
            assert result.completed(), bench.lines
            assert result.insights.versions == ("a", "b")
            assert result.insights.labels() == ("stable (a)", "b")
            assert metrics(result, "prom/request-count") == [100, 3]
            assert metrics(result, "prom/latency-mean") == [12.5, 7]
            assert states(result) == [("fail", "pass")]
            queries = {asked.query["query"] for asked in server.asked}
            assert 'sum(requests{app="x",only="first",version="a",}[10s])' in queries
            assert 'mean{app="x",version="b",}' in queries  # nothing of a's values is left for b
            assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer s3cret"}
            assert {asked.headers["x-provider"] for asked in server.asked} == {"p"}

    go(body())


def test_metrics_without_a_value_are_named(bench: Bench) -> None:
    async def body() -> None:
        async with served() as server:
            server.answer = prometheus({"mean": "NaN", "sum": "5"})
            (bench.folder / "prom.tpl").write_text(PROMETHEUS.replace("URL", server.url))
            text = "spec: [{task: custommetrics, with: {templates: {prom: prom.tpl}MORE}}]"
            strict = await bench.run(text.replace("MORE", ""))
            [task] = strict.tasks
            assert (task.state, task.code) == ("failed", 3)
            assert task.message.startswith("1 of 2 metrics have no value: prom/latency-mean (")
            assert "of version 0" in task.message
            assert metrics(strict, "prom/request-count") == [5]  # the other one is kept
            lax = await bench.run(text.replace("MORE", ", allowMissing: true"))
            assert lax.completed()
            assert "without a value: prom/latency-mean" in lax.tasks[0].message

    go(body())


def test_a_body_is_sent_and_a_database_that_is_busy_is_asked_again(bench: Bench) -> None:
    async def body() -> None:
        async with served() as server:
            server.failures = 1
            server.answer = lambda asked: {"rows": len(asked.body)}
            (bench.folder / "db.tpl").write_text(
                f"url: {server.url}/flaky\nprovider: db\nmethod: POST\nmetrics:\n- name: rows\n  type: gauge\n"
                "  body: '{\"last\": {{ .last }}}'\n  jqExpression: .rows\n"
            )
            result = await bench.run(
                "spec: [{task: custommetrics, with: {templates: {db: db.tpl}, values: {last: 600}}}]"
            )
            assert metrics(result, "db/rows") == [len('{"last": 600}')]
            assert [asked.body for asked in server.asked] == [b'{"last": 600}'] * 2

    go(body())


@pytest.mark.parametrize(
    ("template", "more", "message"),
    [
        ("a: {{ .b", "", "the template of p cannot be read: line 1"),
        ("a: {{ .b }}", "", "the template of p cannot be rendered: line 1: .b has no value"),
        ("a: [", "", "does not render to YAML"),
        ("url: x", "", "is no provider: url: 'x' is not an address"),
        ("url: x", ", values: {startingTime: yesterday}", "cannot parse startingTime 'yesterday'"),
        ("url: x", ", versionValues: [{}, {}], versions: [a]", "1 versions and 2 versionValues do not go together"),
    ],
)
def test_mistakes_in_templates_are_told(bench: Bench, template: str, more: str, message: str) -> None:
    (bench.folder / "p.tpl").write_text(template)
    result = go(bench.run(f"spec: [{{task: custommetrics, with: {{templates: {{p: p.tpl}}{more}}}}}]"))
    assert message in result.tasks[0].message


def test_versions_must_be_as_many_as_before(bench: Bench) -> None:
    (bench.folder / "p.tpl").write_text("")
    text = LOAD + "- task: custommetrics\n  with: {templates: {p: p.tpl}, versionValues: [{}, {}]}\n"
    result = go(bench.run(text))
    assert "inconsistent number for app versions; old (1); new (2)" in result.tasks[-1].message


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        (".a", 1.0),
        (".b[0]", 2.5),
        (".b.[0]", 2.5),
        (".text | tonumber", 7.0),
        (".text", '.text is "7", not a number'),
        (".nothing", ".nothing is null, not a number"),
        (".b[]", 2.5),
        ("empty", "empty is null, not a number"),
        ("nan", "nan is null, not a number"),
        (".a |", None),
        (".a.b", None),
    ],
)
def test_a_number_is_found_by_jq(expression: str, found: float | str | None) -> None:
    value = number(b'{"a": 1, "b": [2.5, 3], "text": "7"}', expression)
    if found is None:
        assert isinstance(value, str)
        assert expression in value
    elif isinstance(found, float):
        assert value == found
    else:
        assert isinstance(value, str)


def test_it_is_told_when_our_own_connections_were_too_few(bench: Bench) -> None:
    slow = Series("http", "v1", ok=100, metrics={"latency": spread(*[90.0] * 100), "queue": spread(*[60.0] * 100)})
    result = go(bench.run(LOAD, engine=answering(slow)))
    assert "requests waited for a connection, the 99th percentile 60 ms: give more of them" in result.tasks[0].message


def test_reports_tell_what_is_broken_from_what_is_not_known(bench: Bench) -> None:
    from headgate.experiment_report import rendered

    few = Series("http", "v2", ok=50, metrics={"latency": spread(*[1.0] * 50)})
    result = assessed(bench, "{SLOs: {upper: {http/latency-p99: 5}}}", FAST, few)
    text = rendered(result, "text")
    assert "http/latency-p99 (msec) <= 5 | no | inconclusive" in text
    made = json.loads(rendered(result, "json"))
    assert (made["result"], made["slos"][0]["states"]) == ("FAIL", ["fail", "inconclusive"])
    junit = rendered(result, "junit")
    assert 'skipped message="inconclusive: too few samples"' in junit
    unclear = assessed(bench, "{SLOs: {upper: {http/latency-p99: 5}}}", few)
    assert json.loads(rendered(unclear, "json"))["result"] == "INCONCLUSIVE"


def test_the_report_shows_what_assess_and_compare_looked_at(bench: Bench) -> None:
    """With the load that was asked, the comparison, and the confidence of the rules."""
    text = """
spec:
- task: http
  with: {url: "http://u:p4ssword@127.0.0.1:1/?token=t0ken-value", qps: 20, duration: 1s, allowInitialErrors: true}
- task: assess
  with:
    rules: [v2.latency-p50 <= 1.5 * v1.latency-p50]
    confidence: 0.9
    SLOs: {upper: {http/latency-p100: 1000}}
- task: compare
  with: {candidate: v2, primary: v1}
"""
    result = go(bench.run(text, engine=answering(FAST, SLOW)))
    made = report(result)
    run = made.runs[0]
    assert run.assessment.confidence == 0.9
    assert [one.ruling for one in run.assessment.verdicts] == [
        {"pass": "PASS", "fail": "FAIL", "inconclusive": "INCONCLUSIVE"}[one["state"]] for one in result.insights.rules
    ]
    assert run.comparison is not None
    assert (run.comparison.candidate, run.comparison.words) == ("v2", result.tasks[2].message)
    shown = render(made, "html")
    assert "20/s" in shown
    assert "Differences; p values" in shown
    assert "http/latency-p100 (msec)" in shown
    assert "p4ssword" not in shown
    assert "t0ken-value" not in shown
    assert render(report(Result.from_json(result.to_json())), "html") == shown


def test_a_script_does_not_wait_for_what_it_left_behind(bench: Bench) -> None:
    result = go(bench.run("spec: [{run: 'sleep 600 & echo done', with: {timeout: 100s}}]"))
    assert (result.tasks[0].state, result.tasks[0].output) == ("completed", "done\n")


def test_a_redirected_notification_has_not_arrived(bench: Bench) -> None:
    async def body() -> None:
        async with served() as web:
            text = f"spec: [{{task: notify, with: {{url: '{web.url}/status/302', payloadTemplate: x}}}}]"
            result = await bench.run(text)
            assert "answers 302, which is not followed" in result.tasks[0].message

    go(body())


def test_an_answer_does_not_tell_the_headers_it_was_asked_with(bench: Bench) -> None:
    """Those of the provider's template, and those whose value is in the environment."""
    template = """
url: URL/metrics
provider: p
headers: {Authorization: Bearer s3cret-value}
metrics: [{name: a, type: gauge, jqExpression: .v}]
"""

    async def body() -> None:
        async with served() as web:
            web.answer = lambda asked: {"v": asked.headers["authorization"]}
            (bench.folder / "t.yaml").write_text(template.replace("URL", web.url))
            text = "spec: [{task: custommetrics, with: {templates: {p: t.yaml}, retries: 0}}]"
            result = await bench.run(text)
            assert result.tasks[0].state == "failed"
            assert '.v is "***"' in result.tasks[0].message

    go(body())


@pytest.mark.parametrize("separator", "/.")
def test_the_v2_service_is_built_in_however_it_is_written(bench: Bench, separator: str) -> None:
    call = f"inference.GRPCInferenceService{separator}ModelInfer"
    text = f"spec: [{{task: grpc, with: {{host: 'localhost:1', call: {call}, data: {{model_name: iris}}}}}}]"
    assert go(bench.run(text)).tasks[0].state == "completed"


def test_a_jq_expression_without_an_end_is_ended() -> None:
    assert go(found_within(0.5, b"{}", "last(range(1e15))")) == "last(range(1e15)) takes longer than 0.5 s"
    assert go(found_within(60, b'{"v": 2}', ".v")) == 2.0
