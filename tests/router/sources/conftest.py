"""A cluster with the kinds that models are made of, and a control plane's way from it to plans."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubedouble import ApiServer
from kubedouble.errors import ApiError

from router.cluster.drain import FINALIZER
from router.engine import Engine
from router.kube.client import connect
from router.sources.kubernetes import Kubernetes
from router.store import Store
from xds.ir import Gateway, ModelPlan

ROOT = Path(__file__).parents[3]
CRD = yaml.safe_load((ROOT / "deploy/crds/modelrollouts.headgate.dev.yaml").read_text())
ISVC = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "inferenceservices.serving.kserve.io"},
    "spec": {
        "group": "serving.kserve.io",
        "scope": "Namespaced",
        "names": {"kind": "InferenceService", "plural": "inferenceservices", "singular": "inferenceservice"},
        "versions": [
            {
                "name": "v1beta1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


class Sink:
    """What Envoys would be told."""

    def __init__(self) -> None:
        self.plans: dict[str, ModelPlan] = {}
        self.removed: list[str] = []

    def apply(self, plan: ModelPlan) -> None:
        self.plans[plan.name] = plan

    def remove(self, gateway: str, model: str) -> None:
        del self.plans[model]
        self.removed.append(model)


class Scene:
    """An API server to change things in, and what comes of it."""

    def __init__(self, api: ApiServer, source: Kubernetes) -> None:
        self.api, self.source = api, source
        self.store, self.sink = Store(), Sink()
        self.engine = Engine(self.store, self.sink, gateways={"default": Gateway("default", ())}, hold=True)

    def apply(self, *texts: str | dict[str, Any]) -> None:
        for text in texts:
            for one in yaml.safe_load_all(text) if isinstance(text, str) else [text]:
                self.api.apply(one)

    def model(
        self, name: str, *, ready: bool = True, ports: tuple[int, ...] = (8001,), labels: bool = True, **meta: Any
    ) -> None:
        """A Deployment with a Service and its endpoints."""
        common = {"name": name, "namespace": "default", "labels": {"headgate.dev/watch": "true"} if labels else {}}
        pod = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "m", "image": "m"}]}}
        self.apply(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {**common, **meta},
                "spec": {"selector": {"matchLabels": {"app": name}}, "template": pod},
                "status": {"conditions": [{"type": "Available", "status": str(ready)}]},
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": common,
                "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}]},
            },
        )
        self.endpoints(name, *ports)

    def endpoints(self, name: str, *ports: int, **conditions: bool) -> None:
        """All of a Service's endpoints, a slice for each port."""
        for index, port in enumerate(ports or (0,)):
            self.apply(
                {
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {
                        "name": f"{name}-{index}",
                        "namespace": "default",
                        "labels": {"kubernetes.io/service-name": name},
                    },
                    "addressType": "IPv4",
                    "ports": [{"name": "http", "port": port or 1, "protocol": "TCP"}],
                    "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": True, **conditions}}]
                    if port
                    else [],
                }
            )

    def finalizer(self, name: str, there: bool) -> None:
        change = {"metadata": {"name": name, "namespace": "default", "finalizers": [FINALIZER] if there else []}}
        with contextlib.suppress(ApiError):  # the last finalizer of a deleted object takes it away
            self.api.apply({"apiVersion": "apps/v1", "kind": "Deployment", **change})

    def weights(self, model: str = "default/iris") -> dict[str, int]:
        plan = self.sink.plans.get(model)
        return {one.version: one.weight // 100 for one in plan.routes[-1].targets} if plan and plan.routes else {}

    async def until(self, true: Callable[[], object], within: float = 5.0) -> None:
        begun = time.monotonic()
        while not true():
            assert time.monotonic() - begun < within, f"it did not become true in time: {self.sink.plans}"
            await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.source.run(self.store)),
                group.create_task(self.engine.run(self.source.loaded)),
            ]
            await asyncio.wait_for(self.engine.settled(5.0), 10)
            yield
            for one in tasks:
                one.cancel()


@pytest.fixture
def scene(tmp_path: Path) -> Callable[..., None]:
    def play(
        test: Callable[[Scene], Awaitable[None]], crds: tuple[dict[str, Any], ...] = (CRD, ISVC), **options: Any
    ) -> None:
        async def run() -> None:
            async with ApiServer() as api:
                for one in crds:
                    api.create(one)
                async with await connect(kubeconfig=api.kubeconfig(tmp_path / "config")) as client:
                    await test(Scene(api, Kubernetes(client, **options)))

        asyncio.run(asyncio.wait_for(run(), 30))

    return play
