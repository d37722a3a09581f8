"""Where a version's requests go, found from its Kubernetes resources.

svc (+ deploy, sts)      the Service, endpoints from its EndpointSlices; ExternalName: by DNS
isvc, ModelMesh          the one gRPC server that all models share, told apart by mm-vmodel-id
isvc, KServe             Service <isvc>-predictor; Host and, where asked, path rewritten
sdep                     Service <sdep>-<predictor>
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from router.cluster.objects import Object, mappings, part, text, whole
from router.cluster.readiness import Find
from router.cluster.resource import Reference
from router.problem import Problem
from xds.ir import Headers, Protocol

MODEL_HEADER = "mm-vmodel-id"
DEPLOYMENT_MODE = "serving.kserve.io/deploymentMode"
SELDON_SERVICE = "seldon.io/svc-name"
SELDON_HTTP, SELDON_GRPC = 8000, 5001
CLUSTER_DOMAIN = "svc.cluster.local"

_H2C = ("h2c", "grpc", "http2", "grpc-web")
_USUAL = ("http", "http1", "http2", "h2c", "grpc", "rest", "web")


@dataclass(frozen=True, slots=True)
class ModelMesh:
    """The server that ModelMesh's models share, where their own status does not name one."""

    service: str = "modelmesh-serving"
    namespace: str = "modelmesh-serving"
    port: int = 8033


@dataclass(frozen=True, slots=True)
class Server:
    """`service` in `namespace`, or a DNS name under `host` when there is no Service to watch.

    `dns`: resolve the name instead of reading EndpointSlices. `shared`: other versions are served there too.
    `host_rewrite` and `path_rewrite` replace the request's Host and whole path; empty leaves them as they are.
    """

    service: str = ""
    namespace: str = ""
    host: str = ""
    port: int | str = 80
    protocol: Protocol = Protocol.AUTO
    dns: bool = False
    shared: bool = False
    host_rewrite: str = ""
    path_rewrite: str = ""
    request_headers: Headers = ()

    @property
    def address(self) -> str:
        """Its DNS name."""
        return self.host or f"{self.service}.{self.namespace}.{CLUSTER_DOMAIN}"

    @property
    def manifest(self) -> dict[str, Any]:
        """As a ModelRollout's backend."""
        named = {"host": self.host} if self.host else {"name": self.service, "namespace": self.namespace}
        service = {**named, "port": self.port if isinstance(self.port, int) else 80}
        if self.shared:
            return {"shared": {"service": service, "requestHeaders": dict(self.request_headers)}}
        return {"service": service}


def server(
    resources: Sequence[Reference],
    find: Find,
    *,
    modelmesh: ModelMesh = ModelMesh(),
    infer: bool = False,
) -> Server | Problem:
    """Of one version. `infer`: send KServe requests to /v2/models/<isvc>/infer whatever path they come with."""
    for shorts in (("isvc",), ("sdep",), ("svc", "service"), ("sts",), ("deploy",)):
        for one in resources:
            if one.short in shorts:
                return _of(one, find, modelmesh, infer)
    listed = ", ".join(map(str, resources)) or "nothing"
    hint = "list an isvc, sdep, svc, sts or deploy"
    return Problem(listed, "", "no resource of the version can receive requests", hint)


def _of(one: Reference, find: Find, modelmesh: ModelMesh, infer: bool) -> Server | Problem:
    obj = find(one)
    if one.short in ("svc", "service"):
        return _service(one, obj)
    if one.short in ("sts", "deploy"):
        governing = text(obj, "spec", "serviceName") if one.short == "sts" else ""
        named = Reference("svc", governing or one.name, one.namespace)
        return _service(named, find(named), of=one)
    if obj is None:
        return Problem(str(one), "", "does not exist", "create it, or take the version out")
    return _inference_service(one, obj, modelmesh, infer) if one.short == "isvc" else _seldon(one, obj)


def _service(one: Reference, obj: Object | None, of: Reference | None = None) -> Server | Problem:
    if obj is None:
        if of is not None:
            hint = f"create Service {one.name}, or list the one that leads there"
            return Problem(str(of), "", f"has no Service {one.namespace}/{one.name} in front", hint)
        return Problem(str(one), "", "does not exist", "create it, or take the version out")
    ports = [each for each in mappings(obj, "spec", "ports") if each.get("protocol") in (None, "TCP")]
    usual = [each for each in ports if _port_word(each) in _USUAL]
    port = (usual or ports or [{}])[0]
    if text(obj, "spec", "type") == "ExternalName":
        host = text(obj, "spec", "externalName").rstrip(".").lower()
        if not host:
            return Problem(str(one), "spec.externalName", "is missing", "name a DNS host")
        return Server(host=host, port=whole(port, "port") or 80, protocol=_protocol(port), dns=True, host_rewrite=host)
    number = whole(port, "port")
    if number is None:
        return Problem(str(one), "spec.ports", "has no TCP port", "give it one")
    return Server(service=one.name, namespace=one.namespace, port=number, protocol=_protocol(port))


