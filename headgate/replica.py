"""What this process says of the Envoys that are connected to it, as every replica does of its own."""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

from headgate.sink import Sink
from router.engine import ModelStatus
from router.replica import Load, Progress, Report
from xds.fleet import Fleet
from xds.ir import ModelPlan


def identity() -> str:
    """A name for this process that no other replica has, nor it after a restart."""
    return f"{os.environ.get('HOSTNAME') or socket.gethostname()}_{uuid.uuid4().hex[:8]}"


WATCHED = 5.0
"""Seconds for which a cluster's load is asked of the Envoys after somebody wanted to know it."""
_SLICE = 20
_NOT_TAKEN = "keeps the last good version"


class Models(Protocol):
    """The part of the engine that is needed here."""

    def models(self) -> Mapping[str, ModelStatus]: ...

    def leaving(self) -> Mapping[str, ModelStatus]: ...


class Counted(Protocol):
    @property
    def in_progress(self) -> int: ...

    @property
    def received_at(self) -> float: ...


class Loads(Protocol):
    """The part of the xDS server that hears of requests in progress."""

    def watch(self, gateway: str, clusters: Iterable[str], seconds: float = ...) -> None: ...

    def in_progress(self, gateway: str, cluster: str) -> Mapping[str, Counted]: ...

    def reporting(self, gateway: str) -> frozenset[str]: ...


class LocalReplica:
    """`begin` when the xDS port is open: until then its age is 0, and nobody relies on what it says."""

    def __init__(
        self,
        identity: str,
        engine: Models,
        sink: Sink,
        fleet: Fleet,
        loads: Loads,
        *,
        started_at: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identity = identity
        self._engine, self._sink, self._fleet, self._loads = engine, sink, fleet, loads
        self._started_at = started_at
        self._clock = clock

    def begin(self) -> None:
        self._started_at = self._clock()

    async def report(self, models: Collection[str], clusters: Collection[str]) -> Report:
        """In slices: what many models and many Envoys make together must not delay a push."""
        behind: dict[str, list[tuple[str, Mapping[str, str]]]] = {}
        progress: dict[str, Progress] = {}
        routed: set[str] = set()
        homes: dict[str, str] = {}  # cluster -> gateway
        wanted = frozenset(clusters)
        for index, name in enumerate(dict.fromkeys(models)):
            if index % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
                behind.clear()  # what Envoys lack has to be as new as the plan that they lack
            plan = self._plan(name)
            if plan is None:
                continue
            gateway = plan.gateway
            if gateway not in behind:
                behind[gateway] = [(one.id, one.stream.lagging()) for one in self._fleet.members(gateway)]
            progress[name] = self._progress(name, gateway, behind[gateway])
            routed |= wanted & led_to(plan)
            homes |= {backend.name: gateway for backend in plan.backends if backend.name in wanted}
        now = self._clock()
        return Report(
            identity=self.identity,
            age=0.0 if self._started_at is None else now - self._started_at,
            gateways={name: sum(1 for _ in self._fleet.members(name)) for name in self._sink.gateways},
            models=progress,
            loads=self._heard(homes, now) | self._overheard(wanted - homes.keys(), now),
            reporting=frozenset(node for name in self._sink.gateways for node in self._loads.reporting(name)),
            routed=frozenset(routed),
        )

    def _plan(self, model: str) -> ModelPlan | None:
        status = self._engine.models().get(model) or self._engine.leaving().get(model)
        return status.plan if status is not None else None

    def _progress(self, model: str, gateway: str, members: list[tuple[str, Mapping[str, str]]]) -> Progress:
        cache = self._sink.caches[gateway]
        lagging = {node: behind[model] for node, behind in members if model in behind}
        if self._fleet.rejection(gateway, model) is not None and not cache.is_accepted(model):
            lagging = {node: _NOT_TAKEN for node, _ in members} | lagging
        return Progress(cache.version(model), gateway, frozenset(node for node, _ in members), lagging)

    def _heard(self, homes: Mapping[str, str], now: float) -> dict[str, dict[str, Load]]:
        for gateway in set(homes.values()):
            self._loads.watch(gateway, [name for name, home in homes.items() if home == gateway], WATCHED)
        return {
            cluster: {
                node: Load(one.in_progress, max(0.0, now - one.received_at))
                for node, one in self._loads.in_progress(gateway, cluster).items()
            }
            for cluster, gateway in homes.items()
        }

    def _overheard(self, clusters: Collection[str], now: float) -> dict[str, dict[str, Load]]:
        """Of clusters that no plan here has: an Envoy that has them from another replica may report its load to us."""
        found: dict[str, dict[str, Load]] = {}
        for gateway in self._sink.gateways if clusters else ():
            for cluster, loads in self._heard(dict.fromkeys(clusters, gateway), now).items():
                if loads:
                    found.setdefault(cluster, {}).update(loads)
        return found


def led_to(plan: ModelPlan) -> frozenset[str]:
    """The clusters that some request, or a copy of one, goes to."""
    return frozenset(arm.backend for route in plan.routes for arms in (route.targets, route.mirrors) for arm in arms)
