"""Experiments that have to do with a cluster: results in ConfigMaps, Jobs, `ready` and `route`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from experiment_bench import Bench, bench, go
from kubedouble.fixture import Cluster, Refused, cluster

from headgate.cli import cli
from headgate.experiment_routes import ClusterAndFolder
from headgate.kube_context import Choice
from loadgen.experiment import cluster_store
from loadgen.experiment.cluster_store import ClusterStore, pack
from loadgen.experiment.result import LoadRun
from loadgen.experiment.routes import Before, RoutesFault
from loadgen.experiment.runner import Run
from loadgen.experiment.store import Busy, StoreFault
from loadgen.experiment.tasks.settings import RouteSettings
from loadgen.histogram import Histogram
from loadgen.outcome import Outcome, Second, Series
from router.kube.client import connect

__all__ = ["bench", "cluster"]

VERSIONS = [
    {"name": "v1", "weight": 90, "backend": {"endpoints": ["10.0.0.1:80"]}},
    {"name": "v2", "weight": 10, "backend": {"endpoints": ["10.0.0.2:80"]}},
]


def rollout(versions: list[dict[str, Any]] = VERSIONS) -> dict[str, Any]:
    return {
        "apiVersion": "headgate.dev/v1alpha1",
        "kind": "ModelRollout",
        "metadata": {"name": "iris", "namespace": "default"},
        "spec": {"hosts": ["iris.example"], "versions": versions},
    }


def client(cluster: Cluster) -> Any:
    return connect(kubeconfig=cluster.kubeconfig("admin"))


# Results in ConfigMaps


def test_results_are_kept_in_config_maps(cluster: Cluster, bench: Bench) -> None:
    async def body() -> None:
        async with await client(cluster) as there:
            store = ClusterStore(there)
            for _ in range(2):
                result = await Run(bench.experiment("spec: [{run: ls}]"), store, bench.services()).run()
            assert await store.get("default", "e") == result
            assert result.revision == 2
            assert await store.get("default", "e", 1) is None
            [row] = await store.rows()
            assert (row.namespace, row.name, row.revision, row.state) == ("default", "e", 2, "completed")
            stored = cluster.get("v1", "ConfigMap", "headgate-experiment-e")
            assert stored["metadata"]["labels"]["headgate.dev/experiment"] == "e"
            assert await store.delete("default", "e") == 1
            assert await store.get("default", "e") is None

    go(body())


def test_two_runs_of_one_name_do_not_meet(cluster: Cluster, bench: Bench) -> None:
    async def body() -> None:
        async with await client(cluster) as there:
            first, second = ClusterStore(there), ClusterStore(there)
            async with first.running("default", "e"):
                with pytest.raises(Busy, match="experiment default/e is being run by"):
                    async with second.running("default", "e"):
                        raise AssertionError("it was let in")
                async with second.running("default", "other"):
                    pass
            async with second.running("default", "e"):
                pass

    go(body())


def test_a_run_that_gives_no_sign_of_life_is_dead(
    cluster: Cluster, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with await client(cluster) as there:
            first, second = ClusterStore(there), ClusterStore(there)
            async with first.running("default", "e"):
                monkeypatch.setattr(cluster_store, "LOST", -1.0)
                async with second.running("default", "e"):
                    pass

    go(body())


def test_what_has_to_be_put_back_is_noted_beside_the_result(cluster: Cluster, bench: Bench) -> None:
    async def body() -> None:
        async with await client(cluster) as there:
            store = ClusterStore(there)
            before = Before("default/iris", "cluster", {"v1": {"weight": 1}}, {"v1": {"weight": 2}}, {})
            number = await store.note("default/e", before)
            assert await store.notes() == ((number, "default/e", before),)
            await store.put(await bench.run("spec: [{run: ls}]"))
            with pytest.raises(StoreFault, match="is not put back yet"):
                await store.delete("default", "e")
            await store.strike(number)
            assert await store.notes() == ()

    go(body())


def test_a_large_result_loses_what_is_dearest_and_never_a_metric(bench: Bench) -> None:
    chance = random.Random(1)
    histogram = Histogram()
    histogram.record([chance.expovariate(1) for _ in range(20_000)])
    kept = histogram.rest()
    seconds = tuple(Second(at, 1, 0, chance.random(), chance.random(), chance.random(), 1.0) for at in range(12_000))
    metrics = dict.fromkeys(("latency", "service", "queue"), kept)
    series = Series("http", "v1", ok=1, metrics=metrics, timeline=seconds)
    load = LoadRun("http", 1, {"http": ""}, {"http": "x"}, (), Outcome("e", 0, 1, (), (series,)))
    text = "spec: [{task: http, with: {url: 'http://127.0.0.1:1/', allowInitialErrors: true}}]"
    result = go(bench.run(text))
    large = replace(result, insights=replace(result.insights, loads=(load,) * 2))
    assert len(large.to_json()) > 2_000_000
    packed = pack(large)
    assert len(packed) <= cluster_store.BYTES
    read = cluster_store.read_result(cluster_store.gzip.decompress(packed), "x")
    assert read.insights.observed == large.insights.observed


# ready


def test_a_resource_is_waited_for_by_its_conditions(cluster: Cluster, bench: Bench) -> None:
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "iris-2", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "x"}},
            "template": {
                "metadata": {"labels": {"app": "x"}},
                "spec": {"containers": [{"name": "c", "image": "x"}]},
            },
        },
    }

    def stands(available: str) -> None:
        conditions = [
            {"type": "Available", "status": available, "message": "0 of 1 Pods"},
            {"type": "Progressing", "status": "True"},
        ]
        cluster.apply({**deployment, "status": {"observedGeneration": 1, "conditions": conditions}})

    text = (
        "spec: [{task: ready, with: {name: iris-2, group: apps, version: v1, resource: deployments, "
        "conditions: [Progressing, Available], timeout: LIMIT}}]"
    )

    async def body(limit: str) -> Any:
        return await bench.run(text.replace("LIMIT", limit), connect=lambda: client(cluster))

    assert "not found" in go(body("100ms")).tasks[0].message
    stands("False")
    message = go(body("100ms")).tasks[0].message
    assert message.startswith("deployments iris-2 is not ready after 0.1 s: condition Available is False: 0 of 1 Pods")
    later = threading.Timer(0.2, lambda: stands("True"))
    later.start()
    found = go(body("60s"))
    later.join()
    assert found.tasks[0].message == "deployments default/iris-2: Progressing, Available"


# route in a cluster


def test_a_rollout_is_changed_for_the_experiment_and_put_back(cluster: Cluster, bench: Bench) -> None:
    cluster.create(rollout())
    routes = ClusterAndFolder(Choice(kubeconfig=cluster.kubeconfig("admin")))
    seen: list[list[dict[str, Any]]] = []

    def versions() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = cluster.get("headgate.dev/v1alpha1", "ModelRollout", "iris")["spec"]["versions"]
        return found

    stop = threading.Event()
    plane = threading.Thread(target=applying, args=(cluster, stop))
    plane.start()
    try:
        for task in ("weights: {v1: 50, v2: 50}", "header: {version: v2}", "mirror: {version: v2, percent: 20}"):
            bench.reactions.clear()
            bench.when("task 2 of 2", lambda: seen.append(versions()))
            text = f"spec:\n- task: route\n  with: {{model: iris, {task}}}\n- run: ls\n"
            result = go(bench.run(text, routes=routes))
            assert result.completed(), bench.lines
            assert versions() == VERSIONS
    finally:
        stop.set()
        plane.join()
    weights, header, mirror = seen
    assert [one["weight"] for one in weights] == [50, 50]
    [[tester]] = [one["headers"] for one in header[1]["match"]]
    assert (tester["name"], tester["exact"]) == ("traffic", "test")
    assert mirror[1]["mirror"]["percent"] == 20
    record = json.loads(
        cluster.get("headgate.dev/v1alpha1", "ModelRollout", "iris")["metadata"]["annotations"]["headgate.dev/change"]
    )
    assert record["why"] == "end of experiment default/e"


def applying(cluster: Cluster, stop: threading.Event) -> None:
    """As a control plane whose Envoys have everything at once."""
    while not stop.is_set():
        found = cluster.get("headgate.dev/v1alpha1", "ModelRollout", "iris")
        generation = found["metadata"]["generation"]
        if (found.get("status") or {}).get("observedGeneration") == generation:
            continue
        conditions = [
            {
                "type": kind,
                "status": "True",
                "observedGeneration": generation,
                "reason": "AsExpected",
                "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
            for kind in ("Accepted", "Ready", "Programmed")
        ]
        status = {"observedGeneration": generation, "envoys": "1/1", "conditions": conditions}
        with contextlib.suppress(Refused):  # somebody else was faster
            cluster.apply({**found, "metadata": {"name": "iris", "namespace": "default"}, "status": status})


def test_what_somebody_else_changed_meanwhile_stays(cluster: Cluster) -> None:
    cluster.create(rollout())
    routes = ClusterAndFolder(Choice(kubeconfig=cluster.kubeconfig("admin")))

    async def body() -> str:
        settings = RouteSettings(model="iris", weights={"v1": 50, "v2": 50})
        before = await routes.look(settings, "default", ".")
        changed = [{**VERSIONS[0], "weight": 50}, {**VERSIONS[1], "weight": 33}]
        cluster.apply(rollout(changed))
        return await routes.restore(before, "end")

    said = go(body())
    found = cluster.get("headgate.dev/v1alpha1", "ModelRollout", "iris")["spec"]["versions"]
    assert [one["weight"] for one in found] == [90, 33]
    assert said.endswith("somebody else changed v2 meanwhile: that stays")


def test_a_model_or_version_that_is_not_there_is_told(cluster: Cluster) -> None:
    cluster.create(rollout())
    routes = ClusterAndFolder(Choice(kubeconfig=cluster.kubeconfig("admin")))
    with pytest.raises(RoutesFault, match="did you mean 'default/iris'"):
        go(routes.look(RouteSettings(model="irsi", weights={"v1": 1}), "default", "."))
    with pytest.raises(RoutesFault, match="no version is called 'v3'"):
        go(routes.look(RouteSettings(model="iris", weights={"v3": 1}), "default", "."))


# Jobs

SPEC = """\
metadata: {name: wisdom, namespace: default}
spec:
- task: ready
  with: {name: iris, group: serving.kserve.io, version: v1beta1, resource: inferenceservices, conditions: [Ready]}