def _port_word(port: Object) -> str:
    """What kind of port it is: appProtocol, else the name up to its first dash, as in Istio."""
    declared = text(port, "appProtocol").lower().removeprefix("kubernetes.io/")
    return declared or text(port, "name").lower().split("-")[0]


def _protocol(port: Object) -> Protocol:
    word = _port_word(port)
    if word in _H2C:
        return Protocol.H2C
    return Protocol.HTTP1 if word in ("http", "http1") else Protocol.AUTO


def infer_path(model: str) -> str:
    """Where KServe's V2 protocol takes requests for a model."""
    return f"/v2/models/{model}/infer"


def _inference_service(one: Reference, obj: Object, modelmesh: ModelMesh, infer: bool) -> Server:
    mode = text(obj, "metadata", "annotations", DEPLOYMENT_MODE) or text(obj, "status", "deploymentMode")
    if mode.lower() == "modelmesh":
        return _modelmesh(one, obj, modelmesh)
    service = _predictor(one, obj)
    host = f"{service}.{one.namespace}.{CLUSTER_DOMAIN}"
    raw = mode.lower() in ("rawdeployment", "standard")
    return Server(
        service=service,
        namespace=one.namespace,
        protocol=Protocol.H2C if _speaks_grpc(obj) else Protocol.AUTO,
        dns=not raw,  # Knative's Service is an ExternalName of its gateway, which finds the model by its Host
        host_rewrite=host,
        path_rewrite=infer_path(one.name) if infer else "",
    )


def _modelmesh(one: Reference, obj: Object, modelmesh: ModelMesh) -> Server:
    reported = text(obj, "status", "components", "predictor", "grpcUrl") or text(obj, "status", "url")
    service, namespace, port = modelmesh.service, modelmesh.namespace, modelmesh.port
    host = ""
    if reported.startswith("grpc://") and (found := _netloc(reported)):
        labels = found[0].split(".")
        if len(labels) == 2 or (len(labels) > 2 and labels[2] == "svc"):
            service, namespace, port = labels[0], labels[1], found[1] or port
        elif len(labels) > 2:
            host, port = found[0], found[1] or port
    return Server(
        service="" if host else service,
        namespace="" if host else namespace,
        host=host,
        port=port,
        protocol=Protocol.H2C,
        dns=bool(host),
        shared=True,
        request_headers=((MODEL_HEADER, one.name),),
    )


def _netloc(url: str) -> tuple[str, int | None] | None:
    try:
        parts = urlsplit(url)
        return (parts.hostname, parts.port) if parts.hostname else None
    except ValueError:
        return None


def _predictor(one: Reference, obj: Object) -> str:
    """KServe up to 0.10 called the Service <isvc>-predictor-default; the status tells."""
    for path in (("status", "components", "predictor", "url"), ("status", "components", "predictor", "address", "url")):
        found = _netloc(text(obj, *path))
        label = found[0].split(".")[0] if found else ""
        if label in (f"{one.name}-predictor", f"{one.name}-predictor-default"):
            return label
        if label == f"{one.name}-predictor-default-{one.namespace}":
            return f"{one.name}-predictor-default"
    return f"{one.name}-predictor"


def _speaks_grpc(obj: Object) -> bool:
    model = part(obj, "spec", "predictor", "model")
    containers = mappings(obj, "spec", "predictor", "containers")
    ports = [*mappings(model, "ports"), *(port for one in containers for port in mappings(one, "ports"))]
    return any(_port_word(port) in _H2C for port in ports) or text(model, "protocolVersion").startswith("grpc")


def _seldon(one: Reference, obj: Object) -> Server | Problem:
    predictors = mappings(obj, "spec", "predictors")
    named = [each for each in predictors if not one.inside or text(each, "name") == one.inside]
    if len(named) != 1:
        known = ", ".join(text(each, "name") for each in predictors) or "none"
        what = f"no predictor is called {one.inside!r}" if one.inside else f"has {len(predictors)} predictors"
        return Problem(str(one), "spec.predictors", f"{what} (there are: {known})", "write sdep/NAME#PREDICTOR")
    predictor = named[0]
    service = text(predictor, "annotations", SELDON_SERVICE) or f"{one.name}-{text(predictor, 'name')}"
    grpc = text(obj, "spec", "transport").lower() == "grpc"
    return Server(
        service=service,
        namespace=one.namespace,
        port=SELDON_GRPC if grpc else SELDON_HTTP,
        protocol=Protocol.H2C if grpc else Protocol.AUTO,
    )
