from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.experiment.read import Read, read
from loadgen.experiment.spec import KINDS
from loadgen.experiment.tasks.http_settings import HttpSettings
from loadgen.experiment.tasks.settings import AssessSettings, ReadySettings


def parsed(text: str) -> Read:
    return read(text.encode(), "e.yaml", Path(), "e")


def complaints(text: str) -> list[str]:
    found = parsed(text)
    assert found.experiment is None
    return [str(one) for one in found.problems]


ITER8 = """\
metadata:
  name: my-experiment
  namespace: team
spec:
# wait for the model
- task: ready
  with:
    name: wisdom-1
    group: serving.kserve.io
    version: v1beta1
    resource: inferenceservices
    conditions: [PredictorReady, Ready]
    timeout: 2m30s
- task: http
  with:
    url: http://httpbin.default/get
    duration: 10s
    errorRanges:
    - lower: 500
    warmup: true
- task: http
  with:
    url: http://httpbin.default/get
    percentiles: [50, 97.5]
- task: grpc
  with:
    host: 127.0.0.1:50051
    call: helloworld.Greeter.SayHello
    proto: helloworld.proto
    total: 20
    data: {name: frodo}
    load-schedule: step
    load-start: 5
    load-step: 5
    load-step-duration: 1s
- task: assess
  if: NoFailure()
  with:
    SLOs:
      upper:
      - metric: http/latency-p97.50
        limit: 50
      - metric: grpc/latency/mean
        limit: 10
- run: echo promoted
  if: SLOs()
result: {failure: false}
"""


def test_an_experiment_of_iter8_is_read_as_it_is() -> None:
    found = parsed(ITER8)
    assert found.problems == ()
    experiment = found.experiment
    assert experiment is not None
    assert (experiment.name, experiment.namespace) == ("my-experiment", "team")
    assert [one.kind for one in experiment.tasks] == ["ready", "http", "http", "grpc", "assess", "run"]
    ready, http, assess = experiment.tasks[0].settings, experiment.tasks[1].settings, experiment.tasks[4].settings
    assert isinstance(ready, ReadySettings)
    assert isinstance(http, HttpSettings)
    assert isinstance(assess, AssessSettings)
    assert (ready.wanted(), ready.timeout) == (("PredictorReady", "Ready"), 150)
    assert (http.duration, http.warmup) == (10, True)
    assert assess.slos is not None
    assert assess.slos.upper[0].metric == "http/latency-p97.5"
    assert experiment.tasks[5].script == "echo promoted"


def test_our_kind_repeats_itself() -> None:
    found = parsed(
        "apiVersion: headgate.dev/v1alpha1\nkind: Experiment\nmetadata: {name: x}\n"
        "spec:\n  loops: 3\n  every: 1m\n  cron: '*/15 * * * *'\n  tasks:\n  - run: 'true'\n"
    ).experiment
    assert found is not None
    assert (found.loops, found.every, found.cron) == (3, 60, "*/15 * * * *")


def test_the_values_of_the_chart_are_tasks_too() -> None:
    found = parsed(
        "tasks: [ready, http, assess, github]\n"
        "ready: {service: httpbin, deploy: httpbin, timeout: 60s}\n"
        "http: {url: http://httpbin.default/get, warmupNumRequests: 5}\n"
        "assess: {SLOs: {upper: {http/latency-mean: 50}}}\n"
        "github: {owner: me, repo: it, token: t, softFailure: false}\n"
        "runner: cronjob\ncronjobSchedule: '*/1 * * * *'\nlogLevel: info\n"
    ).experiment
    assert found is not None
    assert [one.kind for one in found.tasks] == ["ready", "ready", "http", "assess", "github"]
    assert found.tasks[1].settings.conditions == ("Available",)  # type: ignore[attr-defined]
    assert found.tasks[4].settings.soft_failure is False  # type: ignore[attr-defined]
    assert found.cron == "*/1 * * * *"


