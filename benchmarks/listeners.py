"""Ways of one Envoy, each a listener of the real control plane's, that get the same load by turns.

One Envoy with one worker has them all, because two Envoys of the same configuration differ by several percent: their
memory lies differently. So does that of the next start, so that a figure is taken from several. Envoy has a core of its
own, load and model servers (in C) have the other one, and so has whatever else belongs to a way. Envoy's worker is then
what bounds every way; the rate is what a user of one worker would see.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from benchmarks.compiled import compiled
from benchmarks.load_tools import Target, cores, pin, target
from benchmarks.plane import GATEWAY, Plane, rollouts
from benchmarks.turns import Turns
from headgate.envoy import EnvoyProcess
from xds.ir import Gateway, Listener
from xds.resources import Resource, Type
from xds.translate import translate_gateway

CONNECTIONS = 16
SECONDS = 0.05
"""Of a turn: some hundred requests, so that a neighbour of this machine seldom falls into one way's turn only."""
MODEL = "default/m"
MANIFEST = """
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata: {{name: m}}
spec:
  hosts: [model, m.example]
  strategy: canary
  versions:
  - {{name: v1, weight: 50, backend: {{endpoints: ["127.0.0.1:{v1}"]}}}}
  - {{name: v2, weight: 50, backend: {{endpoints: ["127.0.0.1:{v2}"]}}}}
"""


def gateway(**ways: Any) -> Gateway:
    """One with a listener, which a way makes something of."""
    return Gateway(GATEWAY, (Listener("http", "127.0.0.1", 0),), **ways)


class Rig:
    """An Envoy with a listener for each of `ways`; `mirrored`: as if some other model were."""

    def __init__(
        self, ways: Mapping[str, Gateway], *, mirrored: bool = False, sidecar: tuple[str, int] | None = None
    ) -> None:
        self._ways, self._mirrored, self._sidecar = ways, mirrored, sidecar
        self._stack = AsyncExitStack()
        self.ports: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        enter = self._stack.enter_context
        folder = Path(enter(TemporaryDirectory(prefix="headgate-benchmark-")))
        servers: list[Target] = [enter(target(compiled("load_target", folder), "fast")) for _ in range(2)]
        plane = await self._stack.enter_async_context(Plane(gateway=gateway(count_requests=False)))
        plane.caches[GATEWAY].apply("ways", self._resources())
        (located,) = rollouts(MANIFEST.format(v1=servers[0].port, v2=servers[1].port))
        plane.put(located)
        await plane.start_envoy(sidecar=self._sidecar)
        await plane.acked(MODEL)
        assert plane.envoy is not None
        self.envoy: EnvoyProcess = plane.envoy
        self.ports = {name: await self.envoy.wait_listener(name) for name in self._ways}
        pin(self.envoy.pid, cores()[1])
        self.load = enter(Turns(compiled("turns", folder), cores()[0]))
        for name in self._ways:
            await self.rate(name, 0.3)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    def _resources(self) -> dict[Type, dict[str, Resource]]:
        found: dict[Type, dict[str, Resource]] = {}
        names = list(self._ways)
        random.shuffle(names)  # who is made first lies elsewhere
        for name in names:
            own = replace(self._ways[name], listeners=(Listener(name, "127.0.0.1", 0),))
            for kind, resources in translate_gateway(own, mirrored=self._mirrored).items():
                found.setdefault(kind, {}).update(resources)
        return found

    async def rate(self, way: str, seconds: float = SECONDS) -> float:
        """Requests a second; RuntimeError if one failed."""
        turn = await asyncio.to_thread(self.load.turn, self.ports[way], CONNECTIONS, seconds)
        if turn.failed:
            raise RuntimeError(f"{turn.failed} requests of {way} failed")
        return turn.rate

    async def compare(self, rounds: int) -> dict[str, list[float]]:
        """The rates of all ways, round by round."""
        rates: dict[str, list[float]] = {name: [] for name in self._ways}
        order = list(self._ways)
        for _ in range(rounds):
            random.shuffle(order)
            for name in order:
                rates[name].append(await self.rate(name))
        return rates


@dataclass
class Compared:
    """What several starts have told: the median rate of each way, and its shares of plain's, a start each."""

    rates: dict[str, list[float]] = field(default_factory=dict)
    shares: dict[str, list[float]] = field(default_factory=dict)

    def add(self, rates: Mapping[str, list[float]], plain: str) -> None:
        """Take one start's rounds."""
        for name, found in rates.items():
            self.rates.setdefault(name, []).append(statistics.median(found))
            shares = [100 * one / beside for one, beside in zip(found, rates[plain], strict=True)]
            self.shares.setdefault(name, []).append(statistics.median(shares))

    def share(self, name: str) -> float:
        """Percent, the median start's."""
        return statistics.median(self.shares[name])

    def rows(self) -> list[list[object]]:
        """By way: requests/s, us of Envoy's worker a request, percent of plain, lowest and highest start."""
        return [
            [name, rate, 1e6 / rate, self.share(name), min(self.shares[name]), max(self.shares[name])]
            for name, rate in ((name, statistics.median(found)) for name, found in self.rates.items())
        ]


COLUMNS = ("Envoy", "requests/s", "us a request", "% of plain", "lowest", "highest start")
