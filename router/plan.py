"""From a rollout, what is observed and remembered, to the model's traffic as Envoy shall see it, and why.

1. header routes, in the order of the versions: match -> one version
2. the weighted route, which matches all: arms by sticky layout, mirrors attached
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from router import schema
from router.observe import Observed
from router.policy import Wish, wishes
from router.problem import Problem
from router.schema import ModelRollout, Version
from router.step import RolloutState
from router.sticky import layout
from router.values import duration_text, endpoint_text, regex_size
from router.weights import heir, scaled, share
from xds.ir import VERSION_HEADER, WEIGHT_TOTAL, Backend, Endpoint, Match, Mirror, ModelPlan, Protocol, Route, Target

SHADOW = "~shadow"
DEFAULT_CONNECT_TIMEOUT = 1.0
ENVOY_REGEX_SIZE = 100
"""Envoy's default of the runtime key re2.max_program_size.error_level; a larger expression is rejected."""


@dataclass(frozen=True, slots=True)
class VersionPlan:
    """One line of status: `match` and `mirror_percent` say what is in force now, not what is wished."""

    name: str
    ready: bool
    reason: str
    weight_bp: int
    role: Literal["primary", "candidate"]
    mirror_percent: float
    match: bool


@dataclass(frozen=True, slots=True)
class Planned:
    """`plan` is None only when the rollout holds none of its hosts: then nothing of it shall be served."""

    plan: ModelPlan | None
    versions: tuple[VersionPlan, ...]
    why: tuple[str, ...]
    problems: tuple[Problem, ...] = ()


def plan(
    rollout: ModelRollout, observed: Observed, state: RolloutState, hosts: tuple[str, ...], *, where: str = ""
) -> Planned:
    """Plan the traffic of one model on the `hosts` that it holds.

    Unready versions get no weight, no header route and no mirror. `where` goes into the problems; by default the key.
    """
    wanted = wishes(rollout)
    ready = observed.ready
    points = share({wish.name: wish.weight for wish in wanted}, ready, rollout.primary.name)
    versions = tuple(_version_plan(wish, observed, points) for wish in wanted)
    why = tuple(_sentences(wanted, observed, points, rollout))
    traffic = None
    if not hosts:
        why = ("not served: other rollouts hold its hosts", *why)
    else:
        traffic = ModelPlan(
            name=rollout.key,
            gateway=rollout.spec.gateway,
            hosts=hosts,
            routes=(*_header_routes(rollout, wanted, ready), _weighted_route(rollout, wanted, ready, points, state)),
            backends=tuple(dict.fromkeys(_backends(rollout, wanted, observed))),
        )
    return Planned(traffic, versions, why, tuple(_problems(rollout, wanted, where or rollout.key)))


def _version_plan(wish: Wish, observed: Observed, points: dict[str, int]) -> VersionPlan:
    seen = observed[wish.name]
    return VersionPlan(
        name=wish.name,
        ready=seen.ready,
        reason=seen.reason,
        weight_bp=points.get(wish.name, 0),
        role="primary" if wish.primary else "candidate",
        mirror_percent=wish.mirror.percent if _mirrors(wish, observed.ready, points) and wish.mirror else 0.0,
        match=bool(wish.match) and seen.ready,
    )


def _header_routes(rollout: ModelRollout, wanted: tuple[Wish, ...], ready: frozenset[str]) -> Iterator[Route]:
    for wish in wanted:
        if wish.name in ready:
            for index, match in enumerate(wish.match):
                yield Route(
                    name=f"{wish.name}/match-{index}",
                    match=match.ir,
                    targets=(_target(rollout, wish.version, WEIGHT_TOTAL),),
                    timeout=rollout.spec.timeouts.request,
                    idle_timeout=rollout.spec.timeouts.idle,
                )


