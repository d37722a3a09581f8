"""One replica without xDS and without watches: a real engine over objects that a test hands in, and Envoys that apply
what the test says."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

from router.engine import Engine, ModelStatus, StateStore
from router.manifests import Located, read
from router.problem import Problem
from router.replica import Progress, Report, Reports
from router.site import Site
from router.store import Store
from xds.ir import Endpoint, Gateway, ModelPlan

READY = Site(True, "ready", (Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80)))
REFUSED = Site(False, "connection refused", ())


def rollout(name: str = "wisdom", generation: int = 1, *, status: Any = None, **spec: Any) -> dict[str, Any]:
    """A ModelRollout of two versions, v0 and v1, half each."""
    versions = [{"name": one, "weight": 50, "resources": [f"isvc/{one}"]} for one in ("v0", "v1")]
    return {
        "apiVersion": "headgate.dev/v1alpha1",
        "kind": "ModelRollout",
        "metadata": {"name": name, "namespace": "default", "generation": generation},
        "spec": {"hosts": [name], "versions": versions, **spec},
        **({"status": status} if status is not None else {}),
    }


def key(raw: Mapping[str, Any]) -> str:
    return f"{raw['metadata']['namespace']}/{raw['metadata']['name']}"


class OneReplica:
    """`put` objects; then ask for the model's status. Every version is READY unless `sites` say otherwise."""

    def __init__(self, states: StateStore | None = None) -> None:
        self.store = Store()
        self.plans: dict[str, ModelPlan] = {}
        self.engine = Engine(self.store, self, gateways={"default": Gateway("default", ())}, states=states)

    def apply(self, plan: ModelPlan) -> None:
        self.plans[plan.name] = plan

    def remove(self, gateway: str, model: str) -> None:
        self.plans.pop(model, None)

    def put(self, raw: Mapping[str, Any], **sites: Site) -> ModelStatus | None:
        """As the source does: what cannot be read is told as problems, and the last good one stays."""
        model = key(raw)
        found = read(raw, model)
        problems = found if isinstance(found, tuple) else ()
        self.store.report(model, problems, [model])
        if not isinstance(found, tuple):
            names = [one.name for one in found.spec.versions]
            self.store.put(model, Located(found, model))
            self.store.place(model, {name: sites.get(name, READY) for name in names})
        for dirty in self.store.take_dirty():
            self.engine.update(dirty)
        return self.status(model)

    def drop(self, model: str) -> None:
        self.store.drop(model)
        self.engine.update(model)

    def status(self, model: str) -> ModelStatus | None:
        return self.engine.models().get(model)

    def problems(self, model: str) -> tuple[Problem, ...]:
        return tuple(self.store.problems_of(model))

    def version(self, model: str) -> str | None:
        """Of what is served of the model, as in Progress."""
        plan = self.plans.get(model)
        return None if plan is None else hashlib.sha256(repr(plan).encode()).hexdigest()[:12]


class Envoys:
    """A Fleet: the Envoys of some replicas, each with what it has applied. They apply when told, or at once."""

    def __init__(self, replica: OneReplica, identity: str = "us") -> None:
        self.identity = identity
        self.replicas = {identity: replica}
        self.nodes: dict[str, dict[str, dict[str, str]]] = {identity: {}}
        self.words: dict[str, str] = {}
        self.unreachable: tuple[str, ...] = ()
        self.prompt = False
        self.asked: list[frozenset[str]] = []

    def join(self, *names: str, identity: str | None = None, replica: OneReplica | None = None) -> None:
        """Connect to the replica of that name, by default our own."""
        identity = identity or self.identity
        if replica is not None:
            self.replicas[identity] = replica
        self.nodes.setdefault(identity, {}).update({name: {} for name in names})

    def ack(self, *names: str) -> None:
        """These Envoys, or all, apply all that their replica serves now."""
        for identity, nodes in self.nodes.items():
            replica = self.replicas[identity]
            for name, applied in nodes.items():
                if not names or name in names:
                    applied |= {model: replica.version(model) or "" for model in replica.plans}

    async def ask(self, models: Collection[str], clusters: Collection[str]) -> Reports:
        self.asked.append(frozenset(models))
        if self.prompt:
            self.ack()
        return self.now(models)

    def now(self, models: Collection[str]) -> Reports:
        return Reports(tuple(self._report(one, models) for one in self.replicas), self.unreachable)

    def _report(self, identity: str, models: Collection[str]) -> Report:
        replica, nodes = self.replicas[identity], self.nodes[identity]
        progress = {}
        for model in models:
            if (version := replica.version(model)) is not None:
                lagging = {
                    name: self.words.get(name, "no ACK yet")
                    for name, applied in nodes.items()
                    if applied.get(model) != version
                }
                progress[model] = Progress(version, "default", frozenset(nodes), lagging)
        return Report(identity, 60.0, {"default": len(nodes)}, progress)
