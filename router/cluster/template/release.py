"""The release chart: the versions of an application and how they share its traffic, from one file of values.

The address of the application, for which Iter8 makes an ExternalName, a ServiceEntry or an empty Service, is a host of
the ModelRollout here.
"""

from __future__ import annotations

from typing import Any

from router.cluster.backend import DEPLOYMENT_MODE, ModelMesh
from router.cluster.objects import part, whole
from router.cluster.template import place
from router.cluster.template.manifest import WATCH, Arm, Place, rollout, traffic, weight_config, weighted
from router.cluster.template.values import Values
from router.schema import Strategy

DEPLOYMENTS = ("deployment", "deployment-gtw", "deployment-istio")
MODELMESH = ("kserve-modelmesh", "kserve-modelmesh-istio")
KSERVE = ("kserve", "kserve-0.11", "kserve-0.10")
ENVIRONMENTS = (*DEPLOYMENTS, *MODELMESH, *KSERVE)
STRATEGIES = tuple(one.value for one in Strategy)
_VERSION = (
    "metadata", "weight", "match", "matches", "image", "port", "deploymentSpecification", "serviceSpecification",
    "inferenceServiceSpecification", "storageUri", "modelFormat", "runtime", "protocolVersion", "ports",
)  # fmt: skip


def documents(values: Values, release: str, namespace: str) -> list[dict[str, Any]]:
    """The objects of every version, the ModelRollout, and the ConfigMaps for its weights."""
    values.known("environment", "application", "service", "headgateGateway", "iter8Version", "gateway", "istioGateway")
    for key in ("gateway", "istioGateway"):
        if values.has(key):
            hint = "headgateGateway names the group of Envoys that serves the model"
            values.say(key, "is not used: it names a Gateway of the mesh", hint, "warning")
    environment = values.needed("environment", f"use one of {', '.join(ENVIRONMENTS)}")
    if environment and environment not in ENVIRONMENTS:
        values.choice("environment", ENVIRONMENTS, f"Unknown environment: '{environment}'")
    if not values.has("application"):
        values.say("application", "application is required", "describe its versions")
    app = values.part("application")
    app.known("metadata", "strategy", "port", "versions", "modelFormat", "runtime", "protocolVersion", "ports", "hosts")
    asked = app.text("strategy", Strategy.NONE.value)
    failure = f"unknown or invalid application strategy ({asked}) for environment ({environment})"
    strategy = app.choice("strategy", STRATEGIES, failure, default=Strategy.NONE.value)
    about = app.part("metadata")
    about.known("name", "namespace", "labels", "annotations")
    name, space = about.text("name", release), about.text("namespace", namespace)
    versions = app.parts("versions")
    if values.has("application") and not versions:
        app.say("versions", "is missing", "list the primary first")
    made: list[dict[str, Any]] = []
    arms: list[Arm] = []
    for index, version in enumerate(versions):
        version.known(*_VERSION)
        one = _Version(values, app, version, environment, f"{name}-{index}", space)
        made += one.objects()
        arms.append(Arm(one.name, one.namespace, one.place(), traffic(version, strategy, index == 0, 50, None)))
    if not arms:
        return []
    annotations = about.strings("annotations")
    made.append(rollout(values, name, space, strategy, arms, labels=about.strings("labels"), annotations=annotations))
    return made + [weight_config(arm) for index, arm in enumerate(arms) if weighted(strategy, index == 0)]


