"""The operator's commands, through a kubeconfig against an API server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from kubedouble import ApiServer, User
from replica_double import REFUSED, Envoys, OneReplica

from headgate import rollouts
from headgate.cli import cli
from router.cluster.change import ANNOTATION
from router.cluster.status import Known, status_of

ROOT = Path(__file__).parents[2]
CRD = yaml.safe_load((ROOT / "deploy/crds/modelrollouts.headgate.dev.yaml").read_text())
KIND = ("headgate.dev/v1alpha1", "ModelRollout")
MATCH = [{"headers": [{"name": "tester", "exact": "yes"}]}]


class Kube:
    """An API server on a thread of its own, as the commands bring their own loop."""

    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.folder = folder
        self.api = ApiServer()

    def begin(self, **options: Any) -> None:
        self.api = ApiServer(**options)
        self.on_loop(self.api.start())
        self.config = self.api.kubeconfig(self.folder / "config", token=next(iter(options.get("tokens", {})), None))
        self.api.create(CRD)

    def end(self) -> None:
        self.on_loop(self.api.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def on_loop(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def call(self, function: Callable[[], Any]) -> Any:
        """On the server's own thread, so that its watches hear of it."""

        async def called() -> Any:
            return function()

        return self.on_loop(called())

    def put(self, name: str = "iris", namespace: str = "default", *versions: dict[str, Any], **spec: Any) -> None:
        listed = [
            {"name": f"v{index}", "backend": {"endpoints": [f"10.0.0.{index + 1}:80"]}, **one}
            for index, one in enumerate(versions or ({"weight": 50}, {"weight": 50}))
        ]
        obj = {
            "apiVersion": KIND[0],
            "kind": KIND[1],
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"hosts": [f"{name}.{namespace}"], "versions": listed, **spec},
        }
        self.call(lambda: self.api.apply(obj))

    def get(self, name: str = "iris", namespace: str = "default") -> dict[str, Any]:
        return self.call(lambda: self.api.get(*KIND, name, namespace))

    def spec(self, name: str = "iris", namespace: str = "default") -> dict[str, Any]:
        return self.get(name, namespace)["spec"]

    def weights(self, name: str = "iris") -> list[int | None]:
        return [one.get("weight") for one in self.spec(name)["versions"]]

    def change(self, name: str = "iris", **spec: Any) -> None:
        """As somebody else would with kubectl."""
        obj = {"apiVersion": KIND[0], "kind": KIND[1], "metadata": {"name": name, "namespace": "default"}, "spec": spec}
        self.call(lambda: self.api.apply(obj))

    def observe(self, name: str = "iris", namespace: str = "default", **more: Any) -> None:
        """Write the status of a control plane that has seen the object as it is; what is given wins."""
        found = self.get(name, namespace)
        generation = found["metadata"]["generation"]
        versions = [
            {"name": one["name"], "ready": True, "reason": "ready", "role": "candidate" if index else "primary"}
            | {"weight": 50, "since": "2026-01-01T00:00:00Z"}
            for index, one in enumerate(found["spec"]["versions"])
        ]
        status = {
            "observedGeneration": generation,
            "primary": "v0",
            "traffic": "v0 50 %, v1 50 %",
            "envoys": "2/2",
            "versions": versions,
            "conditions": [condition(kind, "True", generation) for kind in ("Accepted", "Ready", "Programmed")],
        } | more
        obj = {
            "apiVersion": KIND[0],
            "kind": KIND[1],
            "metadata": {"name": name, "namespace": namespace},
            "status": status,
        }
        self.call(lambda: self.api.apply(obj))

    def run(self, *arguments: object, **environment: str) -> Result:
        return run(*arguments, KUBECONFIG=str(self.config), **environment)


def run(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(cli, [str(one) for one in arguments], env={"HEADGATE_URL": "", **environment})


def condition(kind: str, state: str, generation: int, reason: str = "AsExpected", message: str = "") -> dict[str, Any]:
    return {
        "type": kind,
        "status": state,
        "observedGeneration": generation,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Kube]:
    """A server that is not started yet."""
    found = Kube(tmp_path)
    yield found
    found.end()


@pytest.fixture
def kube(empty: Kube) -> Kube:
    empty.begin()
    return empty


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_port: int) -> str:
    """No kubeconfig, and nobody at the default URL."""
    url = f"http://127.0.0.1:{free_port}"
    monkeypatch.setattr("headgate.commands.control_plane.DEFAULT_URL", url)
    monkeypatch.setattr("headgate.commands.change.DEFAULT_URL", url)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    return url


# weights


