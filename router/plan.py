"""From a rollout, what is observed and remembered, to the model's traffic as Envoy shall see it, and why.

1. header routes, in the order of the versions: match -> one version
2. the weighted route, which matches all: arms by sticky layout, mirrors attached
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from router import schema
from router.cautions import cautions
from router.observe import Observed
from router.plugins import Chosen
from router.policy import Wish, mirrors, wishes
from router.problem import Problem
from router.schema import ModelRollout, Rewrite, Version
from router.site import Site
from router.step import RolloutState
from router.sticky import layout
from router.values import duration_text, endpoint_text
from router.weights import share
from router.why import sentences
from xds.ir import (
    VERSION_HEADER,
    WEIGHT_TOTAL,
    WEIGHTED,
    Backend,
    Endpoint,
    HeaderMatch,
    Match,
    Mirror,
    ModelPlan,
    Protocol,
    Route,
    StringMatch,
    Target,
)

SHADOW, GRPC_SHADOW = "~shadow", "~shadow-grpc"
GRPC = Match(headers=(HeaderMatch("content-type", StringMatch.PREFIX, "application/grpc"),))
DEFAULT_CONNECT_TIMEOUT = 1.0
NO_PLUGINS = Chosen()


@dataclass(frozen=True, slots=True)
class VersionPlan:
    """One line of status: `match` and `mirror_percent` say what is in force now, not what is wished.

    `gone`: it is not there, or being deleted, so that its not being ready is no trouble.
    """

    name: str
    ready: bool
    reason: str
    weight_bp: int
    role: Literal["primary", "candidate"]
    mirror_percent: float
    match: bool
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Planned:
    """`plan` is None only when the rollout holds none of its hosts: then nothing of it shall be served.

    `plugins` are those that run for it, in their order.
    """

    plan: ModelPlan | None
    versions: tuple[VersionPlan, ...]
    why: tuple[str, ...]
    problems: tuple[Problem, ...] = ()
    plugins: tuple[str, ...] = ()


def plan(
    rollout: ModelRollout,
    observed: Observed,
    state: RolloutState,
    hosts: tuple[str, ...],
    *,
    where: str = "",
    plugins: Chosen = NO_PLUGINS,
) -> Planned:
    """Plan the traffic of one model on the `hosts` that it holds.

    Unready versions get no weight, no header route and no mirror. `where` goes into the problems; by default the key.
    """
    wanted = wishes(rollout)
    ready, sites = observed.ready, {one.name: one.site for one in observed.versions}
    alone = plugins.backend_plugins is not None
    arms = {wish.name: _Arm(rollout, wish.version, sites[wish.name], alone) for wish in wanted}
    points = share({wish.name: wish.weight for wish in wanted}, ready, rollout.primary.name)
    versions = tuple(_version_plan(wish, observed, points) for wish in wanted)
    why = (*sentences(wanted, observed, points, rollout), *plugins.why)
    traffic = None
    if not hosts:
        why = ("not served: other rollouts hold its hosts", *why)
    else:
        traffic = ModelPlan(
            name=rollout.key,
            gateway=rollout.spec.gateway,
            hosts=hosts,
            routes=(
                *_header_routes(rollout, wanted, ready, arms),
                *_weighted_routes(rollout, wanted, ready, points, state, arms),
            ),
            backends=tuple(dict.fromkeys(_backends(rollout, wanted, observed, arms))),
            primary=rollout.primary.name,
            plugins=plugins.plugins,
            backend_plugins=plugins.backend_plugins,
        )
    problems = (*cautions(rollout, wanted, where or rollout.key), *plugins.problems)
    return Planned(traffic, versions, why, problems, plugins.running)


def _version_plan(wish: Wish, observed: Observed, points: dict[str, int]) -> VersionPlan:
    seen = observed[wish.name]
    return VersionPlan(
        name=wish.name,
        ready=seen.ready,
        reason=seen.reason,
        weight_bp=points.get(wish.name, 0),
        role="primary" if wish.primary else "candidate",
        mirror_percent=wish.mirror.percent if mirrors(wish, observed.ready, points) and wish.mirror else 0.0,
        match=bool(wish.match) and seen.ready,
        gone=seen.site is not None and seen.site.gone,
    )


def _header_routes(
    rollout: ModelRollout, wanted: tuple[Wish, ...], ready: frozenset[str], arms: Mapping[str, _Arm]
) -> Iterator[Route]:
    for wish in wanted:
        if wish.name in ready:
            for index, match in enumerate(wish.match):
                yield Route(
                    name=f"{wish.name}/match-{index}",
                    match=match.ir,
                    targets=(arms[wish.name].target(WEIGHT_TOTAL),),
                    timeout=rollout.spec.timeouts.request,
                    idle_timeout=rollout.spec.timeouts.idle,
                )


def _weighted_routes(
    rollout: ModelRollout,
    wanted: tuple[Wish, ...],
    ready: frozenset[str],
    points: dict[str, int],
    state: RolloutState,
    arms: Mapping[str, _Arm],
) -> Iterator[Route]:
    """The split, once; or twice where Envoy could not tell by itself which protocol a copy needs.

    A cluster that follows the protocol of the request follows nothing when the request is a mirrored copy: Envoy then
    takes HTTP/1 (seen on 1.40), which a gRPC server does not understand. So gRPC calls get a route of their own.
    """
    order = [name for name in layout(rollout, state) if name in points]
    copied = [(arms[wish.name], wish.mirror) for wish in wanted if wish.mirror and mirrors(wish, ready, points)]
    weighted = Route(
        name=WEIGHTED,
        match=Match(),
        targets=tuple(arms[name].target(points[name]) for name in order),
        mirrors=tuple(arm.mirror(mirror, SHADOW) for arm, mirror in copied),
        timeout=rollout.spec.timeouts.request,
        idle_timeout=rollout.spec.timeouts.idle,
        hash_header=rollout.spec.sticky.header if rollout.spec.sticky else None,
    )
    if any(arm.protocol is Protocol.AUTO for arm, _ in copied):
        copies = tuple(
            arm.mirror(mirror, GRPC_SHADOW if arm.protocol is Protocol.AUTO else SHADOW) for arm, mirror in copied
        )
        yield replace(weighted, name="weighted-grpc", match=GRPC, mirrors=copies)
    yield weighted


class _Arm:
    """Where one version's requests go and what is changed in them: its manifest's words first, then the cluster's."""

    def __init__(self, rollout: ModelRollout, version: Version, site: Site | None, alone: bool) -> None:
        self._version = version
        found = site or Site(True, "")
        rewrite = version.rewrite or Rewrite()
        self.protocol = version.protocol or _said(rollout.spec.protocol) or found.protocol or Protocol.AUTO
        self.backend = cluster_name(rollout, version, self.protocol, alone=alone or site is not None)
        self.dns = found.dns if site else version.backend.dns
        self._host = rewrite.host or found.host_rewrite
        self._path = rewrite.path or found.path_rewrite
        self._headers = tuple(sorted((dict(found.request_headers) | dict(version.selecting_headers)).items()))

    def target(self, weight: int) -> Target:
        return Target(
            backend=self.backend,
            weight=weight,
            version=self._version.name,
            set_request_headers=self._headers,
            set_response_headers=((VERSION_HEADER, self._version.name),),
            host_rewrite=self._host,
            path_rewrite=self._path,
        )

    def mirror(self, mirror: schema.Mirror, suffix: str) -> Mirror:
        headers = dict(self._headers) | dict(mirror.request_headers)
        return Mirror(
            backend=self.backend + suffix,
            percent=mirror.percent,
            version=self._version.name,
            set_request_headers=tuple(sorted(headers.items())),
            host_rewrite=self._host,
            path_rewrite=self._path,
        )


