"""Every kind that a version may consist of, and its way to the servers: real answers."""

from __future__ import annotations

from typing import Any

import pytest

from headgate.demo.model_server import ModelServer

ANY = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def crd(group: str, version: str, kind: str, plural: str) -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": ANY},
                }
            ],
        },
    }


async def served(it: Any, version: str, **more: Any) -> ModelServer:
    return await it.started(ModelServer(version, one_port=0, **more))


def test_deployments_over_http_and_grpc(rig: Any) -> None:
    async def body(it: Any) -> None:
        await it.deployment("v1")
        await it.deployment("v2")
        it.rollout("v1", "v2")
        await it.plane()
        await it.envoy()
        await it.programmed("default/iris", v1=50, v2=50)
        for grpc in (False, True):
            assert set(await it.asked("iris.test", grpc=grpc)) == {"v1", "v2"}

    rig(body)


def test_predictors_of_a_seldon_deployment_share_what_it_says(rig: Any) -> None:
    async def body(it: Any) -> None:
        it.api.install_crd(crd("machinelearning.seldon.io", "v1", "SeldonDeployment", "seldondeployments"))
        for predictor in ("main", "next", "copy"):
            server = await served(it, predictor)
            it.service(f"iris-{predictor}", 8000, server.port)
        it.apply(
            {
                "apiVersion": "machinelearning.seldon.io/v1",
                "kind": "SeldonDeployment",
                "metadata": {"name": "iris", "namespace": "default", "labels": {"headgate.dev/watch": "true"}},
                "spec": {
                    "predictors": [
                        {"name": "main", "traffic": 75},
                        {"name": "next", "traffic": 25},
                        {"name": "copy", "shadow": True},
                    ]
                },
                "status": {"state": "Available"},
            }
        )
        names = ("main", "next", "copy")
        it.rollout(strategy="none", versions=[{"name": one, "resources": [f"sdep/iris#{one}"]} for one in names])
        await it.plane()
        await it.envoy()
        await it.programmed("default/iris", main=75, next=25, copy=0)
        assert set(await it.asked("iris.test", grpc=False)) == {"main", "next"}
        (copy,) = (one for one in it.status("default/iris")["versions"] if one["name"] == "copy")
        assert copy["mirrorPercent"] == 100

    rig(body)


def test_a_statefulset_behind_its_governing_service(rig: Any) -> None:
    async def body(it: Any) -> None:
        server = await served(it, "v1")
        it.service("pods", 9000, server.port)
        labels = {"app": "db"}
        it.apply(
            {
                "apiVersion": "apps/v1",
                "kind": "StatefulSet",
                "metadata": {"name": "db", "namespace": "default", "labels": {"headgate.dev/watch": "true"}},
                "spec": {
                    "serviceName": "pods",
                    "replicas": 1,
                    "selector": {"matchLabels": labels},
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {"containers": [{"name": "m", "image": "m"}]},
                    },
                },
                "status": {"replicas": 1, "readyReplicas": 1, "updatedReplicas": 1, "observedGeneration": 1},
            }
        )
        it.rollout(versions=[{"name": "v1", "resources": ["sts/db"]}])
        await it.plane()
        await it.envoy()
        await it.programmed("default/iris", v1=100)
        assert await it.asked("iris.test", 5, grpc=False) == {"v1": 5}

    rig(body)


@pytest.mark.parametrize("strategy", ["canary", "mirror"])
def test_kserve_behind_knatives_gateway_by_host_and_path(rig: Any, strategy: str) -> None:
    """Knative tells models by Host, KServe's V2 servers by path: both are the version's own, whatever clients send."""

    async def body(it: Any) -> None:
        server = await served(it, "wisdom-0", name="wisdom-0")
        other = await served(it, "wisdom-1", name="wisdom-1")
        for name, port in (("wisdom-0", server.rest_port), ("wisdom-1", other.rest_port)):
            it.apply(
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": {"name": f"{name}-predictor", "namespace": "default"},
                    "spec": {
                        "type": "ExternalName",
                        "externalName": "localhost",
                        "ports": [{"name": "http2", "port": port}],
                    },
                },
                {
                    "apiVersion": "serving.kserve.io/v1beta1",
                    "kind": "InferenceService",
                    "metadata": {"name": name, "namespace": "default", "labels": {"iter8.tools/watch": "true"}},
                    "spec": {"predictor": {"model": {"modelFormat": {"name": "sklearn"}}}},
                    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
                },
            )
        for one in it.template(
            templateName="initialize-rollout",
            targetEnv="kserve",
            trafficStrategy=strategy,
            modelName="wisdom",
        ):
            one["metadata"]["namespace"] = "default"
            it.apply(one)
        await it.plane()
        await it.envoy()
        await it.programmed("default/wisdom", wisdom_0=100)
        async with it.load("wisdom.default", rate=20) as ledger:
            await it.until(lambda: ledger.ok >= 10, "answers")
            if strategy == "mirror":
                await it.until(lambda: other.counts.shadows >= 10, "copies that the other server understands")
                assert other.counts.refused == 0
        assert not ledger.failed, ledger.errors
        assert set(ledger.versions) == {"wisdom-0"}
        if strategy == "canary":
            assert await it.asked("wisdom.default", 5, grpc=False, traffic="test") == {"wisdom-1": 5}

    rig(body)


def test_a_kind_of_ones_own(rig: Any) -> None:
    async def body(it: Any) -> None:
        it.api.install_crd(crd("models.example", "v1", "Oracle", "oracles"))
        server = await served(it, "v1")
        it.service("delphi", 80, server.port)
        oracle = {
            "apiVersion": "models.example/v1",
            "kind": "Oracle",
            "metadata": {"name": "delphi", "namespace": "default"},
            "spec": {},
        }
        it.apply(oracle)
        it.rollout(versions=[{"name": "v1", "resources": ["oracle/delphi", "svc/delphi"]}])
        types = {"oracle": {"Group": "models.example", "Version": "v1", "Resource": "oracles", "conditions": ["Awake"]}}
        it.allow("models.example", "oracles")
        await it.plane(resourceTypes=types)
        await it.envoy()
        await it.until(lambda: it.condition("default/iris", "Ready") == "False", "not ready")
        it.apply({**oracle, "status": {"conditions": [{"type": "awake", "status": "true"}]}})
        await it.programmed("default/iris", v1=100)
        assert await it.asked("iris.test", 5, grpc=False) == {"v1": 5}

    rig(body)
