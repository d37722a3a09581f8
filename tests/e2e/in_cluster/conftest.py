"""Control planes that follow an API server, real Envoys, model servers, and clients that account for every request."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubedouble.fixture import NAMESPACE, Cluster, Double, cluster, real_cluster  # noqa: F401

from headgate.config import Config
from headgate.demo.figures import Ledger
from headgate.demo.model_server import ModelServer
from headgate.demo.traffic import Aim, GrpcClient, HttpClient, Traffic
from headgate.envoy import EnvoyProcess
from headgate.serve import ControlPlane
from router.cluster.template import render
from xds.bootstrap import bootstrap

MESH = "modelmesh-serving"
PATIENCE = 20.0
ISVC = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "inferenceservices.serving.kserve.io"},
    "spec": {
        "group": "serving.kserve.io",
        "scope": "Namespaced",
        "names": {
            "kind": "InferenceService",
            "plural": "inferenceservices",
            "singular": "inferenceservice",
            "shortNames": ["isvc"],
        },
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


def address() -> str:
    """One of this machine that an EndpointSlice may hold: a real API server refuses loopback ones."""
    if not os.environ.get("KUBEBUILDER_ASSETS"):
        return "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])


@dataclass
class Load:
    """Steady traffic of one kind and what became of it."""

    ledger: Ledger
    answered: Counter[str] = field(default_factory=Counter)


class Rig:
    """Everything that it starts is stopped when its block is left."""

    def __init__(self, api: Cluster, stack: AsyncExitStack, folder: Path) -> None:
        self.api, self._stack, self._folder = api, stack, folder
        self.planes: list[ControlPlane] = []
        self.envoys: list[EnvoyProcess] = []
        self.port = 0
        self._slices: dict[str, dict[str, Any]] = {}

    # The cluster

    def apply(self, *objects: dict[str, Any]) -> None:
        for one in objects:
            self.api.apply(one)

    def template(self, **values: Any) -> list[dict[str, Any]]:
        """What `headgate template` prints for the values of a tutorial."""
        rendered = render({"targetEnv": "kserve-modelmesh", "modelName": "wisdom", **values})
        assert not [one for one in rendered.problems if one.severity == "error"], rendered.problems
        return list(rendered.documents)

    async def modelmesh(self, *versions: str) -> ModelServer:
        """ModelMesh's one gRPC server, with the models that it could load."""
        server = await self.started(ModelServer(*versions, host=address()))
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": MESH}})
        self.service("modelmesh-serving", 8033, server.grpc_port, namespace=MESH, name="grpc")
        return server

    def service(self, service: str, port: int, target: int, namespace: str = "default", name: str = "http") -> None:
        meta = {"name": service, "namespace": namespace}
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {**meta, "labels": {"headgate.dev/watch": "true"}},
                "spec": {"selector": {"app": service}, "ports": [{"name": name, "port": port}]},
            },
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {**meta, "labels": {"kubernetes.io/service-name": service}},
                "addressType": "IPv4",
                "ports": [{"name": name, "port": target, "protocol": "TCP"}],
                "endpoints": [{"addresses": [address()], "conditions": {"ready": True}}],
            },
        )

    def isvc(
        self, name: str, *, ready: bool = True, storage: str = "s3://models/wisdom", namespace: str = MESH
    ) -> None:
        self.apply(
            {
                "apiVersion": "serving.kserve.io/v1beta1",
                "kind": "InferenceService",
                "metadata": {
                    "name": name,
                    "namespace": namespace,
                    "labels": {"iter8.tools/watch": "true"},
                    "annotations": {"serving.kserve.io/deploymentMode": "ModelMesh"},
                },
                "spec": {"predictor": {"model": {"modelFormat": {"name": "sklearn"}, "storageUri": storage}}},
            }
        )
        self.isvc_ready(name, ready, namespace)

    def isvc_ready(self, name: str, ready: bool, namespace: str = MESH) -> None:
        found = self.api.get("serving.kserve.io/v1beta1", "InferenceService", name, namespace)
        status = {
            "observedGeneration": found["metadata"]["generation"],
            "conditions": [{"type": "Ready", "status": str(ready)}],
        }
        self.api.patch(
            "serving.kserve.io/v1beta1", "InferenceService", name, {"status": status}, namespace, subresource="status"
        )

    def delete_isvc(self, name: str, namespace: str = MESH) -> None:
        self.api.delete("serving.kserve.io/v1beta1", "InferenceService", name, namespace)

    def find_isvc(self, name: str, namespace: str = MESH) -> dict[str, Any] | None:
        return self.api.find("serving.kserve.io/v1beta1", "InferenceService", name, namespace)

    async def deployment(self, name: str, *, namespace: str = "default", **behaviour: Any) -> ModelServer:
        """A Deployment with a Service, served by a model server of its own, over HTTP and gRPC."""
        server = await self.started(ModelServer(name, host=address(), one_port=0))
        if behaviour:
            server.behave(**behaviour)
        labels = {"headgate.dev/watch": "true"}
        pod = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "m", "image": "m"}]}}
        assert server.port
        self.service(name, 80, server.port, namespace, name="model")  # a name that says nothing of the protocol
        self.apply(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": name, "namespace": namespace, "labels": labels},
                "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": pod},
                "status": {"conditions": [{"type": "Available", "status": "True"}], "observedGeneration": 1},
            }
        )
        return server

    def rollout(
        self, *versions: str, name: str = "iris", namespace: str = "default", strategy: str = "blue-green", **spec: Any
    ) -> None:
        self.apply(
            {
                "apiVersion": "headgate.dev/v1alpha1",
                "kind": "ModelRollout",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {
                    "hosts": [f"{name}.test"],
                    "strategy": strategy,
                    "versions": [{"name": one, "resources": [f"deploy/{one}", f"svc/{one}"]} for one in versions],
                    **spec,
                },
            }
        )

    async def started(self, server: ModelServer) -> ModelServer:
        await server.start()
        self._stack.push_async_callback(server.stop)
        return server

    def allow(self, group: str, resource: str) -> None:
        """What the chart's value kubernetes.resourceTypes gives the control plane."""
        rule = {"apiGroups": [group], "resources": [resource], "verbs": ["get", "list", "watch", "patch"]}
        api = "rbac.authorization.k8s.io"
        name = {"name": f"headgate-{resource}"}
        self.apply(
            {"apiVersion": f"{api}/v1", "kind": "ClusterRole", "metadata": name, "rules": [rule]},
            {
                "apiVersion": f"{api}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": name,
                "roleRef": {"apiGroup": api, "kind": "ClusterRole", **name},
                "subjects": [{"kind": "ServiceAccount", "name": "headgate", "namespace": NAMESPACE}],
            },
        )

    def status(self, model: str) -> dict[str, Any]:
        namespace, name = model.split("/")
        found = self.api.find("headgate.dev/v1alpha1", "ModelRollout", name, namespace) or {}
        status: dict[str, Any] = found.get("status", {})
        return status

    def condition(self, model: str, kind: str) -> str:
        return next((one["status"] for one in self.status(model).get("conditions", ()) if one["type"] == kind), "")

    # Our side

    def configuration(self, **kubernetes: Any) -> Config:
        return Config.model_validate(
            {
                "xds": {"port": 0},
                "http": {"port": 0},
                "gateways": [{"name": "default", "listeners": [{"port": 0}]}],
                "kubernetes": {
                    "enabled": True,
                    "kubeconfig": str(self.api.kubeconfig("headgate", NAMESPACE)),
                    "watchTimeout": "10s",
                    "advertise": "127.0.0.1",
                    **kubernetes,
                },
            }
        )

    async def plane(self, **kubernetes: Any) -> ControlPlane:
        plane = ControlPlane(self.configuration(**kubernetes))
        await plane.start()
        self._stack.push_async_callback(self._stop, plane)
        self.planes.append(plane)
        return plane

    async def _stop(self, plane: ControlPlane) -> None:
        if plane in self.planes:
            self.planes.remove(plane)
            await plane.stop()

    async def stop(self, plane: ControlPlane) -> None:
        await self._stop(plane)

    async def envoy(self, node: str = "e1", *ports: int) -> EnvoyProcess:
        """An Envoy that finds control planes on these ports: by default all that run now."""
        ports = ports or tuple(plane.xds_port for plane in self.planes)
        config = bootstrap(
            node_id=node, node_cluster="default", xds_address="127.0.0.1", xds_port=ports[0], admin_port=0
        )
        (xds,) = config["static_resources"]["clusters"]
        (group,) = xds["load_assignment"]["endpoints"]
        for port in ports[1:]:
            there = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
            group["lb_endpoints"].append({"endpoint": {"address": there}})
        process = EnvoyProcess(config, concurrency=1)
        await process.start(ready=True)
        self._stack.push_async_callback(process.stop)
        self.port = await process.wait_listener("http")
        self.envoys.append(process)
        return process

    # Traffic

    @asynccontextmanager
    async def load(
        self,
        host: str,
        *,
        rate: float = 50,
        grpc: bool = False,
        headers: dict[str, str] | None = None,
        port: int = 0,
    ) -> AsyncIterator[Ledger]:
        """Open-loop requests for as long as the block runs; all are answered or counted as failed at its end."""
        ledger = Ledger()
        aim = Aim(port or self.port, host, timeout=10.0)
        client = GrpcClient(aim) if grpc else HttpClient(aim)
        async with Traffic(client, ledger, rate, lambda: headers or {}):
            yield ledger

    @asynccontextmanager
    async def unharmed(self, host: str, *, rate: float = 40, **more: Any) -> AsyncIterator[tuple[Ledger, Ledger]]:
        """HTTP and gRPC requests at once for as long as the block runs: none may fail, and all must be answered."""
        async with self.load(host, rate=rate, **more) as http, self.load(host, rate=rate, grpc=True, **more) as rpc:
            await self.until(lambda: http.sent and rpc.sent, "requests under way")
            yield http, rpc
        for ledger in (http, rpc):
            assert ledger.failed == 0, ledger.errors
            assert ledger.in_flight == 0
            assert ledger.ok == ledger.sent > 0

    async def asked(self, host: str, times: int = 40, *, grpc: bool = True, **headers: str) -> Counter[str]:
        """So many requests, one after the other: who answered, and what failed."""
        client = GrpcClient(Aim(self.port, host)) if grpc else HttpClient(Aim(self.port, host))
        found: Counter[str] = Counter()
        try:
            for _ in range(times):
                try:
                    found[await client.send(headers)] += 1
                except Exception as failed:
                    found[f"failed: {failed}"] += 1
        finally:
            await client.close()
        return found

    async def until(self, true: Callable[[], object], what: str = "", within: float = PATIENCE) -> float:
        begun = time.monotonic()
        while not true():
            took = time.monotonic() - begun
            assert took < within, f"{what or 'it'} did not become true in {within:g} s"
            await asyncio.sleep(0.02)
        return time.monotonic() - begun

    async def programmed(self, model: str, **weights: float) -> None:
        """Wait until every Envoy has what the rollout's present generation wants, and these weights, in percent."""

        def as_wanted() -> bool:
            namespace, name = model.split("/")
            found = self.api.find("headgate.dev/v1alpha1", "ModelRollout", name, namespace) or {}
            status = found.get("status", {})
            now = {one["name"].replace("-", "_"): one.get("weight", 0) for one in status.get("versions", ())}
            fits = all(now.get(version, 0) == weight for version, weight in weights.items())
            current = status.get("observedGeneration") == found.get("metadata", {}).get("generation")
            return fits and current and self.condition(model, "Programmed") == "True"

        try:
            await self.until(as_wanted, "programmed")
        except AssertionError:
            raise AssertionError(f"{model} is not programmed: {yaml.safe_dump(self.status(model))}") from None


@pytest.fixture
def api(tmp_path: Path) -> Any:
    """A cluster for whole journeys: the real API server if there is one, else the double, which takes loopback."""
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        yield real_cluster(Path(assets))
        return
    found = Double(tmp_path, loopback_endpoints=True)
    try:
        found.install()
        yield found
    finally:
        found.close()


@pytest.fixture
def rig(api: Cluster, tmp_path: Path) -> Callable[[Callable[[Rig], Awaitable[None]]], None]:
    """Run an async test body with a Rig, in a cluster that knows InferenceServices."""

    def run(body: Callable[[Rig], Awaitable[None]], within: float = 90.0) -> None:
        async def main() -> None:
            async with AsyncExitStack() as stack:
                await body(Rig(api, stack, tmp_path))

        api.install_crd(ISVC)
        asyncio.run(asyncio.wait_for(main(), within))

    return run
