"""A real Envoy on a real ADS server, with real model servers behind it and clients that count every answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from headgate.demo.model_server import ModelServer
from headgate.envoy import EnvoyProcess
from xds.bootstrap import bootstrap
from xds.cache import Cache
from xds.ir import (
    WEIGHT_TOTAL,
    Backend,
    Endpoint,
    Gateway,
    Listener,
    Match,
    ModelPlan,
    Protocol,
    Route,
    Target,
)
from xds.server import XdsServer
from xds.tls import ServerTls
from xds.translate import translate, translate_gateway

PATIENCE = 20.0


@dataclass
class Tally:
    """What clients were answered: by version, and everything that was not a 200."""

    versions: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.versions.total() + self.failures.total()


class Rig:
    """One control plane's xDS half. Everything that it starts is stopped when its block is left."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._progress = asyncio.Event()
        self.gateways: dict[str, Gateway] = {}
        self.caches: dict[str, Cache] = {}
        self.server: XdsServer | None = None
        self.servers: dict[str, ModelServer] = {}
        self.port = 0

    async def serve(
        self, *gateways: Gateway, port: int = 0, tls: ServerTls | None = None, caches: dict[str, Cache] | None = None
    ) -> XdsServer:
        """Start (or start again) the ADS server; new caches unless some are given."""
        gateways = gateways or (Gateway("default", (Listener("http", "127.0.0.1", 0),)),)
        self.gateways = {gateway.name: gateway for gateway in gateways}
        self.caches = caches if caches is not None else {gateway.name: Cache() for gateway in gateways}
        if caches is None:
            for gateway in gateways:
                self.caches[gateway.name].apply(f"gateway/{gateway.name}", translate_gateway(gateway))
        self.server = XdsServer(self.caches, port=port, tls=tls, on_progress=lambda *_: self._progress.set())
        await self.server.start()
        self._stack.push_async_callback(self.server.stop)
        return self.server

    async def model(self, version: str = "v1", **more: Any) -> ModelServer:
        server = ModelServer(version, **more)
        await server.start()
        self._stack.push_async_callback(server.stop)
        self.servers[version] = server
        return server

    async def envoy(self, node: str = "e1", gateway: str = "default", **more: Any) -> EnvoyProcess:
        assert self.server is not None
        ready = more.pop("ready", True)
        config = bootstrap(
            node_id=node, node_cluster=gateway, xds_address="127.0.0.1", xds_port=self.server.port, admin_port=0, **more
        )
        process = EnvoyProcess(config, concurrency=1)
        await process.start(ready=ready)
        self._stack.push_async_callback(process.stop)
        if ready:
            self.port = await process.wait_listener("http")
        return process

    def apply(self, plan: ModelPlan, *, on_demand: bool = False) -> None:
        cache = self.caches[plan.gateway]
        if any(route.mirrors for route in plan.routes):
            own = translate_gateway(self.gateways[plan.gateway], mirrored=True)
            cache.apply(f"gateway/{plan.gateway}", own)
        cache.apply(plan.name, translate(plan, on_demand=on_demand))

    async def until(self, holds: Callable[[], object], within: float = PATIENCE) -> None:
        """Wait for a condition that only the progress of clients can change."""
        async with asyncio.timeout(within):
            while not holds():
                self._progress.clear()
                await self._progress.wait()

    async def applied(self, model: str, *, by: int = 1, gateway: str = "default") -> None:
        """Wait until `by` Envoys have ACKed all of the model, and none lags."""
        assert self.server is not None
        fleet = self.server.fleet

        def all_have_it() -> bool:
            state = fleet.applied(gateway, model)
            return state.current >= by and not state.lagging

        try:
            await self.until(all_have_it)
        except TimeoutError:
            raise AssertionError(f"{model} is not applied: {fleet.applied(gateway, model)}") from None

    @asynccontextmanager
    async def load(
        self, host: str, *, users: int = 4, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Tally]:
        """Closed-loop clients on keep-alive connections for as long as the block runs."""
        tally = Tally()
        stop = asyncio.Event()

        async def user(session: aiohttp.ClientSession) -> None:
            while not stop.is_set():
                await self.ask(host, session=session, tally=tally, headers=headers)

        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(users):
                tasks.create_task(user(session))
            try:
                yield tally
            finally:
                stop.set()

    async def ask(
        self,
        host: str,
        path: str = "/v2/models/iris",
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        session: aiohttp.ClientSession | None = None,
        tally: Tally | None = None,
    ) -> tuple[int, str]:
        """One request through Envoy: its status and the version that answered."""
        url = f"http://127.0.0.1:{self.port}{path}"
        opened = session or aiohttp.ClientSession()
        try:
            async with opened.request(method, url, headers={"host": host, **(headers or {})}) as answer:
                await answer.read()
                status, version = answer.status, answer.headers.get("app-version", "")
        except aiohttp.ClientError as error:
            status, version = 0, repr(error)
        finally:
            if session is None:
                await opened.close()
        if tally is not None:
            (tally.versions if status == 200 else tally.failures)[version if status in (0, 200) else str(status)] += 1
        return status, version

    async def answered_by(self, host: str, path: str = "/v2/models/iris", **more: Any) -> str:
        status, version = await self.ask(host, path, **more)
        return version if version else str(status)

    def split(
        self,
        name: str,
        shares: Mapping[str, int],
        *,
        routes: tuple[Route, ...] = (),
        hosts: tuple[str, ...] = (),
        suffix: str = "",
        gateway: str = "default",
        **more: Any,
    ) -> ModelPlan:
        """A model with a backend per version; `shares` in basis points, 0 keeps the cluster without traffic."""
        backends = tuple(
            Backend(f"{name}/{v}{suffix}", (Endpoint("127.0.0.1", self.servers[v].rest_port),), Protocol.HTTP1)
            for v in shares
        )
        targets = tuple(self.target(name, version, weight, suffix) for version, weight in shares.items() if weight)
        return ModelPlan(
            name,
            gateway,
            hosts or (f"{name.rpartition('/')[2]}.test",),
            (*routes, Route("weighted", Match(), targets, **more)),
            backends,
        )

    def target(self, name: str, version: str, weight: int = WEIGHT_TOTAL, suffix: str = "") -> Target:
        return Target(f"{name}/{version}{suffix}", weight, version, set_response_headers=(("app-version", version),))


@pytest.fixture
def rig() -> Callable[[Callable[[Rig], Awaitable[None]]], None]:
    """Run an async test body with a Rig."""

    def run(body: Callable[[Rig], Awaitable[None]]) -> None:
        async def main() -> None:
            async with AsyncExitStack() as stack:
                await body(Rig(stack))

        asyncio.run(main())

    return run