def test_weights_are_written_with_who_and_why(kube: Kube) -> None:
    kube.put()
    kube.observe()
    result = kube.run("weights", "iris", "v0=20", "v1=80", "--why", "größer: 模型 ✓")
    assert result.stdout.splitlines() == [
        "default/iris: weights: v0 50 % -> 20 %, v1 50 % -> 80 %",
        "VERSION  BEFORE  AFTER",
        "v0 *       50 %   20 %",
        "v1         50 %   80 %",
        "written by admin as generation 2",
    ]
    assert (result.exit_code, result.stderr) == (0, "")
    assert kube.weights() == [20, 80]
    said = json.loads(kube.get()["metadata"]["annotations"][ANNOTATION])
    assert said.pop("at").endswith("Z")
    assert said == {
        "by": "admin",
        "what": "weights: v0 50 % -> 20 %, v1 50 % -> 80 %",
        "why": "größer: 模型 ✓",
        "generation": kube.get()["metadata"]["generation"],
    }


def test_a_dry_run_is_checked_by_the_server_and_changes_nothing(kube: Kube) -> None:
    kube.put()
    result = kube.run("weights", "iris", "v0=20", "v1=80", "--dry-run")
    assert result.stdout.splitlines()[-1] == "dry run: the API server would take it; nothing was changed"
    assert kube.weights() == [50, 50]
    assert [asked.query.get("dryRun") for asked in kube.api.requests if asked.method == "PATCH"] == ["All"]


def test_nothing_to_change_writes_nothing(kube: Kube) -> None:
    kube.put()
    result = kube.run("weights", "iris", "v0=50", "v1=50")
    assert result.stdout.startswith("default/iris: nothing to change\n")
    assert (result.exit_code, kube.get()["metadata"]["generation"]) == (0, 1)


def test_a_change_for_programs(kube: Kube) -> None:
    kube.put()
    found = json.loads(kube.run("weights", "iris", "v1=150", "-o", "json").stdout)
    del found["at"]
    assert found == {
        "model": "default/iris",
        "what": "weights: v0 50 % -> 25 %, v1 50 % -> 75 %",
        "changed": True,
        "dryRun": False,
        "by": "admin",
        "why": "",
        "generation": 2,
        "versions": [
            {"name": "v0", "primary": True, "before": 50.0, "after": 25.0},
            {"name": "v1", "primary": False, "before": 50.0, "after": 75.0},
        ],
        "notes": [],
        "programmed": None,
        "envoys": None,
    }
    assert yaml.safe_load(kube.run("pause", "iris", "-o", "yaml").stdout)["what"] == "paused"