def _weighted_route(
    rollout: ModelRollout, wanted: tuple[Wish, ...], ready: frozenset[str], points: dict[str, int], state: RolloutState
) -> Route:
    versions = {wish.name: wish.version for wish in wanted}
    arms = [name for name in layout(rollout, state) if name in points]
    return Route(
        name="weighted",
        match=Match(),
        targets=tuple(_target(rollout, versions[name], points[name]) for name in arms),
        mirrors=tuple(
            _mirror(rollout, wish, wish.mirror) for wish in wanted if wish.mirror and _mirrors(wish, ready, points)
        ),
        timeout=rollout.spec.timeouts.request,
        idle_timeout=rollout.spec.timeouts.idle,
        hash_header=rollout.spec.sticky.header if rollout.spec.sticky else None,
    )


def _target(rollout: ModelRollout, version: Version, weight: int) -> Target:
    return Target(
        backend=cluster_name(rollout, version),
        weight=weight,
        version=version.name,
        set_request_headers=version.selecting_headers,
        set_response_headers=((VERSION_HEADER, version.name),),
    )


def _mirrors(wish: Wish, ready: frozenset[str], points: dict[str, int]) -> bool:
    """Whether its mirror is on: not while it stands in for others, or it would get every request twice."""
    stands_in = wish.weight == 0 and points.get(wish.name, 0) > 0
    return wish.mirror is not None and wish.name in ready and not stands_in


def _mirror(rollout: ModelRollout, wish: Wish, mirror: schema.Mirror) -> Mirror:
    headers = dict(wish.version.selecting_headers) | dict(mirror.request_headers)
    return Mirror(
        backend=cluster_name(rollout, wish.version) + SHADOW,
        percent=mirror.percent,
        version=wish.name,
        set_request_headers=tuple(sorted(headers.items())),
    )


def cluster_name(rollout: ModelRollout, version: Version) -> str:
    """The version's cluster; a shared server's name tells all that makes its cluster, so that models can share it."""
    if version.backend.shared is None:
        return f"{rollout.key}/{version.name}"
    servers = sorted(endpoint_text(one) for one in version.backend.servers(rollout.metadata.namespace))
    connect = rollout.spec.timeouts.connect
    suffix = "" if connect == DEFAULT_CONNECT_TIMEOUT else f"/connect-{duration_text(connect)}"
    return f"shared/{','.join(servers)}/{_protocol(rollout, version)}{suffix}"


def _protocol(rollout: ModelRollout, version: Version) -> Protocol:
    return version.protocol or rollout.spec.protocol


def _backends(rollout: ModelRollout, wanted: tuple[Wish, ...], observed: Observed) -> Iterator[Backend]:
    """Every version's cluster, used or not, so that it is warm when its turn comes; and one more per mirror."""
    for wish in wanted:
        version = wish.version
        backend = Backend(
            name=cluster_name(rollout, version),
            endpoints=_endpoints(wish, observed),
            protocol=_protocol(rollout, version),
            dns=version.backend.dns,
            connect_timeout=rollout.spec.timeouts.connect,
        )
        yield backend
        if wish.mirror:
            yield Backend(
                name=backend.name + SHADOW,
                endpoints=backend.endpoints,
                protocol=backend.protocol,
                dns=backend.dns,
                connect_timeout=backend.connect_timeout,
            )


def _endpoints(wish: Wish, observed: Observed) -> tuple[Endpoint, ...]:
    """Only ready endpoints, except where a list must not depend on this model, or nobody else is left to try."""
    seen = observed[wish.name]
    backend = wish.version.backend
    if backend.shared is not None:
        return tuple(sorted(seen.endpoints, key=endpoint_text))
    if backend.dns or (wish.primary and not observed.ready):
        return seen.endpoints
    return seen.ready_endpoints


