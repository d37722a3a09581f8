"""The real road in the benchmark's own process: store -> engine -> sink -> cache -> XdsServer -> a real Envoy.

Only the source and the probes are missing: a benchmark puts rollouts and health into the store itself, and so knows
the instant of every change.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any, Self

from benchmarks.child import resident
from headgate.envoy import EnvoyError, EnvoyProcess
from headgate.sink import Sink
from router.engine import Engine
from router.health import Health
from router.manifests import Located, parse
from router.store import Store
from xds.bootstrap import bootstrap
from xds.cache import Cache
from xds.ir import Endpoint, Gateway, Listener
from xds.metrics import XdsMetrics
from xds.resources import Type
from xds.server import XdsServer

GATEWAY = "default"
LISTENER = "http"
now = time.monotonic


def rollouts(manifest: str, where: str = "benchmark.yaml") -> tuple[Located, ...]:
    """The rollouts of a manifest; a mistake in it is the benchmark's own."""
    parsed = parse(manifest.encode(), where)
    if parsed.problems:
        raise ValueError("\n".join(map(str, parsed.problems)))
    return parsed.rollouts


class Plane:
    """A control plane with one Envoy. `sink` may be another way from plans to resources: the rival's.

    A change is `put`, `drop` or `health`; each gives the instant of the change, and `acked` waits for Envoy.
    """

    def __init__(self, sink: Any = None, gateway: Gateway | None = None) -> None:
        self.gateway = gateway or Gateway(GATEWAY, (Listener(LISTENER, "127.0.0.1", 0),))
        self.store = Store()
        self.sink = sink if sink is not None else Sink([self.gateway])
        self.caches: Mapping[str, Cache] = self.sink.caches
        self.metrics = XdsMetrics()
        self.server = XdsServer(self.caches, metrics=self.metrics, on_progress=self._progress)
        self.engine = Engine(self.store, self.sink, gateways={self.gateway.name: self.gateway})
        self.port = 0
        self.acks: list[tuple[float, frozenset[str]]] = []
        self._waiting: dict[str, asyncio.Future[float]] = {}
        self._stack = AsyncExitStack()
        self.envoy: EnvoyProcess | None = None

    async def __aenter__(self) -> Self:
        await self.server.start()
        self._stack.push_async_callback(self.server.stop)
        for work in (self.engine.run(), *([self.sink.run()] if hasattr(self.sink, "run") else [])):
            task = asyncio.create_task(work)
            self._stack.callback(task.cancel)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    async def start_envoy(
        self, within: float = 120.0, concurrency: int = 1, sidecar: tuple[str, int] | None = None
    ) -> int:
        """Start Envoy and return its port; everything put so far has been planned before."""
        await self.idle()
        config = bootstrap(
            node_id="benchmark",
            node_cluster=self.gateway.name,
            xds_address="127.0.0.1",
            xds_port=self.server.port,
            admin_port=0,
            sidecar=sidecar,
        )
        envoy = EnvoyProcess(config, concurrency=concurrency, log_level="error")
        self._stack.push_async_callback(envoy.stop)
        self.envoy = envoy
        await envoy.start(within=within, ready=False)
        self.port = await listener_port(envoy, within)
        async with asyncio.timeout(within):
            while not await asyncio.to_thread(accepts, self.port):  # noqa: ASYNC110  a port has no event
                await asyncio.sleep(0.01)
        return self.port

    async def idle(self) -> None:
        """Until the engine has planned everything that was put."""
        while len(self.store._dirty):  # noqa: ASYNC110  the engine tells nobody, and an event would cost it time
            await asyncio.sleep(0)

    def put(self, located: Located) -> float:
        at = now()
        self.store.put(located.rollout.key, located)
        return at

    def put_all(self, all_located: Iterable[Located]) -> None:
        for located in all_located:
            self.put(located)

    def drop(self, model: str) -> float:
        at = now()
        self.store.drop(model)
        return at

    def health(self, model: str, version: str, endpoint: Endpoint, ready: bool) -> float:
        """Tell the store what a probe would: the instant of a readiness change."""
        at = now()
        self.store.set_health(model, version, endpoint, Health(ready, "ready" if ready else "HTTP 503"))
        return at

    async def acked(self, owner: str, settled: Callable[[], bool] | None = None, within: float = 30.0) -> float:
        """When Envoy has applied all that the owner wants now (call right after the change).

        `settled` replaces the server's own notion of that.
        """
        try:
            async with asyncio.timeout(within):
                while True:
                    await self.idle()
                    progress: asyncio.Future[float] = asyncio.get_running_loop().create_future()
                    self._waiting[owner] = progress
                    if settled() if settled is not None else self._applied(owner):
                        return now()
                    await progress
        except TimeoutError:
            lagging = self.server.fleet.applied(self.gateway.name, owner)
            ended = self.envoy.returncode if self.envoy is not None else None
            state = "runs" if ended is None else f"ended with exit code {ended}"
            raise TimeoutError(f"Envoy ({state}) has not applied {owner} within {within:g} s: {lagging}") from None

    def _applied(self, owner: str) -> bool:
        applied = self.server.fleet.applied(self.gateway.name, owner)
        return bool(applied.total) and not applied.lagging

    def route_acked(self, name: str) -> bool:
        """Whether Envoy has ACKed the present value of one RouteConfiguration, whatever leads there."""
        current = self.caches[self.gateway.name].get(Type.ROUTE, name)
        for member in self.server.fleet.members(self.gateway.name):
            routes = member.stream.subscriptions.get(Type.ROUTE)
            if routes is not None and current is not None and routes.held.get(name) is not None:
                return routes.held[name].version == current.version and not routes.waits_for_ack(name)
        return False

    def _progress(self, gateway: str, owners: frozenset[str]) -> None:
        for owner in owners or list(self._waiting):
            waiting = self._waiting.pop(owner, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(now())

    def pushed_bytes(self) -> float:
        """All bytes of responses so far."""
        return sum(
            sample.value
            for metric in self.metrics.bytes.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        )

    def envoy_resident(self) -> int:
        assert self.envoy is not None
        return resident(self.envoy.pid)


def accepts(port: int) -> bool:
    """Whether something listens there."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


async def listener_port(envoy: EnvoyProcess, within: float) -> int:
    """The port of Envoy's listener. While it loads 20,000 clusters its admin port is silent for seconds."""
    ends = now() + within
    while True:
        try:
            return await envoy.wait_listener(LISTENER, within=max(0.1, ends - now()))
        except EnvoyError:
            if envoy.returncode is not None or now() >= ends:
                raise