def _said(protocol: Protocol) -> Protocol | None:
    """A rollout that says auto says nothing."""
    return None if protocol is Protocol.AUTO else protocol


def cluster_name(rollout: ModelRollout, version: Version, protocol: Protocol, *, alone: bool) -> str:
    """The version's cluster; a shared server's name tells all that makes its cluster, so that models can share it.

    Not those that have to stay `alone`: in Kubernetes, what is in flight is counted per version before one is taken
    away; and plugins at a backend are the model's own, and tell versions apart by their clusters.
    """
    if version.backend.shared is None or alone:
        return f"{rollout.key}/{version.name}"
    servers = sorted(endpoint_text(one) for one in version.backend.servers(rollout.metadata.namespace))
    connect = rollout.spec.timeouts.connect
    suffix = "" if connect == DEFAULT_CONNECT_TIMEOUT else f"/connect-{duration_text(connect)}"
    return f"shared/{','.join(servers)}/{protocol}{suffix}"


def _backends(
    rollout: ModelRollout, wanted: tuple[Wish, ...], observed: Observed, arms: Mapping[str, _Arm]
) -> Iterator[Backend]:
    """Every version's cluster, used or not, so that it is warm when its turn comes; and one more per mirror."""
    for wish in wanted:
        arm = arms[wish.name]
        backend = Backend(
            name=arm.backend,
            endpoints=_endpoints(wish, observed),
            protocol=arm.protocol,
            dns=arm.dns,
            connect_timeout=rollout.spec.timeouts.connect,
        )
        yield backend
        if wish.mirror:
            if backend.protocol is Protocol.AUTO:
                yield replace(backend, name=backend.name + SHADOW, protocol=Protocol.HTTP1)
                yield replace(backend, name=backend.name + GRPC_SHADOW, protocol=Protocol.H2C)
            else:
                yield replace(backend, name=backend.name + SHADOW)


def _endpoints(wish: Wish, observed: Observed) -> tuple[Endpoint, ...]:
    """Only ready endpoints, except where a list must not depend on this model, or nobody else is left to try.

    What the cluster lists stays as long as it is listed: a version that leaves has requests in flight there.
    """
    seen = observed[wish.name]
    backend = wish.version.backend
    if seen.site is not None:
        return seen.site.endpoints
    if backend.shared is not None:
        return tuple(sorted(seen.endpoints, key=endpoint_text))
    if backend.dns or (wish.primary and not observed.ready):
        return seen.endpoints
    return seen.ready_endpoints