def test_all_that_is_wrong_is_told_at_once(kube: Kube) -> None:
    kube.put("iris", "default", {"weight": 1}, {}, strategy="blue-green")
    result = kube.run("weights", "iris", "v0=20", "v11=80", "v0x=-1")
    assert result.stderr.splitlines() == [
        "error: default/iris: no version is called 'v11' (did you mean 'v1'?)",
        "error: default/iris: no version is called 'v0x' (did you mean 'v0'?)",
        "error: default/iris: v0x: weight -1 is out of range (weights are whole numbers from 0 to 1,000,000)",
        "error: default/iris: v1 has no weight of its own and would count as 1 beside these "
        "(name it too, such as v1=1)",
    ]
    assert (result.exit_code, kube.get()["metadata"]["generation"]) == (2, 1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["weights", "iris"], "Missing argument 'VERSION=WEIGHT...'"),
        (
            ["weights", "iris", "v0", "v1=x", "v2=1", "v2=2"],
            "'v0' is not VERSION=WEIGHT with a whole number, such as v1=20; 'v1=x' is not VERSION=WEIGHT with a "
            "whole number, such as v1=20; v2 is given twice",
        ),
        (["abort", "iris", "--why", "a\nb"], "--why takes one line of text in UTF-8, at most 1000 characters"),
        (["abort", "iris", "--timeout", "60"], "--timeout '60' is not a duration: write a number and a unit"),
        (["abort", "iris", "--wait", "--dry-run"], "--wait and --dry-run do not go together"),
        (["abort", "iris", "-n", "A"], "-n 'A' is not the name of a namespace"),
        (["status", "-n", "a", "-A"], "-n and -A do not go together"),
        (["status", "-n", "a", "--url", "http://x"], "--url asks a control plane, --context, --kubeconfig, -n and -A"),
        (["pause", "a/b/c"], "'a/b/c' is not a model: write NAME or NAMESPACE/NAME"),
        (["pause", "a/b", "-n", "c"], "'a/b' is not in the namespace 'c': leave one out"),
        (["pause", "b", "--kubeconfig", "/nonexistent"], "--kubeconfig /nonexistent: there is no such file"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_written(kube: Kube, arguments: list[str], expected: str) -> None:
    result = kube.run(*arguments)
    assert result.stderr.startswith(f"error: {expected}")
    assert result.exit_code == 2
    assert not [one for one in kube.api.requests if one.method in ("PATCH", "POST")]


def test_versions_that_are_not_ready_are_told(kube: Kube) -> None:
    kube.put()
    versions = [
        {"name": "v0", "ready": True, "reason": "ready", "role": "primary", "weight": 100},
        {"name": "v1", "ready": False, "reason": "no ready endpoint", "role": "candidate", "weight": 0},
    ]
    kube.observe(versions=versions)
    result = kube.run("weights", "iris", "v0=20", "v1=80")
    assert "note: v1 is not ready (no ready endpoint): it gets nothing until it is\n" in result.stdout


# Somebody else at the same time


def test_a_conflict_is_tried_again_when_the_traffic_is_as_it_was(kube: Kube) -> None:
    kube.put()
    kube.api.faults.conflict(3)  # the first is the review of who we are, which is a POST
    result = kube.run("weights", "iris", "v0=20", "v1=80")
    assert (result.exit_code, result.stderr) == (0, "")
    assert kube.weights() == [20, 80]


class Meddling:
    """Does something just before the first PATCH arrives."""

    def __init__(self, kube: Kube, meddle: Callable[[], object]) -> None:
        self.done = False
        self.kube, self.meddle = kube, meddle

    def __call__(self, asked: Any) -> bool:
        if asked.method == "PATCH" and not self.done:
            self.done = True
            self.meddle()
        return False


def meddled(kube: Kube, **spec: Any) -> None:
    obj = {"apiVersion": KIND[0], "kind": KIND[1], "metadata": {"name": "iris", "namespace": "default"}, "spec": spec}
    kube.api.faults.answer(503, matches=Meddling(kube, lambda: kube.api.apply(obj)))


def test_a_change_of_something_else_in_between_is_kept(kube: Kube) -> None:
    kube.put()
    meddled(kube, hosts=["other.example"])
    assert kube.run("weights", "iris", "v0=20", "v1=80").exit_code == 0
    assert kube.spec()["hosts"] == ["other.example"]
    assert kube.weights() == [20, 80]
    assert json.loads(kube.get()["metadata"]["annotations"][ANNOTATION])["generation"] == 3


def test_somebody_elses_weights_are_not_overwritten(kube: Kube) -> None:
    kube.put()
    versions = kube.spec()["versions"]
    meddled(kube, versions=[{**versions[0], "weight": 1}, versions[1]])
    result = kube.run("weights", "iris", "v0=20", "v1=80")
    assert result.stderr == (
        "error: default/iris was changed by somebody else meanwhile: spec.versions[v0].weight: 50 -> 1 "
        "(nothing was written: look at it and try again)\n"
    )
    assert (result.exit_code, kube.weights()) == (1, [1, 50])


def test_endless_conflicts_end(kube: Kube) -> None:
    kube.put()
    kube.api.faults.conflict(1000)
    result = kube.run("abort", "iris")
    assert result.stderr.startswith("error: the object changes all the time: ")
    assert result.exit_code == 1


def test_a_lost_answer_is_looked_up(kube: Kube) -> None:
    kube.put()
    kube.api.faults.lost_answers = 2  # the review's, then the change's
    result = kube.run("weights", "iris", "v0=20", "v1=80")
    assert (result.exit_code, result.stderr) == (0, "")
    assert kube.weights() == [20, 80]
    assert json.loads(kube.get()["metadata"]["annotations"][ANNOTATION])["by"].count("@") == 1


# promote, abort, pause, resume


def test_promote_makes_the_only_candidate_the_primary(kube: Kube) -> None:
    kube.put("iris", "default", {"weight": 1}, {"mirror": {"percent": 20}, "match": MATCH})
    kube.observe()
    result = kube.run("promote", "iris")
    assert result.stdout.startswith("default/iris: promoted v1, until now v0\n")
    assert "note: v1 gets no copies of the traffic any more: its mirror is removed\n" in result.stdout
    spec = kube.spec()
    assert (spec["primary"], kube.weights()) == ("v1", [0, 100])
    assert not {"mirror", "match"} & set(spec["versions"][1])


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (None, "no control plane has looked at it"),
        ({"observedGeneration": 7}, "no endpoint"),
        ({"observedGeneration": 0, "primary": "v0"}, "its status is that of generation 0, the spec is 1"),
        ({"versions": []}, "the status does not mention it"),
    ],
    ids=["unseen", "not ready", "stale", "unknown"],
)
def test_promote_refuses_what_is_not_known_to_be_ready(kube: Kube, seen: dict[str, Any] | None, why: str) -> None:
    kube.put()
    unready = [{"name": "v1", "ready": False, "reason": "no endpoint"}]
    if seen is not None:
        kube.observe(**({"versions": unready} | seen))
    result = kube.run("promote", "iris", "v1")
    assert result.stderr == (f"error: v1 of default/iris is not known to be ready: {why} (wait, or give --force)\n")
    assert (result.exit_code, kube.weights()) == (1, [50, 50])
    assert kube.run("promote", "iris", "v1", "--force").exit_code == 0
    assert kube.weights() == [0, 100]


