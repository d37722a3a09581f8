"""From a rollout and what the probers found to which versions can serve, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.health import Health
from router.schema import ModelRollout, Version
from router.values import endpoint_text
from xds.ir import Endpoint

ASSUMED = "no readiness probe: assumed ready"
WAITING = "waiting for first probe"


@dataclass(frozen=True, slots=True)
class VersionHealth:
    """`endpoints` are all configured ones, `ready_endpoints` those that may receive traffic now, in the same order."""

    name: str
    ready: bool
    reason: str
    endpoints: tuple[Endpoint, ...]
    ready_endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known of every version, in the rollout's order."""

    versions: tuple[VersionHealth, ...]

    @property
    def ready(self) -> frozenset[str]:
        return frozenset(one.name for one in self.versions if one.ready)

    def __getitem__(self, name: str) -> VersionHealth:
        return next(one for one in self.versions if one.name == name)


def observe(rollout: ModelRollout, health: Mapping[tuple[str, Endpoint], Health]) -> Observed:
    """A version is ready as soon as one of its endpoints is; without a probe every endpoint is assumed ready."""
    namespace = rollout.metadata.namespace
    return Observed(tuple(_version(one, namespace, health) for one in rollout.spec.versions))


def _version(version: Version, namespace: str, health: Mapping[tuple[str, Endpoint], Health]) -> VersionHealth:
    endpoints = version.backend.servers(namespace)
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
