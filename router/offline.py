"""The whole road from manifests to plans, once and without a network: for `validate`, `plan` and `translate`.

The same stages as in the running control plane, by the same engine; only readiness is assumed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from router.engine import Engine, Forgetful, ModelStatus
from router.health import Health
from router.manifests import Located
from router.plan import Planned
from router.problem import Problem
from router.schedule import wanted
from router.schema import ModelRollout
from router.sources.folder import load_once
from router.step import RolloutState
from router.store import Store
from xds.ir import Gateway, ModelPlan, Plugin, PluginHost, Plugins

ASSUMED_READY = Health(True, "assumed ready")
ASSUMED_UNREADY = Health(False, "assumed not ready")

Readiness = bool | Mapping[str, Collection[str]]
"""All versions ready or none; or by model ("namespace/name") the names of those that are not ready."""


_SILENT = logging.Logger("offline", logging.CRITICAL + 1)
"""The caller shows the problems; they must not appear a second time as log lines."""


@dataclass(frozen=True, slots=True)
class Offline:
    """Everything by model, in the order of files. `plans` has what would be served, `planned` also why."""

    rollouts: Mapping[str, Located]
    planned: Mapping[str, Planned]
    plans: Mapping[str, ModelPlan]
    problems: tuple[Problem, ...]
    files: int

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity == "error")


def load(
    path: Path,
    *,
    gateways: Mapping[str, Gateway] | None = None,
    ready: Readiness = True,
    states: Mapping[str, RolloutState] | None = None,
) -> Offline:
    """Read a folder or one file and plan all of it. Without `gateways` any gateway's name is taken as it is.

    `states` is what the running control plane remembers, for the very arms that it would give to sticky users.
    """
    store, sink = Store(), _Kept()
    files = load_once(path, store, _SILENT)
    keys = store.keys()
    located = {key: one for key in keys if (one := store.get(key)) is not None}
    if gateways is None:
        names = {one.rollout.spec.gateway for one in located.values()}
        gateways = {name: Gateway(name, (), plugins=_named(located, name)) for name in names}
    engine = Engine(store, sink, gateways=gateways, states=Forgetful(states or {}), clock=lambda: 0.0, logger=_SILENT)
    for key, one in located.items():
        for version, endpoint in wanted(one.rollout):
            store.set_health(key, version, endpoint, _assumed(one.rollout, version, ready))
    for key in keys:
        engine.update(key)
    store.take_dirty()
    planned = {key: status.planned for key, status in _in_order(engine, keys) if status.planned is not None}
    problems = (*_unknown(ready, located), *engine.problems())
    return Offline(located, planned, {key: sink.plans[key] for key in keys if key in sink.plans}, problems, files)


def _in_order(engine: Engine, keys: tuple[str, ...]) -> list[tuple[str, ModelStatus]]:
    models = engine.models()
    return [(key, models[key]) for key in keys if key in models]


def _assumed(rollout: ModelRollout, version: str, ready: Readiness) -> Health:
    good = ready if isinstance(ready, bool) else version not in ready.get(rollout.key, ())
    return ASSUMED_READY if good else ASSUMED_UNREADY


def _named(located: Mapping[str, Located], gateway: str) -> Plugins | None:
    """As if the gateway had whatever plugins its models name."""
    rollouts = [one.rollout for one in located.values() if one.rollout.spec.gateway == gateway]
    names = dict.fromkeys(plugin.name for rollout in rollouts for plugin in rollout.spec.plugins)
    return Plugins(PluginHost.EMBEDDED, tuple(map(Plugin, names))) if names else None


def _unknown(ready: Readiness, located: Mapping[str, Located]) -> list[Problem]:
    """An assumption about a version that does not exist, or has no probe, would silently change nothing."""
    problems: list[Problem] = []
    if isinstance(ready, bool):
        return problems
    for model, versions in ready.items():
        one = located.get(model)
        if one is None:
            problems.append(Problem(model, "", "is assumed to have unready versions, but there is no such model"))
            continue
        names = {version.name: version.readiness is not None for version in one.rollout.spec.versions}
        for version in versions:
            if version not in names:
                what = f"version {version!r} is assumed not ready, but there is no such version"
                problems.append(Problem(model, "", what, f"there are {', '.join(names)}"))
            elif not names[version]:
                what = f"version {version!r} is assumed not ready, but has no readiness probe and so counts as ready"
                problems.append(Problem(model, "", what, "add a probe to the version"))
    return problems


class _Kept:
    """A sink that keeps the plans."""

    def __init__(self) -> None:
        self.plans: dict[str, ModelPlan] = {}

    def apply(self, plan: ModelPlan) -> None:
        self.plans[plan.name] = plan

    def remove(self, gateway: str, model: str) -> None:
        self.plans.pop(model, None)
