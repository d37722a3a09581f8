"""The charts traffic-templates and routing-actions: a rollout's routing for versions that the user deploys.

Initialising prints the ModelRollout and, where weights matter, a ConfigMap for each weight; modifying prints only these
ConfigMaps with the annotation, which outlives the candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from router.cluster.backend import SELDON_GRPC, SELDON_HTTP, ModelMesh
from router.cluster.template import place
from router.cluster.template.manifest import (
    STRATEGIES,
    Arm,
    Place,
    rollout,
    traffic,
    weight_config,
    weighted,
)
from router.cluster.template.values import Values
from router.schema import Strategy

MODELMESH_NAMESPACE = "modelmesh-serving"
ENVIRONMENTS = ("kserve-modelmesh", "kserve", "kserve-0.11", "kserve-0.10", "deployment", "seldon")


@dataclass(frozen=True, slots=True)
class _Names:
    """What the two charts call the same values."""

    action: str
    initialize: str
    environment: str
    strategy: str
    name: str
    versions: str
    port: str


_TRAFFIC = _Names(
    "templateName", "initialize-rollout", "targetEnv", "trafficStrategy", "modelName", "modelVersions", "modelPort"
)
_ACTIONS = _Names("action", "initialize", "appType", "strategy", "appName", "appVersions", "appPort")
_MODIFY = "modify-weights"
_MESH = ("modelmeshServingService", "modelmeshServingNamespace", "modelmeshServingPort")
_COMMON = ("mirrorPercentage", "headgateGateway", "iter8Version", *_MESH)


def traffic_templates(values: Values, release: str, namespace: str) -> list[dict[str, Any]]:
    return _documents(values, _TRAFFIC, namespace)


def routing_actions(values: Values, release: str, namespace: str) -> list[dict[str, Any]]:
    return _documents(values, _ACTIONS, namespace)


def _documents(values: Values, names: _Names, namespace: str) -> list[dict[str, Any]]:
    values.known(
        names.action, names.environment, names.strategy, names.name, names.versions, names.port, *_COMMON,
        "externalGateway",
    )  # fmt: skip
    if values.has("externalGateway"):
        hint = "headgateGateway names the group of Envoys that serves the model"
        values.say("externalGateway", "is not used: it names a Gateway of Istio", hint, "warning")
    action = values.choice(names.action, (names.initialize, _MODIFY))
    environment = values.choice(names.environment, ENVIRONMENTS, default="kserve-modelmesh")
    strategy = values.choice(names.strategy, STRATEGIES, f"Unknown {names.strategy}")
    name = values.needed(names.name, "versions are called <name>-0, <name>-1 by default")
    if environment == "kserve-modelmesh":
        namespace = values.text("modelmeshServingNamespace", MODELMESH_NAMESPACE)
    percent = values.whole("mirrorPercentage", None, 0, 100)
    arms = _arms(values, names, environment, strategy, name, namespace, percent)
    if action == _MODIFY:
        return _modified(values, names, strategy, arms, percent)
    made = [rollout(values, name, namespace, strategy, arms)]
    return made + [weight_config(arm) for index, arm in enumerate(arms) if weighted(strategy, index == 0)]


def _arms(
    values: Values, names: _Names, environment: str, strategy: str, name: str, namespace: str, percent: int | None
) -> list[Arm]:
    given = values.parts(names.versions) or [Values({}, names.versions, values.problems) for _ in range(2)]
    default = 100 if strategy == Strategy.MIRROR else 50
    made = []
    for index, version in enumerate(given):
        version.known("name", "namespace", "weight", "match", "matches", "port", "deployment", "predictor")
        space = version.text("namespace", namespace)
        own, where = _place(values, names, version, environment, f"{name}-{index}", space)
        made.append(Arm(own, space, where, traffic(version, strategy, index == 0, default, percent)))
    return made


def _place(
    values: Values, names: _Names, version: Values, environment: str, default: str, namespace: str
) -> tuple[str, Place]:
    """A version's name and where it is served."""
    name = version.text("name", default)
    if environment == "kserve-modelmesh":
        service = values.text("modelmeshServingService", ModelMesh().service)
        space = values.text("modelmeshServingNamespace", MODELMESH_NAMESPACE)
        port = values.port("modelmeshServingPort") or ModelMesh().port
        return name, place.modelmesh(name, namespace, ModelMesh(service, space, port))
    if environment == "seldon":
        return _seldon(values, names, version, name, namespace)
    if environment == "deployment":
        return name, place.deployment(name, namespace, version.port() or values.port(names.port) or 80)
    return name, place.kserve(name, namespace, old=environment == "kserve-0.10")


def _seldon(values: Values, names: _Names, version: Values, name: str, namespace: str) -> tuple[str, Place]:
    """A predictor of one SeldonDeployment for all versions, or a SeldonDeployment of its own with a lone predictor."""
    predictor = version.text("predictor", "default")
    deployment = version.text("deployment", values.text(names.name) if version.has("predictor") else name)
    if version.has("predictor") and not version.has("name"):
        name = f"{deployment}-{predictor}"
    port = version.port() or values.port(names.port) or SELDON_HTTP
    found = place.seldon(deployment, predictor, namespace, port)
    return name, Place(found.backend, found.resources, "h2c" if port == SELDON_GRPC else "")


def _modified(
    values: Values, names: _Names, strategy: str, arms: list[Arm], percent: int | None
) -> list[dict[str, Any]]:
    if strategy == Strategy.CANARY:
        values.say(names.strategy, "canary has no weights to modify", f"change match with {names.initialize}")
        return []
    if strategy == Strategy.BLUE_GREEN:
        if not values.has(names.versions):
            values.say(names.versions, f"{names.versions} is required", "give each version its weight")
        return [weight_config(arm, arm.traffic["weight"]) for arm in arms]
    return [weight_config(arm, _percent(arm)) for arm in arms[1:]]


def _percent(arm: Arm) -> int:
    return int(arm.traffic["mirror"]["percent"]) if "mirror" in arm.traffic else 0