- task: http
  with: {url: 'http://iris/', payloadFile: body.json}
- task: route
  with: {model: iris, weights: {v1: 1, v2: 1}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "experiment.yaml"
    made.write_text(SPEC)
    (tmp_path / "body.json").write_text("{}")
    return made


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["experiment", *map(str, arguments)])


def test_manifests_have_no_more_rights_than_the_tasks_need(file: Path) -> None:
    result = run("run", file, "--in-cluster", "--dry-run", "--image", "registry.example/headgate:1")
    assert result.exit_code == 0, result.output
    account, role, binding, config, job = yaml.safe_load_all(result.stdout)
    assert [one["kind"] for one in (account, role, binding, config, job)] == [
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "ConfigMap",
        "Job",
    ]
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "create", "update"]},
        {"apiGroups": ["serving.kserve.io"], "resources": ["inferenceservices"], "verbs": ["get"]},
        {"apiGroups": ["headgate.dev"], "resources": ["modelrollouts"], "verbs": ["get", "list", "patch"]},
    ]
    assert config["data"] == {"experiment.yaml": SPEC, "body.json": "{}"}
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "registry.example/headgate:1"
    assert pod["containers"][0]["args"][:3] == ["experiment", "run", "/experiment/experiment.yaml"]
    assert pod["restartPolicy"] == "Never"


