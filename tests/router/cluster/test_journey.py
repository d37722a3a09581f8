"""Iter8's tutorials over plain objects, from `headgate template` to the plan for Envoy, without a cluster."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from router.cluster.backend import Server, server
from router.cluster.named import named
from router.cluster.objects import Object
from router.cluster.readiness import version_readiness
from router.cluster.resource import BUILT_IN, Reference
from router.cluster.rollout import reweighted
from router.cluster.template import render
from router.cluster.weight import override
from router.manifests import read
from router.observe import Observed, VersionHealth
from router.plan import plan
from router.schema import ModelRollout
from router.step import RolloutState, step

MODELMESH = {"serving.kserve.io/deploymentMode": "ModelMesh"}


class Cluster:
    """The objects that were applied, by reference."""

    def __init__(self) -> None:
        self._objects: dict[Reference, Object] = {}
        self.rollout: ModelRollout | None = None

    def apply(self, documents: Iterable[Object]) -> None:
        for one in documents:
            about = one["metadata"]
            if one["kind"] == "ModelRollout":
                found = read(one, "applied")
                assert isinstance(found, ModelRollout), found
                self.rollout = found
            else:
                self._objects[Reference("cm", about["name"], about["namespace"])] = one

    def model(self, name: str, ready: bool, generation: int = 1, deleted: bool = False) -> None:
        about: dict[str, object] = {"name": name, "generation": generation, "annotations": MODELMESH}
        if deleted:
            about["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        status = {"conditions": [{"type": "Ready", "status": str(ready)}], "observedGeneration": 1}
        self._objects[Reference("isvc", name, "modelmesh-serving")] = {"metadata": about, "status": status}

    def weights(self) -> dict[str, int]:
        """Percent of the traffic, as Envoy would be told."""
        return {target.version: target.weight // 100 for target in self._route().targets}

    def copies(self) -> dict[str, float]:
        return {mirror.version: mirror.percent for mirror in self._route().mirrors}

    def servers(self) -> dict[str, Server]:
        assert self.rollout
        found = {name: server(each, self._objects.get) for name, each in named(self.rollout).items()}
        return {name: one for name, one in found.items() if isinstance(one, Server)}

    def _route(self):
        assert self.rollout
        resources = named(self.rollout)
        given = {name: override((one, self._objects.get(one)) for one in each)[0] for name, each in resources.items()}
        wanted, _ = reweighted(self.rollout, {name: one for name, one in given.items() if one is not None})
        states = {name: version_readiness(each, self._objects.get, BUILT_IN) for name, each in resources.items()}
        observed = Observed(
            tuple(
                VersionHealth(one.name, states[one.name].ready, states[one.name].reason, (), ())
                for one in wanted.spec.versions
            )
        )
        state = step(wanted, observed, RolloutState(()), 0.0)
        planned = plan(wanted, observed, state, wanted.spec.hosts).plan
        assert planned is not None
        return planned.routes[-1]


def values(strategy: str, action: str = "initialize-rollout", **more: object) -> dict[str, object]:
    common = {"templateName": action, "targetEnv": "kserve-modelmesh", "trafficStrategy": strategy}
    return {**common, "modelName": "wisdom", **more}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_blue_green(cluster: Cluster) -> None:
    cluster.model("wisdom-0", ready=True)
    cluster.apply(render(values("blue-green")).documents)
    assert cluster.weights() == {"wisdom-0": 100}
    cluster.model("wisdom-1", ready=False)
    assert cluster.weights() == {"wisdom-0": 100}
    cluster.model("wisdom-1", ready=True)
    assert cluster.weights() == {"wisdom-0": 50, "wisdom-1": 50}
    cluster.apply(
        render(values("blue-green", "modify-weights", modelVersions=[{"weight": 20}, {"weight": 80}])).documents
    )
    assert cluster.weights() == {"wisdom-0": 20, "wisdom-1": 80}
    cluster.model("wisdom-0", ready=True, generation=2)  # promoted, and not yet loaded
    assert cluster.weights() == {"wisdom-1": 100}
    cluster.model("wisdom-0", ready=True)
    cluster.model("wisdom-1", ready=True, deleted=True)
    assert cluster.weights() == {"wisdom-0": 100}


def test_mirror(cluster: Cluster) -> None:
    cluster.model("wisdom-0", ready=True)
    cluster.apply(render(values("mirror")).documents)
    assert (cluster.weights(), cluster.copies()) == ({"wisdom-0": 100}, {})
    cluster.model("wisdom-1", ready=True)
    assert (cluster.weights(), cluster.copies()) == ({"wisdom-0": 100}, {"wisdom-1": 100})
    cluster.apply(render(values("mirror", "modify-weights", mirrorPercentage=20)).documents)
    assert (cluster.weights(), cluster.copies()) == ({"wisdom-0": 100}, {"wisdom-1": 20})
    cluster.model("wisdom-1", ready=True, deleted=True)
    assert (cluster.weights(), cluster.copies()) == ({"wisdom-0": 100}, {})


def test_the_template_says_the_same_place_as_the_cluster(cluster: Cluster) -> None:
    cluster.apply(render(values("canary")).documents)
    assert cluster.rollout
    cluster.model("wisdom-0", ready=True)
    cluster.model("wisdom-1", ready=True)
    for version in cluster.rollout.spec.versions:
        written = version.backend.model_dump(mode="json", by_alias=True, exclude_none=True)
        found = cluster.servers()[version.name].manifest
        assert written["shared"]["service"] == found["shared"]["service"]
        assert dict(version.selecting_headers) == found["shared"]["requestHeaders"]