def _sentences(
    wanted: tuple[Wish, ...], observed: Observed, points: dict[str, int], rollout: ModelRollout
) -> Iterator[str]:
    primary = rollout.primary.name
    weights = {wish.name: wish.weight for wish in wanted}
    wished = scaled(weights) or {primary: WEIGHT_TOTAL}
    unready = [wish for wish in wanted if wish.name not in observed.ready]
    to = heir(weights, observed.ready, primary)
    if len(unready) == len(wanted):
        reasons = "; ".join(f"{wish.name}: {observed[wish.name].reason}" for wish in wanted)
        yield f"no version is ready ({reasons}): {primary} keeps its route and every configured endpoint is tried"
        unready = []
    for wish in unready:
        start = f"{wish.name} is not ready ({observed[wish.name].reason})"
        yield f"{start}: " + "; ".join(_losses(wish, wished.get(wish.name, 0), to))
    for wish in wanted:
        if wish.name in observed.ready:
            yield from _gains(wish, observed, points)


def _losses(wish: Wish, lost: int, to: str) -> Iterator[str]:
    if lost:
        yield f"its {percent(lost)} goes to {to}"
    if wish.match:
        yield "its header route is off"
    if wish.mirror:
        yield "its mirror is off"
    if not lost and not wish.match and not wish.mirror:
        yield "it would get no traffic anyway"


def _gains(wish: Wish, observed: Observed, points: dict[str, int]) -> Iterator[str]:
    gets = []
    if wish.name in points:
        gets.append(f"{percent(points[wish.name])} of the traffic")
    if wish.match:
        gets.append("the requests that match its header route")
    if _mirrors(wish, observed.ready, points) and wish.mirror:
        gets.append(f"a copy of {wish.mirror.percent:g} % of the traffic")
    role = " (primary)" if wish.primary else ""
    reason = observed[wish.name].reason
    ready = "is ready" if reason == "ready" else f"is ready ({reason})"
    yield f"{wish.name}{role} {ready} and gets {' and '.join(gets) or 'no traffic'}"
    if wish.mirror and not _mirrors(wish, observed.ready, points):
        yield f"{wish.name} gets no copies while it stands in for the others"


def percent(points: int) -> str:
    """Basis points in words: 50 %, 0.01 %."""
    return f"{points / 100:g} %"


def _problems(rollout: ModelRollout, wanted: tuple[Wish, ...], where: str) -> Iterator[Problem]:
    if all(wish.weight == 0 for wish in wanted):
        yield Problem(
            where,
            "spec.versions",
            f"all weights are 0: {rollout.primary.name}, the primary, serves everything",
            "give at least one version a positive weight",
            "warning",
        )
    yield from _large_regexes(rollout, where)
    weighted = [wish for wish in wanted if not wish.primary and (wish.version.weight or 0) > 1]
    if rollout.primary.weight is None and weighted:
        index = rollout.spec.versions.index(rollout.primary)
        first = weighted[0]
        yield Problem(
            where,
            f"spec.versions[{index}].weight",
            f"{rollout.primary.name}, the primary, has no weight and counts as 1 beside {first.name}'s {first.weight}",
            "give it a weight too",
            "warning",
        )


def _large_regexes(rollout: ModelRollout, where: str) -> Iterator[Problem]:
    """Only a warning: the limit is the Envoy operator's to raise, and we cannot see it from here."""
    for index, version in enumerate(rollout.spec.versions):
        for number, match in enumerate(version.match or ()):
            at = f"spec.versions[{index}].match[{number}]"
            tests: list[tuple[str, schema.PathMatch | schema.HeaderMatch | schema.QueryMatch]] = []
            tests += [(f"{at}.path", match.path)] if match.path else []
            tests += [(f"{at}.headers[{place}]", one) for place, one in enumerate(match.headers)]
            tests += [(f"{at}.query[{place}]", one) for place, one in enumerate(match.query)]
            for field, test in tests:
                if test.regex is not None and (size := regex_size(test.regex)) > ENVOY_REGEX_SIZE:
                    yield Problem(
                        where,
                        f"{field}.regex",
                        f"the regular expression compiles to size {size}; Envoy rejects more than {ENVOY_REGEX_SIZE}",
                        "write a simpler one, or raise re2.max_program_size.error_level in Envoy's runtime",
                        "warning",
                    )
