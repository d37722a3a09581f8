"""A cluster as a source: rollouts, routemaps and what they name become plans, and go as gently as they came."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import yaml

from router.cluster.resource import Reference
from router.cluster.template import render
from xds.ir import Endpoint

IRIS = """
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata: {name: iris, namespace: default}
spec:
  hosts: [iris.test]
  strategy: blue-green
  versions:
  - {name: v1, resources: [deploy/v1, svc/v1]}
  - {name: v2, resources: [deploy/v2, svc/v2]}
"""


def test_versions_get_traffic_when_all_they_consist_of_is_ready(scene):
    async def test(it: Any) -> None:
        it.apply(IRIS)
        it.model("v1")
        async with it.running():
            assert it.weights() == {"v1": 100}
            it.model("v2", ready=False, ports=(8002, 8003))
            await asyncio.sleep(0)
            await it.until(lambda: len(it.sink.plans["default/iris"].backends[1].endpoints) == 2)
            assert it.weights() == {"v1": 100}
            it.model("v2", ready=True, ports=(8002, 8003))
            await it.until(lambda: it.weights() == {"v1": 50, "v2": 50})
            assert it.sink.plans["default/iris"].backends[1].endpoints == (
                Endpoint("10.0.0.1", 8002),
                Endpoint("10.0.0.1", 8003),
            )
            it.endpoints("v2", 0, 0)
            await it.until(lambda: it.weights() == {"v1": 100})

    scene(test)


def test_a_mirror_of_an_iter8_tutorial_follows_its_weight_config(scene):
    async def test(it: Any) -> None:
        common = {"targetEnv": "kserve-modelmesh", "trafficStrategy": "mirror", "modelName": "wisdom"}
        it.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "modelmesh-serving"}})
        for one in render({"templateName": "initialize-rollout", **common}).documents:
            it.apply(one)
        modelmesh(it, "wisdom-0")
        async with it.running():
            assert it.weights("modelmesh-serving/wisdom") == {"wisdom-0": 100}
            modelmesh(it, "wisdom-1")
            await it.until(lambda: mirrored(it) == {"wisdom-1": 100})
            for one in render({"templateName": "modify-weights", "mirrorPercentage": 20, **common}).documents:
                it.apply(one)
            await it.until(lambda: mirrored(it) == {"wisdom-1": 20})
            (target,) = it.sink.plans["modelmesh-serving/wisdom"].routes[-1].targets
            assert target.backend == "modelmesh-serving/wisdom/wisdom-0"
            assert ("mm-vmodel-id", "wisdom-0") in target.set_request_headers

    scene(test)


def mirrored(it: Any) -> dict[str, float]:
    return {one.version: one.percent for one in it.sink.plans["modelmesh-serving/wisdom"].routes[-1].mirrors}


def modelmesh(it: Any, name: str) -> None:
    """An InferenceService on the shared server, which listens on port 8033."""
    space = "modelmesh-serving"
    it.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": space, "namespace": space},
            "spec": {"ports": [{"name": "grpc", "port": 8033}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": space, "namespace": space, "labels": {"kubernetes.io/service-name": space}},
            "addressType": "IPv4",
            "ports": [{"name": "grpc", "port": 18033}],
            "endpoints": [{"addresses": ["10.0.0.1"]}],
        },
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {
                "name": name,
                "namespace": space,
                "labels": {"iter8.tools/watch": "true"},
                "annotations": {"serving.kserve.io/deploymentMode": "ModelMesh"},
            },
            "spec": {"predictor": {"model": {"modelFormat": {"name": "sklearn"}}}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        },
    )


ROUTEMAP = """
apiVersion: v1
kind: ConfigMap
metadata:
  name: wisdom-routemap
  namespace: modelmesh-serving
  labels: {app.kubernetes.io/managed-by: iter8, iter8.tools/kind: routemap, iter8.tools/version: v0.14}