def test_abort_gives_everything_back(kube: Kube) -> None:
    kube.put("iris", "default", {}, {"mirror": {"percent": 20}, "match": MATCH}, strategy="canary", paused=True)
    result = kube.run("abort", "iris", "--why", "v1 answers 500")
    assert result.stdout.startswith("default/iris: aborted: everything to v0\n")
    spec = kube.spec()
    assert spec["paused"] is False
    assert {name: value for name, value in spec["versions"][1].items() if name not in ("backend", "name")} == {
        "weight": 0
    }


def test_pause_and_resume(kube: Kube) -> None:
    kube.put()
    assert kube.run("pause", "iris").exit_code == 0
    assert kube.spec()["paused"] is True
    changed = kube.run("weights", "iris", "v1=0")
    assert "note: the rollout is paused: its traffic stays as it is until 'headgate resume'\n" in changed.stdout
    assert kube.run("resume", "iris").exit_code == 0
    assert kube.spec()["paused"] is False
    assert "nothing to change" in kube.run("resume", "iris").stdout


# Waiting


def test_waiting_ends_when_every_envoy_has_it(kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    kube.put()
    kube.observe()
    told: list[str] = []
    stand = rollouts.stand

    def control_plane(raw: dict[str, Any], generation: int) -> rollouts.Standing:
        """Plays its part once the command has looked: first 1 of 2, then all."""
        found = stand(raw, generation)
        told.append(found.words)
        behind = [{"node": "envoy-2", "why": "no ACK yet"}]
        gateways = [{"name": "default", "envoys": 2, "programmed": 1, "lagging": behind}]
        if len(told) == 1:
            pending = [condition("Programmed", "False", generation)]
            kube.observe(envoys="1/2", conditions=pending, gateways=gateways)
        elif not found.done:
            kube.observe(gateways=[], versions=[ready("v0", 20), ready("v1", 80)])
        return found

    monkeypatch.setattr("headgate.rollouts.stand", control_plane)
    result = kube.run("weights", "iris", "v0=20", "v1=80", "--wait")
    assert result.stderr.splitlines() == [
        "waiting: no control plane has looked at it yet",
        "waiting: 1/2 Envoys; envoy-2: no ACK yet",
    ]
    assert result.stdout.splitlines()[-2:] == ["written by admin as generation 2", "programmed: 2/2 Envoys"]
    assert (result.exit_code, told[-1]) == (0, "2/2 Envoys")


def ready(name: str, weight: float) -> dict[str, Any]:
    return {"name": name, "ready": True, "weight": weight}


def test_waiting_too_long_says_for_what(kube: Kube) -> None:
    kube.put()
    result = kube.run("weights", "iris", "v0=20", "v1=80", "--wait", "--timeout", "10ms", "-o", "json")
    assert result.stderr.splitlines()[-1] == (
        "error: default/iris is not programmed after 0.01 s: no control plane has looked at it yet "
        "(the change is written and goes on being applied; see 'headgate describe')"
    )
    assert json.loads(result.stdout)["programmed"] is False
    assert (result.exit_code, kube.weights()) == (1, [20, 80])


def test_waiting_goes_on_while_the_server_is_in_trouble(kube: Kube) -> None:
    kube.put()
    kube.observe()
    reads: list[str] = []

    def second_read(asked: Any) -> bool:
        reads.extend([asked.path] if asked.method == "GET" else [])
        return len(reads) == 2

    kube.api.faults.answer(503, matches=second_read)
    result = kube.run("weights", "iris", "v0=50", "--wait")
    assert result.stderr == (f"waiting: the API server at {kube.api.url} is in trouble: switched on by the test\n")
    assert result.stdout.splitlines()[-1] == "programmed: 2/2 Envoys"
    assert result.exit_code == 0


def test_waiting_for_what_is_refused_ends_at_once(kube: Kube) -> None:
    kube.put()
    refused = condition("Accepted", "False", 1, "Invalid", "host iris.default belongs to default/other")
    kube.observe(conditions=[refused])
    result = kube.run("weights", "iris", "v0=50", "--wait")
    assert result.stderr == ("error: default/iris: it is not accepted: host iris.default belongs to default/other\n")
    assert result.exit_code == 1


def test_an_annotation_that_overrules_the_weights_is_told(kube: Kube) -> None:
    kube.put()
    kube.observe()
    result = kube.run("weights", "iris", "v0=50", "--wait")
    assert "nevertheless" not in result.stdout
    kube.observe(versions=[ready("v0", 90), ready("v1", 10)])
    result = kube.run("weights", "iris", "v0=50", "--wait")
    assert "note: v1 has 10 % nevertheless: an annotation iter8.tools/weight on a resource" in result.stdout


def test_a_model_deleted_meanwhile_is_told(kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    kube.put()

    def gone(raw: dict[str, Any], generation: int) -> rollouts.Standing:
        kube.call(lambda: kube.api.delete(*KIND, "iris", "default"))
        return rollouts.Standing("no control plane has looked at it yet")

    monkeypatch.setattr("headgate.rollouts.stand", gone)
    result = kube.run("abort", "iris", "--wait")
    assert result.stderr.splitlines()[-1] == "error: default/iris was deleted meanwhile"
    assert result.exit_code == 1


# With the status that the control plane really writes


class ControlPlane:
    """Looks at an object when told, as the leader does."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube
        self.replica = OneReplica()
        self.envoys = Envoys(self.replica)
        self.envoys.join("envoy-1", "envoy-2")

    def look(self, **sites: Any) -> None:
        raw = self.kube.get()
        self.replica.put(raw, **sites)
        reports = self.envoys.now(["default/iris"])
        problems = self.replica.problems("default/iris")
        known = Known(raw, self.replica.status("default/iris"), reports, "us", problems)
        status = status_of(known, 1_772_000_000.0)
        about = {"apiVersion": KIND[0], "kind": KIND[1], "metadata": raw["metadata"]}
        self.kube.call(lambda: self.kube.api.apply({**about, "status": status}))


def test_a_change_is_followed_from_the_first_look_to_the_last_envoy(
    kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    kube.put()
    there = ControlPlane(kube)
    there.envoys.ack()
    there.look()
    stand = rollouts.stand
    turns: Iterator[tuple[str, ...] | None] = iter((None, ("envoy-1",), ("envoy-2",)))

    def by_turns(raw: dict[str, Any], generation: int) -> rollouts.Standing:
        found = stand(raw, generation)
        if not found.done:
            for name in next(turns) or ():
                there.envoys.ack(name)
            there.look()
        return found

    monkeypatch.setattr("headgate.rollouts.stand", by_turns)
    result = kube.run("weights", "iris", "v0=20", "v1=80", "--why", "it is well", "--wait")
    assert result.stderr.splitlines() == [
        "waiting: no control plane has looked at it yet",
        "waiting: 0/2 Envoys; envoy-1: no ACK yet; envoy-2: no ACK yet",
        "waiting: 1/2 Envoys; envoy-2: no ACK yet",
    ]
    assert result.stdout.splitlines()[-1] == "programmed: 2/2 Envoys"
    assert "note:" not in result.stdout
    assert "2/2    2/2" in kube.run("status", "-n", "default").stdout
    [first, second] = json.loads(kube.run("history", "iris", "-o", "json").stdout)["history"]
    assert (first["what"], first["generation"]) == ("created", 1)
    assert (second["by"], second["why"], second["generation"]) == ("admin", "it is well", 2)
    assert second["what"] == "weights: v0 50 % -> 20 %, v1 50 % -> 80 %"


def test_a_version_that_the_control_plane_found_unready_is_not_promoted(kube: Kube) -> None:
    kube.put()
    there = ControlPlane(kube)
    there.look(v1=REFUSED)
    result = kube.run("promote", "iris")
    assert result.stderr == (
        "error: v1 of default/iris is not known to be ready: connection refused (wait, or give --force)\n"
    )
    assert "default/iris: degraded: v1 is not ready (connection refused)\n" in (
        kube.run("status", "-n", "default").stdout
    )
    there.look()
    assert kube.run("promote", "iris").exit_code == 0


# Names


def test_an_unknown_name_is_answered_with_the_nearest(kube: Kube) -> None:
    kube.put()
    result = kube.run("abort", "irs")
    assert (result.exit_code, result.stderr) == (2, "error: no model 'default/irs' (did you mean 'default/iris'?)\n")


def test_a_name_in_other_namespaces_is_never_guessed(kube: Kube) -> None:
    for namespace in ("red", "blue"):
        meta = {"name": namespace}
        kube.call(lambda meta=meta: kube.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": meta}))
    kube.put("iris", "red")
    assert kube.run("abort", "iris").stderr == "error: no model 'default/iris' (did you mean 'red/iris'?)\n"
    kube.put("iris", "blue")
    result = kube.run("abort", "iris")
    assert result.stderr == "error: no model 'default/iris' (there are blue/iris, red/iris: give the namespace)\n"
    assert kube.run("abort", "red/iris").stdout.startswith("red/iris: aborted")
    assert kube.run("abort", "iris", "-n", "blue").stdout.startswith("blue/iris: aborted")


def test_a_routemap_is_changed_by_its_values(kube: Kube) -> None:
    meta = {"name": "wisdom-routemap", "namespace": "default", "labels": {"iter8.tools/kind": "routemap"}}
    kube.call(lambda: kube.api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}))
    result = kube.run("weights", "wisdom", "a=1")
    assert result.stderr.startswith(
        "error: default/wisdom comes from an Iter8 routemap (ConfigMap default/wisdom-routemap), which this command "
        "does not edit (set weights in your values and run: headgate template -f values.yaml --set "
        "templateName=modify-weights | kubectl apply -f -"
    )
    assert result.exit_code == 2
    assert kube.run("describe", "wisdom", "-n", "default").stderr == (
        "error: default/wisdom comes from an Iter8 routemap (ConfigMap default/wisdom-routemap), which has no status "
        "(ask a control plane with --url)\n"
    )
    assert "from Iter8 routemaps, without a status here (ask with --url): default/wisdom\n" in (
        kube.run("status", "-n", "default").stdout
    )


# Trouble


def test_who_may_not_is_told_with_the_role_that_may(empty: Kube) -> None:
    empty.begin(tokens={"t": User("jane")}, rbac=True)
    empty.put()
    result = empty.run("weights", "iris", "v0=1", "v1=1")
    assert result.stderr == (
        "error: jane may not get modelrollouts in the namespace default "
        "(the role headgate-view of deploy/ gives that right)\n"
    )
    rules = [{"apiGroups": ["headgate.dev"], "resources": ["modelrollouts"], "verbs": ["get", "list"]}]
    group = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": "look"}, "rules": rules}
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "look"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "look"},
        "subjects": [{"kind": "User", "name": "jane", "apiGroup": group}],
    }
    for each in (role, binding):
        empty.call(lambda each=each: empty.api.create(each))
    result = empty.run("weights", "iris", "v0=20", "v1=80")
    assert result.stderr == (
        "error: jane may not patch modelrollouts in the namespace default "
        "(the role headgate-edit of deploy/ gives that right)\n"
    )
    assert result.exit_code == 1
    assert empty.run("status", "-A").exit_code == 0


def test_a_wrong_token_is_told(empty: Kube) -> None:
    empty.begin(tokens={"t": User.admin()})
    empty.api.kubeconfig(empty.config, token="other")
    result = empty.run("abort", "iris")
    assert "does not know you (log in again, or choose another --context)\n" in result.stderr
    assert result.exit_code == 1


def test_a_missing_crd_says_what_to_apply(kube: Kube) -> None:
    kube.call(lambda: kube.api.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", CRD["metadata"]["name"]))
    for command in (["status", "-n", "default"], ["abort", "iris"]):
        result = kube.run(*command)
        assert result.stderr == (
            "error: headgate's CRD is not installed in this cluster "
            "(kubectl apply -f deploy/crds/modelrollouts.headgate.dev.yaml)\n"
        )
        assert result.exit_code == 1


def test_a_server_that_is_away_is_told(kube: Kube) -> None:
    url = kube.api.url
    kube.on_loop(kube.api.stop())
    result = kube.run("abort", "iris")
    assert result.stderr.startswith(f"error: no answer from the API server at {url}: ")
    assert result.stderr.endswith("(is it the right --context?)\n")
    assert result.exit_code == 1


def test_a_server_in_trouble_is_told(kube: Kube) -> None:
    kube.api.faults.answer(503)
    result = kube.run("abort", "iris")
    assert result.stderr == (
        f"error: the API server at {kube.api.url} is in trouble: switched on by the test (try again)\n"
    )


def test_an_unknown_context_is_told(kube: Kube) -> None:
    result = kube.run("abort", "iris", "--context", "prod")
    assert "prod" in result.stderr
    assert result.exit_code == 1


# status, describe, history


def test_status_is_a_row_per_model(kube: Kube) -> None:
    kube.put()
    kube.observe()
    kube.put("wine")
    kube.observe("wine", observedGeneration=0, problems=[])
    kube.put("beer")
    lines = kube.run("status", "-n", "default").stdout.splitlines()
    assert [line.split()[:2] for line in lines[:4]] == [
        ["MODEL", "PRIMARY"],
        ["default/beer", "-"],
        ["default/iris", "v0"],
        ["default/wine", "v0"],
    ]
    assert "v0 50 %, v1 50 %" in lines[2]
    assert lines[2].split()[-3:-1] == ["2/2", "2/2"]
    assert lines[1].endswith("! no status")
    assert lines[3].endswith("! stale") or lines[3].endswith("! no status")
    assert lines[-1] == "3 models in default, 2 to look at"


def test_a_stale_status_is_told(kube: Kube) -> None:
    kube.put()
    kube.observe()
    kube.change(hosts=["other.example"])
    lines = kube.run("status", "iris", "-n", "default").stdout.splitlines()
    assert lines[1].endswith("! stale")
    assert "default/iris: the status is stale: it is of generation 1, the spec is generation 2 by now" in lines


def test_status_for_programs(kube: Kube) -> None:
    kube.put()
    kube.observe()
    found = json.loads(kube.run("status", "-A", "-o", "json").stdout)
    assert (found["namespace"], found["routemaps"]) == (None, [])
    [one] = found["models"]
    assert (one["model"], one["statusIs"], one["status"]["envoys"]) == ("default/iris", "current", "2/2")
    assert yaml.safe_load(kube.run("status", "iris", "-n", "default", "-o", "yaml").stdout)["model"] == "default/iris"


def test_status_falls_back_to_the_cluster_when_nobody_answers_here(nowhere: str, kube: Kube) -> None:
    kube.put()
    assert kube.run("status").stdout.splitlines()[-1] == "1 model in default, 1 to look at"


def test_status_names_both_ways_when_there_is_none(nowhere: str) -> None:
    result = run("status")
    assert result.stderr == (
        f"error: no control plane answers at {nowhere}: connection refused; and there is no kubeconfig "
        "(give the --url of a control plane, or --kubeconfig and --context of a cluster)\n"
    )
    assert result.exit_code == 1


def test_watching_survives_an_outage(kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    kube.put()
    turns = iter((lambda: kube.on_loop(kube.api.stop()), lambda: kube.on_loop(kube.api.start())))

    def pause(_: float) -> None:
        turn = next(turns, None)
        if turn is None:
            raise KeyboardInterrupt
        turn()

    monkeypatch.setattr("time.sleep", pause)
    result = kube.run("status", "-n", "default", "-w")
    assert "1 model in default, 1 to look at" in result.stdout
    assert (result.exit_code, result.stderr.strip()) == (130, "")


def test_describe_is_all_of_a_model_on_a_page(kube: Kube) -> None:
    kube.put("iris", "default", {"weight": 50, "resources": ["deploy/iris-v0"]}, {"weight": 50}, sticky={"header": "u"})
    kube.run("weights", "iris", "v0=20", "v1=80", "--why", "wächst")
    behind = [{"node": "envoy-2", "why": "no ACK yet"}]
    problem = {"where": "ModelRollout default/iris", "field": "spec", "what": "odd", "hint": "mend it"}
    kube.observe(
        envoys="1/2",
        conditions=[condition("Programmed", "False", 2, "Waiting", "1 of 2 Envoys")],
        gateways=[{"name": "default", "envoys": 2, "programmed": 1, "lagging": behind}],
        problems=[{**problem, "severity": "warning"}],
        draining=["isvc/wisdom-1: 3 requests in progress"],
    )
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "iris.1", "namespace": "default"},
        "involvedObject": {"kind": "ModelRollout", "name": "iris", "namespace": "default"},
        "type": "Warning",
        "reason": "VersionNotReady",
        "message": "v1 is not ready",
        "count": 3,
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }
    kube.call(lambda: kube.api.create(event))
    result = kube.run("describe", "iris", "-n", "default")
    text = " ".join(result.stdout.split())
    for expected in (
        "default/iris hosts iris.default gateway default",
        "sticky by u",
        "CONDITION STATUS FOR REASON MESSAGE Programmed False",
        "Waiting 1 of 2 Envoys",
        "v0 * 50 % - - yes",
        "deploy/iris-v0",
        "gateway default: 1/2 Envoys have it envoy-2: no ACK yet",
        "draining: isvc/wisdom-1: 3 requests in progress",
        "warning: ModelRollout default/iris: spec: odd (mend it)",
        "2 admin weights: v0 50 % -> 20 %, v1 50 % -> 80 % wächst",
        "VersionNotReady v1 is not ready (x3)",
    ):
        assert expected in text
    assert result.exit_code == 0
    found = json.loads(kube.run("describe", "iris", "-n", "default", "-o", "json").stdout)
    assert [one["reason"] for one in found["events"]] == ["VersionNotReady"]


def test_describe_of_a_model_that_nobody_looked_at(kube: Kube) -> None:
    kube.put()
    text = kube.run("describe", "iris", "-n", "default").stdout
    assert "default/iris: no control plane has looked at it" in text
    assert "v0" in text


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_a_terminal(kube: Kube, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    from rich.console import Console

    kube.put("a-rather-long-model-name", "default", {"weight": 50}, {"weight": 50})
    kube.observe("a-rather-long-model-name", traffic="iris-version-1 33.33 %, iris-version-2 66.67 %")
    for command in ("describe", "status"):
        monkeypatch.setattr(f"headgate.commands.{command}.draw", lambda found: Console(width=width).print(found))
        result = kube.run(command, "a-rather-long-model-name", "-n", "default")
        assert result.exit_code == 0
        assert "a-rather-long-model-name" in result.stdout
        assert max(len(line) for line in result.stdout.splitlines()) <= width


def test_nothing_is_coloured_where_nobody_looks(kube: Kube) -> None:
    kube.put()
    for command in (["status", "-A"], ["describe", "iris", "-n", "default"], ["abort", "iris"], ["history", "iris"]):
        assert "\x1b" not in kube.run(*command).stdout


def test_history_tells_who_did_what_and_why(kube: Kube) -> None:
    kube.put()
    assert kube.run("history", "iris").stderr == "warning: no change of default/iris is recorded\n"
    kube.observe(
        history=[{"at": "2026-01-01T00:00:00Z", "by": "kubectl-edit", "what": "created", "why": "", "generation": 1}]
    )
    kube.run("weights", "iris", "v0=20", "v1=80", "--why", "because 模型")
    lines = kube.run("history", "iris").stdout.splitlines()
    assert lines[0].split() == ["CHANGED", "GEN", "BY", "WHAT", "WHY"]
    assert "kubectl-edit" in lines[1]
    assert " ".join(lines[2].split("ago")[1].split()) == (
        "2 admin weights: v0 50 % -> 20 %, v1 50 % -> 80 % because 模型"
    )
    found = json.loads(kube.run("history", "iris", "-o", "json").stdout)
    assert [one["generation"] for one in found["history"]] == [1, 2]


# Without a cluster


def test_where_manifests_are_in_a_folder_a_change_says_what_to_edit(answers, nowhere, monkeypatch, plane) -> None:
    plane.put("iris")
    url, said = answers
    said["/models/default/iris"] = 200, json.dumps(plane.status.model("default/iris"))
    expected = (
        f"error: default/iris comes from iris.yaml:1: the control plane at {url} follows its manifests, they are the "
        "source of truth (edit spec.versions[].weight there, it is taken over at once)\n"
    )
    for result in (
        run("weights", "iris", "v1=1", "--url", url),
        run("weights", "iris", "v1=1", HEADGATE_URL=url),
    ):
        assert (result.exit_code, result.stderr) == (1, expected)


def test_a_control_plane_of_a_cluster_is_no_folder(answers) -> None:
    url, said = answers
    said["/models/default/iris"] = 200, json.dumps({"where": "ModelRollout default/iris"})
    assert run("abort", "iris", "--url", url).stderr == (
        "error: default/iris is kept in a cluster (ModelRollout default/iris) "
        "(leave out --url and choose the cluster with --context)\n"
    )


def test_a_change_names_both_ways_when_there_is_none(nowhere: str) -> None:
    result = run("abort", "iris")
    assert "no cluster to talk to" in result.stderr
    assert f"; and no control plane answers at {nowhere}: connection refused" in result.stderr
    assert result.exit_code == 1


def test_describe_by_http(answers, plane) -> None:
    plane.put("iris")
    url, said = answers
    said["/models/default/iris"] = 200, json.dumps(plane.status.model("default/iris"))
    text = run("describe", "iris", "--url", url).stdout
    assert "comes from  iris.yaml:1\n" in text
    assert "why: v1 (primary) is ready" in text