class _Version:
    """One version of the application and the objects it consists of."""

    def __init__(
        self, values: Values, app: Values, version: Values, environment: str, default: str, namespace: str
    ) -> None:
        self._values, self._app, self._version, self._environment = values, app, version, environment
        about = version.part("metadata")
        about.known("name", "namespace", "labels", "annotations")
        self._labels = {
            **app.part("metadata").strings("labels"), **about.strings("labels"), WATCH: "true"
        }  # fmt: skip
        self._annotations = {**app.part("metadata").strings("annotations"), **about.strings("annotations")}
        self.namespace = about.text("namespace", namespace)
        self._base = about.text("name", default)

    @property
    def name(self) -> str:
        """What serves the version: a specification may give its object a name of its own."""
        key = "serviceSpecification" if self._environment in DEPLOYMENTS else "inferenceServiceSpecification"
        return self._version.part(key).part("metadata").text("name", self._base)

    def place(self) -> Place:
        if self._environment in DEPLOYMENTS:
            deploy = self._version.part("deploymentSpecification").part("metadata").text("name", self._base)
            return place.deployment(self.name, self.namespace, self._port(), deploy)
        if self._environment in MODELMESH:
            service = self._values.part("service")
            port = service.port() or ModelMesh().port
            mesh = ModelMesh(port=port)
            return place.modelmesh(self.name, self.namespace, mesh, service.text("host"))
        old = self._environment == "kserve-0.10"
        return place.kserve(self.name, self.namespace, old=old, grpc=self._grpc())

    def objects(self) -> list[dict[str, Any]]:
        if self._environment in DEPLOYMENTS:
            return [self._deployment(), self._service()]
        return [self._inference_service()] if self._environment in ENVIRONMENTS else []

    def _port(self) -> int:
        spec = self._version.part("serviceSpecification").raw
        own = whole(spec, "spec", "ports", 0, "port") or whole(spec, "ports", 0, "port")
        return own or self._version.port() or self._app.port() or 80

    def _metadata(self, given: Values, extra: dict[str, str] | None = None) -> dict[str, Any]:
        """Common metadata, over which those of a specification win, except that it stays watched."""
        about = given.part("metadata")
        made: dict[str, Any] = {
            **about.raw,
            "name": about.text("name", self._base),
            "namespace": self.namespace,
            "labels": {**self._labels, **about.strings("labels"), WATCH: "true"},
        }
        annotations = {**(extra or {}), **self._annotations, **about.strings("annotations")}
        return made | ({"annotations": annotations} if annotations else {})

    def _deployment(self) -> dict[str, Any]:
        given = self._version.part("deploymentSpecification")
        made: dict[str, Any] = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": self._metadata(given)}
        if given.raw:
            return made | {"spec": part(given.raw, "spec") or {}}
        image = self._version.text("image")
        if not image:
            what = "missing field: image required when deploymentSpecification absent"
            self._version.say("image", what, "name a container image")
        selector = {"app": self._base}
        container = {"name": self._base, "image": image, "ports": [{"containerPort": self._port()}]}
        template = {"metadata": {"labels": selector}, "spec": {"containers": [container]}}
        return made | {"spec": {"selector": {"matchLabels": selector}, "template": template}}

    def _service(self) -> dict[str, Any]:
        given = self._version.part("serviceSpecification")
        made: dict[str, Any] = {"apiVersion": "v1", "kind": "Service", "metadata": self._metadata(given)}
        spec = part(given.raw, "spec") or {key: value for key, value in given.raw.items() if key != "metadata"}
        if spec and not part(spec, "ports"):
            self._version.say("serviceSpecification.spec.ports", "is missing", "give it a port")
        return made | {"spec": {"selector": {"app": self._base}, "ports": [{"port": self._port()}], **spec}}

    def _inference_service(self) -> dict[str, Any]:
        given = self._version.part("inferenceServiceSpecification")
        mesh = self._environment in MODELMESH
        extra = {DEPLOYMENT_MODE: "ModelMesh"} if mesh else None
        made: dict[str, Any] = {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": self._metadata(given, extra),
        }
        if given.raw:
            return made | {"spec": part(given.raw, "spec") or {}}
        storage, form = self._version.text("storageUri"), self._inherited("modelFormat")
        for key, value in (("storageUri", storage), ("modelFormat", form)):
            if not value:
                what = f"missing field: {key} required when inferenceServiceSpecification absent"
                self._version.say(key, what, "both are needed")
        model: dict[str, Any] = {"modelFormat": {"name": form}, "storageUri": storage}
        if mesh:
            return made | {"spec": {"predictor": {"model": model}}}
        for key in ("runtime", "protocolVersion", "ports"):
            if (value := self._inherited(key)) is not None:
                model[key] = value
        return made | {"spec": {"predictor": {"minReplicas": 1, "model": model}}}

    def _inherited(self, key: str) -> Any:
        """The version's own, else the application's."""
        own = self._version.raw.get(key)
        return self._app.raw.get(key) if own is None else own

    def _grpc(self) -> bool:
        spec = self._version.part("inferenceServiceSpecification").raw
        ports = self._inherited("ports") or part(spec, "spec", "predictor", "model", "ports")
        return part(ports, 0, "name") in ("h2c", "grpc") or str(self._inherited("protocolVersion")).startswith("grpc")
