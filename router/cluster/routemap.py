"""Iter8's routemap, a ConfigMap labelled iter8.tools/kind: routemap, as versions and what it wants of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from router.cluster.objects import Object, part, text
from router.cluster.resource import BUILT_IN, Reference, ResourceType
from router.cluster.routing import Routing, routing
from router.cluster.weight import MAX_UINT32
from router.cluster.written import yaml_value
from router.hints import nearest
from router.problem import Problem
from router.schema import Strategy
from router.values import LABEL_PATTERN, MAX_LABEL, shown

KIND_LABEL = "iter8.tools/kind"
SPEC = "strSpec"
SUFFIX = "-routemap"
MAX_VERSIONS = 32

_SERVING = ("isvc", "sdep", "svc", "service", "sts", "deploy")
"""A version is called after the first of its resources of these kinds: that is what the charts put in app-version."""

_is_label = re.compile(LABEL_PATTERN + r"\Z").match


@dataclass(frozen=True, slots=True)
class RoutemapVersion:
    """`weight` is None where the routemap gives none; annotations may override it (weight.py)."""

    name: str
    resources: tuple[Reference, ...]
    weight: int | None = None


@dataclass(frozen=True, slots=True)
class Routemap:
    """`versions[0]` is the primary. `routing` is None without routing templates."""

    name: str
    namespace: str
    versions: tuple[RoutemapVersion, ...]
    routing: Routing | None = None

    @property
    def application(self) -> str:
        return self.name.removesuffix(SUFFIX) or self.name

    @property
    def where(self) -> str:
        return f"ConfigMap {self.namespace}/{self.name}"

    @property
    def strategy(self) -> Strategy:
        """Without templates Iter8 routes nothing itself, but its Lookup shares users out by weight."""
        return self.routing.strategy if self.routing else Strategy.BLUE_GREEN

    @property
    def hosts(self) -> tuple[str, ...]:
        """Those of the template, else the names that the charts give an application."""
        own = f"{self.application}.{self.namespace}"
        found = self.routing.hosts if self.routing else ()
        return tuple(dict.fromkeys(found)) or (own, f"{own}.svc", f"{own}.svc.cluster.local")

    @property
    def infer_path(self) -> bool:
        """Whether its template rewrites paths, as the KServe charts do (backend.server)."""
        return bool(self.routing and self.routing.paths)

    @property
    def told(self) -> str:
        """How it is understood, in a sentence for status."""
        return self.routing.told if self.routing else "no routing templates: users are shared out by weights"


def is_routemap(configmap: Object) -> bool:
    return text(configmap, "metadata", "labels", KIND_LABEL) == "routemap"


def routemap(
    configmap: Object, *, cluster_scoped: bool = True, types: Mapping[str, ResourceType] = BUILT_IN
) -> tuple[Routemap | None, tuple[Problem, ...]]:
    """Read one; None when it cannot be used, and then a good one that was read before should stay in force."""
    name, namespace = text(configmap, "metadata", "name"), text(configmap, "metadata", "namespace") or "default"
    where = f"ConfigMap {namespace}/{name}"
    spec = part(configmap, "data", SPEC)
    if not isinstance(spec, str):
        hint = f"write the versions under data.{SPEC}"
        return None, (Problem(where, f"data.{SPEC}", "unable to find routemap spec key in configmap", hint),)
    raw, complaint = yaml_value(spec, where)
    if complaint:
        return None, (_not_a_spec(where, complaint),)
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        return None, (_not_a_spec(where, f"it is {shown(raw)}, not a mapping"),)
    return _Reading(name, namespace, where, cluster_scoped, types).read(raw)


def _not_a_spec(where: str, why: str) -> Problem:
    return Problem(where, f"data.{SPEC}", f"cannot unmarshal routemap CM spec: {why}", "see docs/reference.md")


class _Reading:
    """One pass over a spec, which collects everything that is wrong with it."""

    def __init__(
        self, name: str, namespace: str, where: str, cluster_scoped: bool, types: Mapping[str, ResourceType]
    ) -> None:
        self._name, self._namespace, self._where = name, namespace, where
        self._cluster_scoped, self._types = cluster_scoped, types
        self._problems: list[Problem] = []

    def read(self, raw: Object) -> tuple[Routemap | None, tuple[Problem, ...]]:
        self._known(raw, ("versions", "routingTemplates"), "")
        versions = self._versions(raw.get("versions"))
        plan = self._routing(raw.get("routingTemplates"), [one.name for one in versions])
        usable = versions and not any(one.severity == "error" for one in self._problems)
        made = Routemap(self._name, self._namespace, versions, plan) if usable else None
        return made, tuple(self._problems)

    def _versions(self, raw: Any) -> tuple[RoutemapVersion, ...]:
        if raw is not None and not isinstance(raw, list):
            self._unreadable("versions", f"versions is {shown(raw)}, not a list")
            return ()
        if not raw:
            self._say("versions", "routemap must at least one version", "list the primary first")  # Iter8's words
            return ()
        if len(raw) > MAX_VERSIONS:
            self._say("versions", f"has {len(raw)} entries", f"at most {MAX_VERSIONS} are supported")
            return ()
        read = [self._version(one, f"versions[{index}]") for index, one in enumerate(raw)]
        names = list(self._names([resources for resources, _ in read]))
        return tuple(
            RoutemapVersion(name, resources, weight) for name, (resources, weight) in zip(names, read, strict=True)
        )

    def _version(self, raw: Any, at: str) -> tuple[tuple[Reference, ...], int | None]:
        if not isinstance(raw, Mapping):
            self._unreadable(at, f"{at} is {shown(raw)}, not a mapping")
            return (), None
        self._known(raw, ("resources", "weight", "signature"), at)
        listed = raw.get("resources")
        if listed is not None and not isinstance(listed, list):
            self._unreadable(f"{at}.resources", f"{at}.resources is {shown(listed)}, not a list")
            listed = None
        found = [self._resource(one, f"{at}.resources[{index}]") for index, one in enumerate(listed or ())]
        return tuple(one for one in found if one is not None), self._weight(raw.get("weight"), f"{at}.weight")

    def _weight(self, raw: Any, at: str) -> int | None:
        if raw is None or (isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw <= MAX_UINT32):
            return raw
        self._unreadable(at, f"{at} is {shown(raw)}, not a whole number from 0 to {MAX_UINT32}")
        return None

    def _resource(self, raw: Any, at: str) -> Reference | None:
        short, name = text(raw, "gvrShort"), text(raw, "name")
        if not isinstance(raw, Mapping) or not short or not name:
            self._unreadable(at, f"{at} needs gvrShort and name as text")
            return None
        self._known(raw, ("gvrShort", "name", "namespace"), at)
        given = raw.get("namespace")
        if given is not None and not isinstance(given, str):
            self._unreadable(f"{at}.namespace", f"{at}.namespace is {shown(given)}, not text")
            return None
        if short not in self._types:
            near = nearest(short, list(self._types))
            hint = f"did you mean {near!r}?" if near else f"configure it under resourceTypes.{short}"
            what = f"unknown resource type {short!r}: the version will never be ready"
            self._say(f"{at}.gvrShort", what, hint, "warning")
        if given and given != self._namespace and not self._cluster_scoped:
            what = f"expected version resource namespace to match routemap namespace, not {given!r}"
            self._say(f"{at}.namespace", what, "this control plane watches one namespace")
        return Reference(short, name, given or self._namespace)

    def _names(self, resources: list[tuple[Reference, ...]]) -> Iterator[str]:
        taken: set[str] = set()
        for index, listed in enumerate(resources):
            serving = sorted((_SERVING.index(one.short), one.name) for one in listed if one.short in _SERVING)
            others = [one.name for one in listed if not one.optional]
            name = serving[0][1] if serving else others[0] if others else ""
            if not _is_label(name) or len(name) > MAX_LABEL or name in taken:
                name = f"version-{index}"
            while name in taken:
                name += "-x"
            taken.add(name)
            yield name

    def _routing(self, raw: Any, names: list[str]) -> Routing | None:
        if raw is not None and not isinstance(raw, Mapping):
            self._unreadable("routingTemplates", f"routingTemplates is {shown(raw)}, not a mapping")
            return None
        found: list[Routing] = []
        for name, one in (raw or {}).items():
            template = part(one, "template")
            at = f"routingTemplates.{name}"
            if not isinstance(template, str):
                self._unreadable(f"{at}.template", f"{at} has no template")
                continue
            made, problems = routing(str(name), template, names, self._where, f"data.{SPEC}.{at}")
            found.append(made)
            self._problems += [
                Problem(one.where, one.field, one.what, one.hint, "warning")
                for one in problems  # a match that we lack must not take the other versions down
            ]
        wanted = [one for one in found if one.strategy is not Strategy.NONE] or found
        return wanted[0] if wanted else None

    def _known(self, raw: Mapping[Any, Any], known: tuple[str, ...], at: str) -> None:
        for key in raw:
            if key not in known:
                near = nearest(str(key), known)
                hint = f"did you mean {near!r}?" if near else f"known here: {', '.join(known)}"
                self._say(f"{at}.{key}".lstrip("."), f"unknown field {str(key)!r}, which is ignored", hint, "warning")

    def _unreadable(self, at: str, why: str) -> None:
        self._say(at, f"cannot unmarshal routemap CM spec: {why}", "see docs/reference.md")

    def _say(self, at: str, what: str, hint: str, severity: Any = "error") -> None:
        self._problems.append(Problem(self._where, f"data.{SPEC}.{at}", what, hint, severity))
