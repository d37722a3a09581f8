"""From a rollout, what the probers found and what the cluster says to which versions can serve, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from router.health import Health
from router.schema import ModelRollout, Version
from router.site import Site
from router.values import endpoint_text
from xds.ir import Endpoint

ASSUMED = "no readiness probe: assumed ready"
WAITING = "waiting for first probe"
NO_CLUSTER = "its resources are only watched in Kubernetes mode, and it has no backend"

_NOWHERE: Mapping[str, Site] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class VersionHealth:
    """`endpoints` are all configured ones, `ready_endpoints` those that may receive traffic now, in the same order.

    `site` is what the cluster says, where there is one.
    """

    name: str
    ready: bool
    reason: str
    endpoints: tuple[Endpoint, ...]
    ready_endpoints: tuple[Endpoint, ...]
    site: Site | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known of every version, in the rollout's order."""

    versions: tuple[VersionHealth, ...]

    @property
    def ready(self) -> frozenset[str]:
        return frozenset(one.name for one in self.versions if one.ready)

    def __getitem__(self, name: str) -> VersionHealth:
        return next(one for one in self.versions if one.name == name)


def observe(
    rollout: ModelRollout,
    health: Mapping[tuple[str, Endpoint], Health],
    sites: Mapping[str, Site] = _NOWHERE,
) -> Observed:
    """A version is ready as soon as one of its endpoints is; without a probe every endpoint is assumed ready.

    In a cluster its resources have to be ready as well, and the endpoints are those that the cluster names.
    """
    namespace = rollout.metadata.namespace
    found = []
    for one in rollout.spec.versions:
        probed, site = _version(one, namespace, health), sites.get(one.name)
        found.append(probed if site is None else _in_cluster(one, probed, site))
    return Observed(tuple(found))


def _in_cluster(version: Version, probed: VersionHealth, site: Site) -> VersionHealth:
    ready, reason = site.ready, site.reason
    if ready and version.readiness is not None:
        ready, reason = probed.ready, probed.reason
    return VersionHealth(version.name, ready, reason, site.endpoints, site.endpoints, site)


def _version(version: Version, namespace: str, health: Mapping[tuple[str, Endpoint], Health]) -> VersionHealth:
    endpoints = version.backend.servers(namespace)
    if not endpoints:
        return VersionHealth(version.name, False, NO_CLUSTER, (), ())
    if version.readiness is None:
        return VersionHealth(version.name, True, ASSUMED, endpoints, endpoints)
    found = [(one, health.get((version.name, one)) or Health(False, WAITING)) for one in endpoints]
    ready = tuple(one for one, state in found if state.ready)
    failing = [(one, state.reason) for one, state in found if not state.ready]
    return VersionHealth(version.name, bool(ready), _reason(len(endpoints), failing), endpoints, ready)


def _reason(total: int, failing: list[tuple[Endpoint, str]]) -> str:
    if not failing:
        return "ready" if total == 1 else f"all {total} endpoints ready"
    why = {reason for _, reason in failing}
    if len(failing) == total and len(why) == 1:
        return failing[0][1]
    first, reason = failing[0]
    more = f" and {len(failing) - 1} more" if len(failing) > 1 else ""
    return f"{total - len(failing)} of {total} endpoints ready ({endpoint_text(first)}: {reason}{more})"
