"""What is known of models, Envoys and problems as JSON-able documents: values in, plain dicts out.

HTTP answers with them and `headgate status` draws them, so that the two never disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from headgate.config import gateway_owner
from router.engine import ModelStatus
from router.health import Health
from router.hints import nearest
from router.plan import Planned, VersionPlan
from router.problem import Problem
from router.schema import ModelRollout
from router.sticky import arm, bucket
from xds import ir
from xds.cache import Cache, Rejection
from xds.fleet import Envoy
from xds.ir import Endpoint, Match, ModelPlan, PathMatch, Route

Document = dict[str, Any]


class State(StrEnum):
    """How a model stands, the worst first."""

    REJECTED = "Rejected"
    """An Envoy would not take the routes; it goes on with those it had."""
    DEGRADED = "Degraded"
    """Something has to be mended: no version is ready, or the manifest has errors and its last good state is used."""
    PENDING = "Pending"
    """Not every Envoy has the routes yet, or none is connected."""
    PROGRAMMED = "Programmed"
    """Every connected Envoy has what is wanted."""


class Lag:
    """Which Envoys do not have which owner's resources yet: asked once per Envoy, not once per model."""

    def __init__(self, envoys: Iterable[Envoy], caches: Mapping[str, Cache]) -> None:
        self._caches = caches
        self._by_gateway: dict[str, list[Envoy]] = {name: [] for name in caches}
        for envoy in envoys:
            self._by_gateway.setdefault(envoy.gateway, []).append(envoy)

    def total(self, gateway: str) -> int:
        return len(self._by_gateway.get(gateway, ()))

    def rejection(self, gateway: str, owner: str) -> Rejection | None:
        cache = self._caches.get(gateway)
        return cache.rejections.get(owner) if cache is not None else None

    def lagging(self, gateway: str, owner: str) -> list[tuple[str, str]]:
        """(node id, why) of each Envoy that has something else than what is wanted."""
        kept = self.rejection(gateway, owner) is not None and not self._caches[gateway].is_accepted(owner)
        found = []
        for envoy in self._by_gateway.get(gateway, ()):
            why = envoy.lagging.get(owner) or ("keeps the last good version" if kept else None)
            if why is not None:
                found.append((envoy.id, why))
        return found


def model_document(
    model: ModelStatus,
    health: Mapping[tuple[str, Endpoint], Health],
    lag: Lag,
    live: Mapping[str, Document] | None = None,
) -> Document:
    """All that is known of one model; `live` is what users get of each version, where somebody tells."""
    rollout, spec = model.rollout, model.rollout.spec
    behind, total = lag.lagging(spec.gateway, rollout.key), lag.total(spec.gateway)
    return {
        "model": rollout.key,
        "namespace": rollout.metadata.namespace,
        "name": rollout.metadata.name,
        "gateway": spec.gateway,
        "hosts": list(spec.hosts),
        "strategy": spec.strategy.value,
        "sticky": spec.sticky.header if spec.sticky else None,
        "state": state_of(model, lag).value,
        "where": model.where,
        "generation": model.generation,
        "updatedAt": timestamp(model.updated_at),
        "versions": [
            {**_version(model, version, health), "live": (live or {}).get(version.name)} for version in model.versions
        ],
        "envoys": _applied(behind, total),
        "rejection": rejection_document(lag.rejection(spec.gateway, rollout.key)),
        "problems": [problem_document(problem) for problem in dict.fromkeys(model.problems)],
        "why": list(model.why),
    }


def _applied(behind: list[tuple[str, str]], total: int) -> Document:
    return {
        "applied": total - len(behind),
        "total": total,
        "lagging": [{"node": node, "why": reason} for node, reason in behind],
    }


def state_of(model: ModelStatus, lag: Lag) -> State:
    """One word for a model: the worst that is true."""
    gateway, key = model.rollout.spec.gateway, model.rollout.key
    if lag.rejection(gateway, key) is not None:
        return State.REJECTED
    if model.plan is None or not model.plan.hosts or not any(one.ready for one in model.versions):
        return State.DEGRADED
    if any(one.severity == "error" for one in model.problems):
        return State.DEGRADED
    return State.PENDING if lag.total(gateway) == 0 or lag.lagging(gateway, key) else State.PROGRAMMED


def _version(model: ModelStatus, version: VersionPlan, health: Mapping[tuple[str, Endpoint], Health]) -> Document:
    return {
        "name": version.name,
        "role": version.role,
        "ready": version.ready,
        "reason": version.reason,
        "since": timestamp(model.since.get(version.name)),
        "weight": version.weight_bp / 100,
        "mirror": version.mirror_percent or None,
        "match": version.match,
        "endpoints": _endpoints(model.rollout, version.name, health),
    }


def _endpoints(rollout: ModelRollout, name: str, health: Mapping[tuple[str, Endpoint], Health]) -> Document | None:
    """How many can serve; None when a broken manifest has just taken the version away."""
    spec = next((one for one in rollout.spec.versions if one.name == name), None)
    if spec is None:
        return None
    endpoints = spec.backend.servers(rollout.metadata.namespace)
    seen = (health.get((name, endpoint)) for endpoint in endpoints)
    ready = len(endpoints) if spec.readiness is None else sum(one is not None and one.ready for one in seen)
    return {"ready": ready, "total": len(endpoints)}