def test_with_a_schedule_it_is_a_cron_job(file: Path) -> None:
    result = run("run", file, "--in-cluster", "--dry-run", "--cron", "*/15 * * * *")
    made = list(yaml.safe_load_all(result.stdout))[-1]
    assert (made["kind"], made["spec"]["schedule"], made["spec"]["concurrencyPolicy"]) == (
        "CronJob",
        "*/15 * * * *",
        "Forbid",
    )


def test_files_from_elsewhere_cannot_travel(file: Path) -> None:
    file.write_text(SPEC.replace("body.json", "../body.json"))
    result = run("run", file, "--in-cluster", "--dry-run")
    assert result.exit_code == 2
    assert "only files beside experiment.yaml can travel into a cluster" in result.stderr


def test_a_job_is_waited_for_and_its_report_printed(cluster: Cluster, tmp_path: Path, bench: Bench) -> None:
    """The Pod's part is played here: no kubelet runs."""
    file = tmp_path / "simple.yaml"
    file.write_text("metadata: {name: simple, namespace: default}\nspec: [{run: echo hello}, {run: exit 3}]\n")

    kubeconfig = cluster.kubeconfig("admin")  # once: it is written anew each time, and read by two here
    job, gone = "headgate-experiment-simple", threading.Event()

    def pod() -> None:
        async def play() -> None:
            async with await connect(kubeconfig=kubeconfig) as there:
                while cluster.find("batch/v1", "Job", job) is None and not gone.wait(0.02):
                    pass
                await Run(bench.experiment(file.read_text()), ClusterStore(there), bench.services()).run()

        asyncio.run(play())

    thread = threading.Thread(target=pod)
    thread.start()
    try:
        result = run("run", file, "--in-cluster", "--kubeconfig", kubeconfig)
    finally:
        gone.set()
        thread.join()
    assert result.exit_code == 1
    assert "Job default/headgate-experiment-simple is there" in result.stderr
    assert "task 2 of 2: run: failed the script ended with exit code 3" in result.stderr
    assert "Experiment summary" in result.stdout
    again = run("report", "default/simple", "--store", "cluster", "--kubeconfig", kubeconfig)
    assert again.stdout == result.stdout
    assert cluster.find("v1", "ServiceAccount", "headgate-experiment-simple") is not None


