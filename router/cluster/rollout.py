"""From a routemap, with what the cluster says of its versions, to the ModelRollout that it amounts to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.cluster.backend import Server
from router.cluster.match import DEFAULT_MATCH
from router.cluster.routemap import Routemap, RoutemapVersion
from router.cluster.routing import Routing
from router.cluster.weight import DEFAULT_WEIGHT, fitted
from router.manifests import read
from router.problem import Problem
from router.schema import API_VERSION, KIND, Mirror, ModelRollout, Strategy, Version
from xds.ir import Protocol


def rollout(
    found: Routemap, servers: Mapping[str, Server], overrides: Mapping[str, int] | None = None, *, gateway: str = ""
) -> tuple[ModelRollout | None, tuple[Problem, ...]]:
    """`servers` and `overrides` (weight.override) by version; a version without a server is not there yet."""
    given = overrides or {}
    wanted = {one.name: given.get(one.name, _spec(one)) for one in found.versions}
    weights = wanted if found.strategy is Strategy.MIRROR else fitted(wanted)
    problems: list[Problem] = []
    versions = [
        {
            "name": one.name,
            **_place(one, servers.get(one.name)),
            **_traffic(found, index, weights[one.name], problems),
        }
        for index, one in enumerate(found.versions)
    ]
    raw = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": found.application, "namespace": found.namespace},
        "spec": {
            "hosts": list(found.hosts),
            **({"gateway": gateway} if gateway else {}),
            "strategy": found.strategy.value,
            "versions": versions,
        },
    }
    made = read(raw, found.where)
    if isinstance(made, tuple):
        return None, (*problems, *made)
    return made, tuple(problems)


def reweighted(wanted: ModelRollout, overrides: Mapping[str, int]) -> tuple[ModelRollout, tuple[Problem, ...]]:
    """The same rollout with annotated weights in place of its own; of a mirrored version it is the percentage."""
    mirrored = {one.name for one in wanted.spec.versions if _mirrored(wanted, one)}
    own = {one.name: one.weight for one in wanted.spec.versions if one.weight is not None}
    weights = fitted(own | {name: one for name, one in overrides.items() if name not in mirrored})
    problems: list[Problem] = []
    versions = []
    for one in wanted.spec.versions:
        changes: dict[str, Any] = {}
        if one.name not in mirrored and one.name in weights:
            changes = {"weight": weights[one.name]}
        elif one.name in mirrored and one.name in overrides:
            percent = _percent(overrides[one.name], f"{KIND} {wanted.key}", one.name, problems)
            copy = (one.mirror or Mirror()).model_copy(update={"percent": percent})
            changes = {"mirror": copy} if percent else {"mirror": None, "weight": one.weight or 0}
        versions.append(one.model_copy(update=changes))
    if tuple(versions) == wanted.spec.versions:
        return wanted, tuple(problems)
    spec = wanted.spec.model_copy(update={"versions": tuple(versions)})
    return wanted.model_copy(update={"spec": spec}), tuple(problems)


def _spec(version: RoutemapVersion) -> int:
    return DEFAULT_WEIGHT if version.weight is None else version.weight


def _place(version: RoutemapVersion, server: Server | None) -> dict[str, Any]:
    place: dict[str, Any] = {"resources": [str(one) for one in version.resources]} if version.resources else {}
    if server is not None:
        place["backend"] = server.manifest
        if server.protocol is not Protocol.AUTO:
            place["protocol"] = server.protocol.value
    elif not version.resources:
        place["backend"] = {"service": {"name": version.name, "port": 80}}
    return place


def _traffic(found: Routemap, index: int, weight: int, problems: list[Problem]) -> dict[str, Any]:
    """Of one version. A weight of 0 switches a match or a copy off, as the charts' templates do."""
    strategy = found.strategy
    plan = found.routing or Routing("", strategy)
    if strategy is Strategy.BLUE_GREEN:
        return {"weight": weight}
    if index == 0 or strategy is Strategy.NONE:
        return {}
    if weight == 0:
        return {"weight": 0}
    if strategy is Strategy.CANARY:
        return {"match": plan.matches.get(index) or [dict(DEFAULT_MATCH)]}
    percent = plan.mirrors.get(index)
    if percent is not None:
        return {"mirror": {"percent": percent}}
    return {"mirror": {"percent": _percent(weight, found.where, found.versions[index].name, problems)}}


def _mirrored(wanted: ModelRollout, version: Version) -> bool:
    silent = version.weight is None and not version.match
    by_strategy = silent and wanted.spec.strategy is Strategy.MIRROR and version is not wanted.primary
    return version.mirror is not None or by_strategy


def _percent(weight: int, where: str, name: str, problems: list[Problem]) -> float:
    if weight > 100:
        what = f"{weight} % of the traffic cannot be copied, 100 % is"
        problems.append(Problem(where, name, what, "weights of mirrored versions are percentages", "warning"))
    return float(min(weight, 100))