def test_everything_wrong_is_told_at_once_with_its_line() -> None:
    assert complaints(
        """\
spec:
- task: http
  if: NoFailure
  with:
    url: ftp://x
    percentiles: [50, 101]
    numRequest: 3
- task: grcp
- task: assess
  with:
    SLOs:
      upper:
      - {metric: http/latency-p101, limit: 50}
      - {metric: http/eror-rate, limit: 0}
- run: echo
  task: run
- {}
- task: notify
  with: {}
"""
    ) == [
        "e.yaml:3: spec[0].if: 'NoFailure': NoFailure is a function (write NoFailure())",
        "e.yaml:5: spec[0].with.url: 'ftp://x' is not an address (write http://HOST:PORT/PATH or https://HOST/PATH)",
        "e.yaml:6: spec[0].with.percentiles[1]: there is no percentile 101 (give more than 0 and at most 100)",
        "e.yaml:7: spec[0].with.numRequest: unknown field 'numRequest' (did you mean 'numRequests'?)",
        "e.yaml:8: spec[1].task: unknown task: grcp (did you mean 'grpc'?)",
        "e.yaml:13: spec[2].with.SLOs.upper[0].metric: there is no percentile 101 (give more than 0 and at most 100)",
        "e.yaml:14: spec[2].with.SLOs.upper[1].metric: metric 'http/eror-rate' is not known "
        "(did you mean 'http/error-rate'?)",
        "e.yaml:15: spec[3]: task and run are given together (make two tasks of it)",
        "e.yaml:17: spec[4]: invalid task found without a task name or a run command (write task: and one of http, "
        "grpc, ready, custommetrics, assess, notify, slack, github, route, compare; or run: and a script)",
        "e.yaml:19: spec[5].with.url: is missing (it is required)",
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("hello world", "the document is not an experiment"),
        ("spec: [{}]", "invalid task found without a task name or a run command"),
        ("spec: [{task: hello world}]", "unknown task: hello world"),
        ("spec: []", "there are no tasks"),
        ("metadata: {name: A_B}\nspec: [{run: x}]", "'A_B' is not a valid name"),
        ("spec: [{task: gen-load-and-collect-metrics-http}]", "it is called http now"),
        ("spec: [{task: http}]", "spec[0].with.url: is missing"),
        ("spec: [{task: http, with: {endpoints: {a: {}}}}]", "spec[0].with.endpoints.a.url: is missing"),
        ("spec: [{task: grpc, with: {host: 'x:1', call: x}}]", "'x' is not a method"),
        ("spec: [{task: grpc, with: {host: x, call: a.B/c}}]", "'x' is not HOST:PORT"),
        ("spec: [{task: http, with: {url: 'http://x', duration: 10}}]", "10 has no unit"),
        ("spec: [{task: http, with: {url: 'http://x', duration: 10 s}}]", "is not a duration"),
        ("spec: [{task: assess, with: {SLOs: {upper: [{metric: http/error-rate, limit: 0}]}}}]", "nothing measures"),
        ("spec: [{task: assess, with: {SLOs: {upper: [{metric: x/y, limit: 0}]}}}]", "custommetrics"),
        ("spec: [{task: assess, with: {}}]", "there is nothing to assess"),
        ("spec: [{task: ready, with: {}}]", "name and version and resource missing"),
        ("spec: [{task: route, with: {model: m}}]", "nothing is to be changed"),
        ("spec: [{task: compare, with: {primary: a, candidate: a}}]", "held against itself"),
        ("spec: {cron: '61 * * * *', tasks: [{run: x}]}", "is not a schedule"),
        ("spec: {loops: 0, tasks: [{run: x}]}", "at least 1"),
        ("apiVersion: v1\nkind: Pod\nspec: [{run: x}]", "kind 'Pod' is not an experiment"),
        ("tasks: []", ".Values.tasks is empty"),
        ("tasks: [{a: 1}]", "unknown task: a mapping"),
        ("spec: [{task: [1]}]", "unknown task: a list"),
        ("tasks: [http]\nhttp: {url: 'http://x/'}\nnamespace: [1]", "a list is not a valid name"),
        (
            "spec: [{task: http, with: {url: 'http://x/', headers: {a: [1]}}}]",
            "with.headers.a: must be text, not a list",
        ),
        ("tasks: [ready]\nready: {x: y}\nresourceTypes: {x: {Group: a, conditions: 3}}", "version"),
        ("tasks: [htpp]", "unknown task: 'htpp' (did you mean 'http'?)"),
        ("tasks: [ready]\nready: {pod: x}", "no type definition for: pod"),
    ],
)
def test_one_mistake(text: str, complaint: str) -> None:
    assert complaint in "\n".join(complaints(text))


def test_a_task_that_is_wrong_does_not_make_others_look_wrong() -> None:
    found = complaints(
        "spec:\n- task: http\n  with: {url: 3}\n"
        "- task: assess\n  with: {SLOs: {upper: {http/error-rate: 0}}, rules: ['latency-p99<=1s']}\n"
    )
    assert len(found) == 1


def test_a_metric_of_another_endpoint_is_told_with_its_right_name() -> None:
    text = (
        "spec:\n- task: http\n  with: {endpoints: {get: {url: 'http://x/'}}}\n"
        "- task: assess\n  with: {SLOs: {upper: [{metric: http-got/error-rate, limit: 0}]}}\n"
    )
    assert "did you mean 'http-get/error-rate'?" in complaints(text)[0]


WORDS = [
    *("spec", "metadata", "name", "namespace", "task", "run", "if", "with", "tasks", "http", "grpc", "assess", "ready"),
    *(
        "url",
        "endpoints",
        "SLOs",
        "upper",
        "metric",
        "limit",
        "duration",
        "http://x/",
        "http/latency-p99",
        "p101",
        "1s",
    ),
    *("percentiles", "errorRanges", "lower", "rewards", "max", "rules", "loops", "every", "cron", "kind", "deploy"),
    *(
        "custommetrics",
        "templates",
        "route",
        "weights",
        "model",
        "compare",
        "primary",
        "NoFailure()",
        "",
        "host:1",
        "a.B/C",
    ),
]
scalars = st.one_of(st.sampled_from(WORDS), st.integers(-2, 200), st.booleans(), st.none(), st.floats(allow_nan=True))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)),
    max_leaves=20,
)


@given(values)
@settings(max_examples=150, deadline=None)
def test_whatever_a_file_holds_it_is_read_or_complained_of(raw: object) -> None:
    found = parsed(yaml.safe_dump(raw))
    assert (found.experiment is None) == any(one.severity == "error" for one in found.problems)


task_names = st.sampled_from([*KINDS, "run", "nothing"])


@given(st.lists(st.tuples(task_names, st.dictionaries(st.sampled_from(WORDS), values, max_size=5)), max_size=3))
@settings(max_examples=150, deadline=None)
def test_whatever_parameters_a_task_has(tasks: list[tuple[str, dict[str, object]]]) -> None:
    found = parsed(yaml.safe_dump({"spec": [{"task": name, "with": given} for name, given in tasks]}))
    assert (found.experiment is None) == any(one.severity == "error" for one in found.problems)