def plan_document(rollout: ModelRollout, planned: Planned) -> Document:
    """What a model's traffic would be: its routes in the order in which Envoy tries them, and why."""
    plan = planned.plan
    return {
        "model": rollout.key,
        "gateway": rollout.spec.gateway,
        "hosts": list(plan.hosts) if plan is not None else [],
        "strategy": rollout.spec.strategy.value,
        "sticky": rollout.spec.sticky.header if rollout.spec.sticky else None,
        "plugins": list(planned.plugins),
        "routes": [_route(route) for route in plan.routes] if plan is not None else [],
        "why": list(planned.why),
    }


def _route(route: Route) -> Document:
    return {
        "name": route.name,
        "match": match_text(route.match),
        "targets": [{"version": one.version, "weight": one.weight / 100} for one in route.targets],
        "mirrors": [{"version": one.version, "percent": one.percent} for one in route.mirrors],
    }


def match_text(match: Match) -> str:
    """A match in words: what a request has to be like."""
    parts = [f"method {match.method}"] if match.method is not None else []
    if match.path != PathMatch():
        parts.append(f"path {_comparison(match.path.kind.value, match.path.value)}")
    for header in match.headers:
        negated = "not " if header.invert else ""
        parts.append(f"header {header.name} {negated}{_comparison(header.kind.value, header.value)}")
    parts += [f"query {query.name} {_comparison(query.kind.value, query.value)}" for query in match.query]
    return " and ".join(parts) or "every request"


def _comparison(kind: str, value: str) -> str:
    words = {"exact": "is", "prefix": "starts with", "suffix": "ends with", "contains": "contains", "regex": "matches"}
    return "present" if kind == "present" else f"{words[kind]} {value!r}"


def arm_document(plan: ModelPlan, key: str) -> Document | None:
    """The version of a sticky user, and how it comes about; None when the model is not sticky, or not served."""
    route = plan.routes[-1] if plan.routes else None
    if route is None or route.hash_header is None:
        return None
    reached, arms = 0, []
    for target in route.targets:
        arms.append({"version": target.version, "from": reached, "to": reached + target.weight})
        reached += target.weight
    return {
        "model": plan.name,
        "key": key,
        "header": route.hash_header,
        "version": arm(route.targets, key),
        "bucket": bucket(key),
        "arms": arms,
        "headerRoutes": sum(one.targets != route.targets for one in plan.routes),
    }


def gateway_document(gateway: ir.Gateway, *, on_demand: bool, models: int, lag: Lag) -> Document:
    """A group of Envoys with its listeners; `rejection` when one of them cannot open a listener, for example."""
    owner = gateway_owner(gateway.name)
    behind, total = lag.lagging(gateway.name, owner), lag.total(gateway.name)
    return {
        "gateway": gateway.name,
        "listeners": [
            {"name": one.name, "address": one.address, "port": one.port, "tls": one.tls is not None}
            for one in gateway.listeners
        ],
        "models": models,
        "onDemand": on_demand,
        "envoys": _applied(behind, total),
        "rejection": rejection_document(lag.rejection(gateway.name, owner)),
    }


def problem_document(problem: Problem) -> Document:
    return {
        "where": problem.where,
        "field": problem.field,
        "what": problem.what,
        "hint": problem.hint,
        "severity": problem.severity,
    }


def rejection_document(rejection: Rejection | None) -> Document | None:
    """Envoy's own words."""
    if rejection is None:
        return None
    return {
        "node": rejection.node,
        "type": rejection.type.name.lower(),
        "resource": rejection.name,
        "version": rejection.version,
        "message": " ".join(rejection.message.split()),
    }


def envoy_document(envoy: Envoy) -> Document:
    """One connected client."""
    return {
        "node": envoy.id,
        "gateway": envoy.gateway,
        "address": envoy.address,
        "variant": envoy.variant,
        "version": envoy.version,
        "connectedAt": timestamp(envoy.connected_at),
        "lagging": [{"owner": owner, "why": why} for owner, why in envoy.lagging.items()],
        "rejection": rejection_document(envoy.last_rejection),
    }


def timestamp(seconds: float | None) -> str | None:
    """Unix time as people and programs read it; 0 means that nobody knows."""
    if not seconds:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def unknown(kind: str, name: str, known: Iterable[str]) -> Document:
    """The answer to a name that is not there: what was probably meant, or what there is."""
    names = sorted(known)
    near = _nearest_model(name, names)
    if near is not None:
        hint = f"did you mean {near!r}?"
    elif names:
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        hint = f"known: {', '.join(names[:10])}{more}"
    else:
        hint = f"there is no {kind} at all"
    return {"error": f"no {kind} {name!r}", "hint": hint}


def _nearest_model(name: str, names: list[str]) -> str | None:
    """By the name alone: a namespace that they share makes no two models alike."""
    namespace, _, rest = name.rpartition("/")
    elsewhere = {one.rpartition("/")[2]: one for one in names}
    here = {one.rpartition("/")[2]: one for one in names if one.rpartition("/")[0] == namespace}
    for known in ({rest: elsewhere[rest]} if rest in elsewhere else {}, here, elsewhere):
        if near := nearest(rest, list(known)):
            return known[near]
    return None


def worst_first(models: Iterable[Document]) -> Iterator[Document]:
    """Those that need somebody first, then by name."""
    order = {state.value: rank for rank, state in enumerate(State)}
    return iter(sorted(models, key=lambda one: (order[one["state"]], one["model"])))
