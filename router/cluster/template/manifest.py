"""The manifests that the templates are made of: the ModelRollout and the weight-config ConfigMaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from router.cluster.match import DEFAULT_MATCH, matches
from router.cluster.resource import WEIGHT_CONFIG, Reference
from router.cluster.template.values import WHERE, Values
from router.cluster.weight import WEIGHT
from router.manifests import read
from router.schema import API_VERSION, KIND, Strategy

WATCH = "iter8.tools/watch"
STRATEGIES = tuple(one.value for one in Strategy if one is not Strategy.NONE)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a version is served: a ModelRollout's backend, what is spoken there, and the resources behind it.

    `rewrite` is what the server needs to find the model.
    """

    backend: dict[str, Any]
    resources: tuple[Reference, ...]
    protocol: str = ""
    rewrite: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Arm:
    """One version; `traffic` holds its weight, match or mirror."""

    name: str
    namespace: str
    place: Place
    traffic: dict[str, Any]


def traffic(version: Values, strategy: str, primary: bool, weight: int, percent: int | None) -> dict[str, Any]:
    """What the strategy gives one version; `weight` and `percent` are used where it says nothing itself."""
    if strategy == Strategy.BLUE_GREEN:
        return {"weight": version.weight(weight)}
    if primary or strategy == Strategy.NONE:
        return {}
    if strategy == Strategy.CANARY:
        key = "matches" if version.has("matches") else "match"
        if not version.raw.get(key):
            return {"match": [dict(DEFAULT_MATCH)]}
        found, problems = matches(version.raw[key], WHERE, version.field(key))
        version.problems += problems
        return {"match": found}
    copied = version.whole("weight", weight, 0, 100) if percent is None else percent
    return {"mirror": {"percent": copied}} if copied else {"weight": 0}


def weighted(strategy: str, primary: bool) -> bool:
    """Whether a version gets a weight-config, whose annotation overrides its weight or percentage later."""
    return strategy == Strategy.BLUE_GREEN or (strategy == Strategy.MIRROR and not primary)


def rollout(
    values: Values,
    name: str,
    namespace: str,
    strategy: str,
    arms: Sequence[Arm],
    *,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The ModelRollout, held against the schema as `kubectl apply` would be."""
    own = f"{name}.{namespace}"
    gateway = values.text("headgateGateway")
    metadata: dict[str, Any] = {"name": name, "namespace": namespace}
    if labels:
        metadata["labels"] = labels
    if annotations:
        metadata["annotations"] = annotations
    protocols = {one.place.protocol for one in arms}
    common = protocols.pop() if len(protocols) == 1 else ""
    spec: dict[str, Any] = {"hosts": [own, f"{own}.svc", f"{own}.svc.cluster.local"]}
    if gateway:
        spec["gateway"] = gateway
    if common:
        spec["protocol"] = common
    spec["strategy"] = strategy
    spec["versions"] = [
        _version(one, common, namespace, weighted(strategy, index == 0)) for index, one in enumerate(arms)
    ]
    made = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}
    if not any(one.severity == "error" for one in values.problems):
        found = read(made, f"{WHERE}, as ModelRollout {name or '?'}")
        values.problems += found if isinstance(found, tuple) else ()
    return made


def weight_config(arm: Arm, weight: int | None = None) -> dict[str, Any]:
    """The ConfigMap for a version's weight, in the version's own namespace, where it is looked for."""
    metadata: dict[str, Any] = {
        "name": f"{arm.name}{WEIGHT_CONFIG}",
        "namespace": arm.namespace,
        "labels": {WATCH: "true"},
    }
    if weight is not None:
        metadata["annotations"] = {WEIGHT: str(weight)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def weight_reference(arm: Arm) -> Reference:
    return Reference("cm", f"{arm.name}{WEIGHT_CONFIG}", arm.namespace)


def _version(arm: Arm, common: str, namespace: str, weighted: bool) -> dict[str, Any]:
    resources = (*arm.place.resources, *((weight_reference(arm),) if weighted else ()))
    made: dict[str, Any] = {
        "name": arm.name,
        "backend": arm.place.backend,
        "resources": [one.written(namespace) for one in resources],
    }
    if arm.place.rewrite:
        made["rewrite"] = dict(arm.place.rewrite)
    if arm.place.protocol and arm.place.protocol != common:
        made["protocol"] = arm.place.protocol
    return made | arm.traffic
