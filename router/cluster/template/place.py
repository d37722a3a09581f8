"""Where the versions of each environment are served."""

from __future__ import annotations

from typing import Any

from router.cluster.backend import MODEL_HEADER, SELDON_HTTP, ModelMesh, Server, infer_path
from router.cluster.resource import Reference
from router.cluster.template.manifest import Place
from xds.ir import Protocol


def modelmesh(name: str, namespace: str, server: ModelMesh, host: str = "") -> Place:
    """The one gRPC server of all models, the request told by a header."""
    if host:
        service: dict[str, Any] = {"host": host, "port": server.port}
    else:
        service = {"name": server.service, "namespace": server.namespace, "port": server.port}
    shared = {"service": service, "requestHeaders": {MODEL_HEADER: name}}
    return Place({"shared": shared}, (Reference("isvc", name, namespace),), Protocol.H2C.value)


def kserve(name: str, namespace: str, *, old: bool = False, grpc: bool = False) -> Place:
    """KServe's predictor Service; up to 0.10 it had another name. Found by its Host behind Knative's gateway."""
    service = Server(service=f"{name}-predictor-default" if old else f"{name}-predictor", namespace=namespace)
    rewrite = (("host", service.address),) if grpc else (("host", service.address), ("path", infer_path(name)))
    return Place(service.manifest, (Reference("isvc", name, namespace),), Protocol.H2C.value if grpc else "", rewrite)


def deployment(name: str, namespace: str, port: int, deploy: str = "") -> Place:
    """A Service with a Deployment behind it, of the same name unless told."""
    resources = (Reference("svc", name, namespace), Reference("deploy", deploy or name, namespace))
    return Place(Server(service=name, namespace=namespace, port=port).manifest, resources)


def seldon(deployment: str, predictor: str, namespace: str, port: int = SELDON_HTTP) -> Place:
    """The Service that Seldon makes for each predictor."""
    service = Server(service=f"{deployment}-{predictor}", namespace=namespace, port=port)
    return Place(service.manifest, (Reference("sdep", deployment, namespace, predictor),))
