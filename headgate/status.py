"""What the control plane says of itself: asks store, engine, caches and fleet, and makes documents of the answers.

Ten thousand models are looked at in slices, so that a scrape or a status page delays no push.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

from headgate.documents import (
    Document,
    Lag,
    State,
    arm_document,
    envoy_document,
    gateway_document,
    model_document,
    problem_document,
    state_of,
)
from headgate.sink import Sink
from headgate.telemetry import Telemetry
from router.engine import Engine, ModelStatus
from router.store import Store
from xds.fleet import Fleet

SLICE = 20
"""Models looked at in one go: about half a millisecond of the loop."""


class Status:
    """The read side of a control plane."""

    def __init__(
        self, store: Store, engine: Engine, sink: Sink, fleet: Fleet, telemetry: Telemetry | None = None
    ) -> None:
        self._store, self._engine, self._sink, self._fleet = store, engine, sink, fleet
        self._telemetry = telemetry or Telemetry()

    def names(self) -> tuple[str, ...]:
        """Every model that there is."""
        return tuple(self._engine.models())

    def model(self, key: str) -> Document | None:
        """One model, or None if there is none of this name."""
        found = self._engine.models().get(key)
        return self._document(found, self._lag()) if found is not None else None

    async def models(self) -> AsyncIterator[Document]:
        """All models by name."""
        lag = self._lag()
        for index, key in enumerate(sorted(self._engine.models())):
            if index % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            found = self._engine.models().get(key)
            if found is not None:
                yield self._document(found, lag)

    def arm(self, key: str, user: str) -> Document | None:
        """The version of a sticky user; None when the model is not sticky, not served or not there."""
        found = self._engine.models().get(key)
        return arm_document(found.plan, user) if found is not None and found.plan is not None else None

    def envoys(self) -> list[Document]:
        """All connected clients."""
        return [envoy_document(envoy) for envoy in self._fleet.envoys()]

    def sidecars(self) -> list[Document]:
        """Those that tell what users get, and what is wrong with them."""
        return self._telemetry.sidecars()

    def problems(self) -> list[Document]:
        """Everything that somebody should mend, each once."""
        return [problem_document(problem) for problem in self._engine.problems()]

    async def states(self) -> Counter[tuple[str, State]]:
        """How many models are in each state, by gateway."""
        lag = self._lag()
        found: Counter[tuple[str, State]] = Counter()
        for index, one in enumerate(tuple(self._engine.models().values())):
            if index % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            found[one.rollout.spec.gateway, state_of(one, lag)] += 1
        return found

    def severities(self) -> Counter[str]:
        """How many problems there are of each severity."""
        return Counter(problem.severity for problem in self._engine.problems())

    def gateway_names(self) -> tuple[str, ...]:
        return tuple(self._sink.gateways)

    def gateways(self) -> list[Document]:
        """Every group of Envoys."""
        lag = self._lag()
        return [
            gateway_document(gateway, on_demand=self._sink.on_demand(name), models=self._sink.models(name), lag=lag)
            for name, gateway in self._sink.gateways.items()
        ]

    def _lag(self) -> Lag:
        return Lag(self._fleet.envoys(), self._sink.caches)

    def _document(self, one: ModelStatus, lag: Lag) -> Document:
        key = one.rollout.key
        live = self._telemetry.versions(key, [version.name for version in one.versions])
        return model_document(one, self._store.health(key), lag, live)
