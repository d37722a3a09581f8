"""The kinds of Kubernetes resources that a version may consist of, and references to single ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from router.cluster.objects import part
from router.hints import nearest
from router.problem import Problem
from router.values import shown

WEIGHT_CONFIG = "-weight-config"
"""End of the name of a ConfigMap that does nothing but carry a version's weight annotation."""


class Rule(StrEnum):
    """How readiness is read from an object, apart from its deletion mark."""

    CONDITIONS = "conditions"
    STATE = "state"
    REPLICAS = "replicas"


@dataclass(frozen=True, slots=True)
class ResourceType:
    """`short` is what references say (Iter8: gvrShort). Without conditions an object is ready when it exists."""

    short: str
    group: str
    version: str
    resource: str
    kind: str = ""
    conditions: tuple[str, ...] = ()
    rule: Rule = Rule.CONDITIONS

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def url_path(self) -> str:
        """Where the API server lists all of them."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return f"{root}/{self.resource}"


def _built_in() -> Iterator[ResourceType]:
    yield ResourceType("svc", "", "v1", "services", "Service")
    yield ResourceType("service", "", "v1", "services", "Service")
    yield ResourceType("cm", "", "v1", "configmaps", "ConfigMap")
    yield ResourceType("deploy", "apps", "v1", "deployments", "Deployment", ("Available",))
    yield ResourceType("isvc", "serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService", ("Ready",))
    yield ResourceType("vs", "networking.istio.io", "v1beta1", "virtualservices", "VirtualService")
    yield ResourceType("httproute", "gateway.networking.k8s.io", "v1beta1", "httproutes", "HTTPRoute")
    yield ResourceType(
        "sdep", "machinelearning.seldon.io", "v1", "seldondeployments", "SeldonDeployment", rule=Rule.STATE
    )
    yield ResourceType("sts", "apps", "v1", "statefulsets", "StatefulSet", rule=Rule.REPLICAS)
    yield ResourceType("mr", "headgate.dev", "v1alpha1", "modelrollouts", "ModelRollout", ("Ready",))


BUILT_IN: Mapping[str, ResourceType] = MappingProxyType({one.short: one for one in _built_in()})


def resource_types(
    configured: Any, where: str = "configuration", field: str = "resourceTypes"
) -> tuple[dict[str, ResourceType], tuple[Problem, ...]]:
    """The built-in types and those of the configuration, which win.

    Keys may be written as Iter8 does (Group, Version, Resource) or in lower case.
    """
    types = dict(BUILT_IN)
    problems: list[Problem] = []
    if configured is None:
        return types, ()
    if not isinstance(configured, Mapping):
        return types, (Problem(where, field, f"must be a mapping, not {shown(configured)}", "write short-name: {...}"),)
    for short, raw in configured.items():
        at = f"{field}.{short}"
        if not isinstance(short, str) or not isinstance(raw, Mapping):
            problems.append(Problem(where, at, f"must be a mapping, not {shown(raw)}", "give version and resource"))
            continue
        found, faults = _configured(short, raw, where, at)
        problems += faults
        if found is not None:
            types[short] = found
    return types, tuple(problems)


def _configured(
    short: str, raw: Mapping[str, Any], where: str, at: str
) -> tuple[ResourceType | None, tuple[Problem, ...]]:
    fields = {str(key).lower(): (str(key), value) for key, value in raw.items()}
    known = ("group", "version", "resource", "kind", "conditions")
    problems: list[Problem] = []
    for name, (written, _) in fields.items():
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {near!r}?" if near else f"known here: {', '.join(known)}"
            problems.append(Problem(where, f"{at}.{written}", f"unknown field {written!r}", hint))
    texts = {}
    for name in ("group", "version", "resource", "kind"):
        written, value = fields.get(name, (name, None))
        if value is not None and not isinstance(value, str):
            problems.append(Problem(where, f"{at}.{written}", f"must be text, not {shown(value)}", "put it in quotes"))
        elif not value and name in ("version", "resource"):
            problems.append(Problem(where, f"{at}.{name}", "is missing", "it is required"))
        texts[name] = value if isinstance(value, str) else ""
    conditions, faults = _conditions(fields.get("conditions", ("conditions", None))[1], where, f"{at}.conditions")
    problems += faults
    if problems:
        return None, tuple(problems)
    like = BUILT_IN.get(short)
    same = like is not None and (like.group, like.resource) == (texts["group"], texts["resource"])
    kind = texts["kind"] or (like.kind if same and like else "")
    rule = like.rule if same and like and not conditions else Rule.CONDITIONS
    return ResourceType(short, texts["group"], texts["version"], texts["resource"], kind, conditions, rule), ()


def _conditions(raw: Any, where: str, at: str) -> tuple[tuple[str, ...], tuple[Problem, ...]]:
    """A list of names; Iter8 up to 0.15 wrote {name: Ready, status: "True"}."""
    if raw is None:
        return (), ()
    if not isinstance(raw, list | tuple):
        return (), (Problem(where, at, f"must be a list, not {shown(raw)}", "write for example [Ready]"),)
    names: list[str] = []
    problems: list[Problem] = []
    for index, one in enumerate(raw):
        name = part(one, "name") if isinstance(one, Mapping) else one
        if not isinstance(name, str) or not name:
            problems.append(Problem(where, f"{at}[{index}]", f"{shown(one)} is not the type of a condition"))
        elif isinstance(one, Mapping) and str(one.get("status", "True")).lower() != "true":
            hint = "only conditions that become True can be waited for"
            problems.append(
                Problem(where, f"{at}[{index}].status", f"{shown(one.get('status'))} is not supported", hint)
            )
        else:
            names.append(name)
    return tuple(names), tuple(problems)


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """One resource of a version. `inside` names a part of it: the predictor of a SeldonDeployment."""

    short: str
    name: str
    namespace: str
    inside: str = ""

    @property
    def optional(self) -> bool:
        """A ConfigMap that only carries a weight: where it is missing nothing is overridden, and nothing else is wrong.

        Iter8 waited for it, so that its mirror chart, which lists one that it never creates, had no ready primary.
        """
        return self.short == "cm" and self.name.endswith(WEIGHT_CONFIG)

    def __str__(self) -> str:
        return self.written("")

    def written(self, namespace: str) -> str:
        """As a rollout in this namespace may write it."""
        place = "" if self.namespace == namespace else f"{self.namespace}/"
        return f"{self.short}/{place}{self.name}" + (f"#{self.inside}" if self.inside else "")


def reference(written: str, namespace: str) -> Reference | None:
    """Read TYPE/NAME, TYPE/NAMESPACE/NAME, either with #PART; None when it is neither."""
    whole, _, inside = written.partition("#")
    match whole.split("/"):
        case [short, name] if short and name:
            return Reference(short, name, namespace, inside)
        case [short, space, name] if short and space and name:
            return Reference(short, name, space, inside)
    return None