immutable: true
data:
  strSpec: |
    versions:
    - resources: [{gvrShort: isvc, name: wisdom-0, namespace: modelmesh-serving}]
    - resources: [{gvrShort: isvc, name: wisdom-1, namespace: modelmesh-serving}]
      weight: 3
"""


def test_a_routemap_is_a_rollout_until_a_modelrollout_takes_its_place(scene):
    async def test(it: Any) -> None:
        it.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "modelmesh-serving"}})
        it.apply(ROUTEMAP)
        modelmesh(it, "wisdom-0")
        modelmesh(it, "wisdom-1")
        model = "modelmesh-serving/wisdom"
        async with it.running():
            assert it.weights(model) == {"wisdom-0": 25, "wisdom-1": 75}
            assert it.source.routemap(model) is not None
            common = {"targetEnv": "kserve-modelmesh", "trafficStrategy": "blue-green", "modelName": "wisdom"}
            it.apply(render({"templateName": "initialize-rollout", **common}).documents[0])
            await it.until(lambda: it.weights(model) == {"wisdom-0": 50, "wisdom-1": 50})
            assert any("is not used" in one.what for one in it.engine.models()[model].problems)
            it.api.delete("headgate.dev/v1alpha1", "ModelRollout", "wisdom", "modelmesh-serving")
            await it.until(lambda: it.weights(model) == {"wisdom-0": 25, "wisdom-1": 75})

    scene(test)


def test_a_version_that_leaves_keeps_its_addresses_and_a_deleted_rollout_its_clusters(scene):
    async def test(it: Any) -> None:
        it.apply(IRIS)
        it.model("v1", labels=False)
        it.model("v2", ports=(8002,))
        it.finalizer("v2", True)
        async with it.running():
            await it.until(lambda: it.weights() == {"v1": 50, "v2": 50})
            it.api.delete("apps/v1", "Deployment", "v2", "default")
            await it.until(lambda: it.weights() == {"v1": 100})
            assert it.sink.plans["default/iris"].backends[1].endpoints == (Endpoint("10.0.0.1", 8002),)
            it.api.delete("headgate.dev/v1alpha1", "ModelRollout", "iris", "default")
            await it.until(lambda: not it.sink.plans["default/iris"].hosts)
            assert [one.name for one in it.sink.plans["default/iris"].backends] == ["default/iris/v2"]
            assert it.source.users(Reference("deploy", "v2", "default")) == {("default/iris", "v2")}
            it.finalizer("v2", False)
            await it.until(lambda: it.sink.removed == ["default/iris"])
            assert not it.source.users(Reference("deploy", "v2", "default"))

    scene(test)


def test_a_version_being_drained_keeps_its_addresses_though_its_service_goes_first(scene):
    async def test(it: Any) -> None:
        it.apply(IRIS)
        it.model("v1")
        it.model("v2", ports=(8002,))
        it.finalizer("v2", True)
        async with it.running():
            await it.until(lambda: it.weights() == {"v1": 50, "v2": 50})
            it.api.delete("apps/v1", "Deployment", "v2", "default")
            await it.until(lambda: it.weights() == {"v1": 100})
            it.api.delete("v1", "Service", "v2", "default")
            it.endpoints("v2", 0)
            await it.until(lambda: it.source.find(Reference("svc", "v2", "default")) is None)
            assert it.sink.plans["default/iris"].backends[1].endpoints == (Endpoint("10.0.0.1", 8002),)

    scene(test)


def test_what_a_version_leaves_behind_is_its_own_until_envoys_know_better(scene):
    async def test(it: Any) -> None:
        it.apply(IRIS)
        for name in ("v1", "v2", "v3"):
            it.model(name)
        it.finalizer("v2", True)
        old = Reference("deploy", "v2", "default")
        async with it.running():
            await it.until(lambda: it.weights() == {"v1": 50, "v2": 50})
            moved = yaml.safe_load(IRIS)
            moved["spec"]["versions"][1]["resources"] = ["deploy/v3", "svc/v3"]
            it.apply(moved)
            await it.until(lambda: it.source.users(old) == {("default/iris", "v2~before")})
            assert it.weights() == {"v1": 50, "v2": 50}
            it.finalizer("v2", False)
            await it.until(lambda: not it.source.users(old))

    scene(test)


def test_a_version_taken_out_of_the_rollout_lingers_while_it_is_protected(scene):
    async def test(it: Any) -> None:
        it.apply(IRIS)
        it.model("v1")
        it.model("v2", ports=(8002,))
        it.finalizer("v2", True)
        async with it.running():
            await it.until(lambda: it.weights() == {"v1": 50, "v2": 50})
            alone = yaml.safe_load(IRIS)
            del alone["spec"]["versions"][1]
            it.apply(alone)
            await it.until(lambda: it.weights() == {"v1": 100})
            names = [one.name for one in it.sink.plans["default/iris"].backends]
            assert names == ["default/iris/v1", "default/iris/v2"]
            it.finalizer("v2", False)
            await it.until(lambda: len(it.sink.plans["default/iris"].backends) == 1)

    scene(test)


def test_a_broken_edit_keeps_what_was_good_and_says_so(scene):
    async def test(it: Any) -> None:
        it.apply(IRIS)
        it.model("v1")
        async with it.running():
            await it.until(lambda: it.weights() == {"v1": 100})
            # Valid for the CRD, which cannot judge regular expressions.
            it.apply({**yaml.safe_load(IRIS), "spec": {**yaml.safe_load(IRIS)["spec"], "hosts": ["new.test"]}})
            await it.until(lambda: it.sink.plans["default/iris"].hosts == ("new.test",))
            bad = yaml.safe_load(IRIS)
            bad["spec"]["versions"][0]["match"] = [{"path": {"regex": "("}}]
            it.apply(bad)
            await it.until(lambda: any("not valid" in one.what for one in it.engine.models()["default/iris"].problems))
            assert it.sink.plans["default/iris"].hosts == ("new.test",)

    scene(test)


def test_an_api_server_that_goes_away_changes_nothing(scene):
    async def test(it: Any) -> None:
        it.apply(IRIS)
        it.model("v1")
        async with it.running():
            await it.until(lambda: it.weights() == {"v1": 100})
            before = it.sink.plans["default/iris"]
            await it.api.stop()
            await it.until(lambda: it.source.trouble)
            assert it.sink.plans["default/iris"] is before
            it.model("v2")
            await it.api.start()
            await it.until(lambda: it.weights() == {"v1": 50, "v2": 50})
            await it.until(lambda: it.source.trouble is None)

    scene(test)


def test_a_cluster_without_our_crd_is_told(scene):
    async def test(it: Any) -> None:
        async with it.running():
            assert [one.what for one in it.engine.problems()] == ["the cluster does not know ModelRollouts"]

    scene(test, crds=())


@pytest.mark.parametrize("namespace", ["", "default"])
def test_a_service_that_cannot_be_seen_is_left_to_dns(scene, namespace):
    async def test(it: Any) -> None:
        it.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "far"}})
        far = yaml.safe_load(IRIS)
        far["spec"]["versions"] = [
            {"name": "v1", "backend": {"service": {"name": "m", "namespace": "far", "port": 80}}}
        ]
        far["spec"]["versions"][0]["resources"] = ["deploy/v1"]
        it.apply(far)
        it.model("v1")
        async with it.running():
            (backend,) = it.sink.plans["default/iris"].backends
            assert backend.dns is bool(namespace)
            assert [one.address for one in backend.endpoints] == (["m.far.svc.cluster.local"] if namespace else [])

    scene(test, namespace=namespace)


@pytest.mark.parametrize("from_the_start", [True, False])
def test_what_may_not_be_watched_is_told_with_the_models_that_need_it_and_harms_no_other(scene, from_the_start):
    async def test(it: Any) -> None:
        def forbid() -> None:
            it.api.faults.answer(403, 1_000_000, matches=lambda asked: "/inferenceservices" in asked.path)
            it.api.drop_watches()

        it.apply(IRIS, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "modelmesh-serving"}}, ROUTEMAP)
        it.model("v1")
        modelmesh(it, "wisdom-0")
        wisdom = "modelmesh-serving/wisdom"
        if from_the_start:
            forbid()
        async with it.running():
            if not from_the_start:
                assert it.weights(wisdom) == {"wisdom-0": 100}
                before = it.sink.plans[wisdom]
                forbid()
            assert it.weights() == {"v1": 100}
            await it.until(lambda: told(it, "Kubernetes"))
            await it.until(lambda: told(it, "ConfigMap modelmesh-serving/wisdom-routemap"))
            assert "inferenceservices" in told(it, "Kubernetes")[0].field
            assert not it.engine.models()["default/iris"].problems
            it.model("v2")
            await it.until(lambda: it.weights() == {"v1": 50, "v2": 50})
            if not from_the_start:
                assert it.sink.plans[wisdom] == before
            it.api.faults.clear()
            await it.until(lambda: not told(it, "Kubernetes"), within=20)
            await it.until(lambda: not told(it, "ConfigMap modelmesh-serving/wisdom-routemap"))
            assert it.weights(wisdom) == {"wisdom-0": 100}

    scene(test, rights_within=0.1)


def test_what_could_never_be_seen_is_not_taken_for_absent(scene):
    """A replica starts without the right to watch Deployments: addresses decide, as long as there are any."""

    async def test(it: Any) -> None:
        it.apply(IRIS)
        it.model("v1")
        it.model("v2", ports=(8002,))
        it.api.faults.answer(403, 1_000_000, matches=lambda asked: "/deployments" in asked.path)
        async with it.running():
            await it.until(lambda: it.weights() == {"v1": 50, "v2": 50})
            why = " ".join(one.reason for one in it.engine.models()["default/iris"].versions)
            assert "Deployment v1 cannot be seen" in why
            it.endpoints("v2")
            await it.until(lambda: it.weights() == {"v1": 100})
            it.endpoints("v2", 8002)
            await it.until(lambda: it.weights() == {"v1": 50, "v2": 50})
            it.model("v2", ready=False, ports=(8002,))
            it.api.faults.clear()
            await it.until(lambda: it.weights() == {"v1": 100}, within=20)
            assert not told(it, "ModelRollout default/iris")

    scene(test, rights_within=0.1)


@pytest.mark.parametrize("hidden", ["modelrollouts", "endpointslices", "services"])
def test_envoys_may_not_connect_before_it_is_seen_what_models_need(scene, hidden: str):
    async def test(it: Any) -> None:
        it.apply(IRIS)
        it.model("v1")
        it.model("v2", ports=(8002,))
        it.api.faults.answer(403, 1_000_000, matches=lambda asked: f"/{hidden}" in asked.path)
        task = asyncio.create_task(it.source.run(it.store))
        await it.until(lambda: any(one.refused for one in it.source.reflectors if one.path.endswith(hidden)))
        for one in it.source.reflectors:
            await one.answered.wait()
        await it.until(lambda: [one.where for one in it.store.problems().get("kubernetes", ())] == ["Kubernetes"])
        assert not it.source.loaded.is_set()
        it.api.faults.clear()
        async with asyncio.timeout(20):
            await it.source.loaded.wait()
        assert {one.ready for one in it.store.sites("default/iris").values()} == {True}
        task.cancel()

    scene(test)


def told(it: Any, where: str) -> list[Any]:
    return [one for one in it.engine.problems() if one.where == where and "may not be watched" in one.what]