# route in a folder


def test_a_manifest_is_edited_in_place_and_put_back_to_the_letter(tmp_path: Path) -> None:
    text = "# ours, with care\n" + yaml.safe_dump(rollout(), sort_keys=False) + "# the end\n"
    file = tmp_path / "iris.yaml"
    file.write_text(text)
    routes = ClusterAndFolder(Choice())
    settings = RouteSettings(model="iris", weights={"v1": 20, "v2": 80}, manifest="iris.yaml")

    def weights() -> list[int]:
        return [one["weight"] for one in yaml.safe_load(file.read_text())["spec"]["versions"]]

    async def changed() -> Before:
        before = await routes.look(settings, "default", str(tmp_path))
        with pytest.raises(RoutesFault, match="no control plane answers"):
            await routes.change(settings, before, "test")  # it is written, and nobody can tell whether it is applied
        return before

    before = go(changed())
    assert weights() == [20, 80]
    assert go(routes.restore(before, "end")) == "default/iris: its manifest is as it was"
    assert file.read_text() == text
    go(changed())
    edited = yaml.safe_load(file.read_text())
    edited["spec"]["hosts"] = ["other.example"]
    file.write_text(yaml.safe_dump(edited))
    go(routes.restore(before, "end"))
    assert weights() == [90, 10]
    assert yaml.safe_load(file.read_text())["spec"]["hosts"] == ["other.example"]


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADGATE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
