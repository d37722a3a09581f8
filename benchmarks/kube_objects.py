"""What the cluster of the Kubernetes benchmark holds: per model one ModelRollout, per version what serves it.

A version is a Deployment with a Service and an EndpointSlice, both watched for deletion, as the tutorials have it. The
Deployment is of the usual length (2 kB before the server's own fields): what is not kept of it has to be read, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]

NAMESPACE = "models"
WATCHED = "watched"
VERSIONS = ("v1", "v2")
_LABELS = {"headgate.dev/watch": "true"}


def name(n: int) -> str:
    """The first model is the one that is measured."""
    return WATCHED if n == 0 else f"model-{n:05d}"


def host(n: int) -> str:
    return f"{name(n)}.example"


def cluster(models: int, ports: dict[str, int], address: str) -> Iterator[Object]:
    """Everything, what serves first: as it is when the control plane is installed last."""
    yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    for n in range(models):
        for version in VERSIONS:
            yield deployment(f"{name(n)}-{version}")
            yield service(f"{name(n)}-{version}")
            yield endpoints(f"{name(n)}-{version}", ports[version], address)
    for n in range(models):
        yield rollout(n)


def rollout(n: int) -> Object:
    """All traffic to v2, so that a changed weight, or v2's readiness, is seen by the very next request."""
    return {
        "apiVersion": "headgate.dev/v1alpha1",
        "kind": "ModelRollout",
        "metadata": {"name": name(n), "namespace": NAMESPACE},
        "spec": {"hosts": [host(n)], "strategy": "blue-green", "versions": versions(n, 100)},
    }


def versions(n: int, second: int) -> list[Object]:
    """The list `spec.versions` with so many percent for the second version."""
    return [
        {
            "name": version,
            "weight": weight,
            "resources": [f"deploy/{name(n)}-{version}", f"svc/{name(n)}-{version}"],
        }
        for version, weight in zip(VERSIONS, (100 - second, second), strict=True)
    ]


def deployment(app: str) -> Object:
    probe = {"httpGet": {"path": "/v2/health/ready", "port": 8080}, "periodSeconds": 5, "failureThreshold": 3}
    container = {
        "name": "model",
        "image": f"registry.example/models/{app}@sha256:{'0123456789abcdef' * 4}",
        "args": ["--model-repository=/models", "--http-port=8080", "--metrics-port=8082", "--strict-readiness=true"],
        "env": [{"name": f"MODEL_SETTING_{n}", "value": f"value-{n} of {app}"} for n in range(8)],
        "ports": [{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 8082}],
        "resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"cpu": "2", "memory": "4Gi"}},
        "readinessProbe": probe,
        "livenessProbe": probe,
        "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
    }
    pod = {"containers": [container], "volumes": [{"name": "models", "emptyDir": {}}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": app, "namespace": NAMESPACE, "labels": {"app": app, **_LABELS}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": app}},
            "template": {"metadata": {"labels": {"app": app}}, "spec": pod},
        },
        "status": available(True),
    }


def available(ready: bool) -> Object:
    """A Deployment's status."""
    condition = {"type": "Available", "status": str(ready), "reason": "MinimumReplicas", "message": "as it is"}
    return {"observedGeneration": 1, "replicas": 1, "readyReplicas": int(ready), "conditions": [condition]}


def service(app: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": app, "namespace": NAMESPACE, "labels": {"app": app, **_LABELS}},
        "spec": {"selector": {"app": app}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    }


def endpoints(app: str, port: int, address: str) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{app}-1", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": app}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True, "serving": True, "terminating": False}}],
    }
