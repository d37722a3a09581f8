"""The control plane, put together: source -> store -> engine -> sink -> caches -> Envoys, and HTTP beside it.

```
 manifests ─► Folder ─┐
 cluster ─► Kubernetes┴► Store ─► Engine ─► Sink ─► Cache per gateway ─► XdsServer ─► Envoys
             probes ──────┘                            ▲                    │
       certificates ───────────────────────────────────┘   HTTP ◄── Status ─┘
```

The xDS port opens last: an Envoy that connects to a half-loaded control plane would be told that the models which
have not been read yet are gone, and a version whose readiness is not known yet would lose its traffic.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any

from prometheus_client import CollectorRegistry

from headgate.certificates import Certificates
from headgate.cluster import ClusterParts
from headgate.cluster_metrics import ClusterMetrics
from headgate.config import Config
from headgate.http import HttpServer
from headgate.replica import LocalReplica, identity
from headgate.sink import Sink
from headgate.status import Status
from headgate.telemetry import Telemetry
from router.engine import Engine
from router.hints import counted
from router.kube.client import connect
from router.kube.states import States
from router.probe import Prober
from router.sources.folder import Folder
from router.state_file import StateFile
from router.store import Store
from xds.fleet import Fleet
from xds.metrics import XdsMetrics
from xds.server import XdsServer
from xds.tls import ServerTls
from xds.translate import warm_up

log = logging.getLogger("headgate")

READINESS_KNOWN_WITHIN = 5.0
"""Seconds that the xDS port waits for the first answers of the probes."""


class CannotListen(Exception):
    """A port cannot be opened: what happened, and which setting changes it."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.hint = hint


class ControlPlane:
    """One control plane in this process: `async with ControlPlane(config) as plane`, or `start` and `stop`.

    `start` returns when Envoys can connect. Both have to be called by the same task; when a part of the control plane
    fails, that task is cancelled and `stop` raises the failure.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        gateways = {gateway.name: gateway.as_ir() for gateway in config.gateways}
        self.registry = CollectorRegistry()
        self.store = Store()
        self.sink = Sink(gateways.values())
        self._state = StateFile(config.state_path) if config.state_path is not None else None
        self._states = States() if config.kubernetes.enabled else None
        self.engine = Engine(self.store, self.sink, gateways=gateways, states=self._states or self._state, hold=True)
        self._server = XdsServer(
            self.sink.caches,
            address=config.xds.address,
            port=config.xds.port,
            tls=_server_tls(config),
            keepalive=config.xds.keepalive,
            on_progress=self._progress,
            metrics=XdsMetrics(self.registry),
        )
        self._telemetry = Telemetry(config.telemetry.sidecars)
        self.status = Status(self.store, self.engine, self.sink, self.fleet, self._telemetry)
        self.replica = LocalReplica(identity(), self.engine, self.sink, self.fleet, self._server.loads)
        self._http = HttpServer(
            self.status,
            self.registry,
            self.checks,
            address=config.http.address,
            port=config.http.port,
            replica=self.replica,
            notes=self.notes,
        )
        self._cluster: ClusterParts | None = None
        self._loaded = "cluster read" if config.kubernetes.enabled else "manifests loaded"
        self._checks = {self._loaded: False, "readiness known": False, "xDS port open": False}
        self._stack = AsyncExitStack()

    @property
    def xds_port(self) -> int:
        return self._server.port

    @property
    def http_port(self) -> int:
        return self._http.port

    @property
    def fleet(self) -> Fleet:
        """Who is connected, and what each of them has applied."""
        return self._server.fleet

    def checks(self) -> Mapping[str, bool]:
        """What `/readyz` asks."""
        return dict(self._checks)

    def notes(self) -> Mapping[str, str]:
        """What `/readyz?verbose` tells besides."""
        return self._cluster.notes() if self._cluster is not None else {}

    def _progress(self, gateway: str, models: frozenset[str]) -> None:
        if self._cluster is not None:
            self._cluster.progress(models)

    async def start(self) -> None:
        """Open HTTP, load the manifests, learn who is ready, and only then let Envoys in."""
        http, xds = self.config.http, self.config.xds
        await _check_free("xDS", xds.address, xds.port)
        async with _alone(CannotListen), AsyncExitStack() as stack:
            await _listen("HTTP", self._http.start, http.address, http.port)
            stack.push_async_callback(self._http.stop)
            if self._states is not None:  # before the tasks that use its connections, so that it is closed after them
                self._cluster = await self._follow_cluster(stack, self._states)
            group = await stack.enter_async_context(_Tasks())
            loaded = self._run_parts(group)
            await loaded.wait()
            self._checks[self._loaded] = True
            await self.engine.settled(READINESS_KNOWN_WITHIN)
            self._checks["readiness known"] = True
            await _listen("xDS", self._server.start, xds.address, xds.port)
            stack.push_async_callback(self._server.stop)
            self._checks["xDS port open"] = True
            self.replica.begin()
            if self._cluster is not None:
                taking_part = await stack.enter_async_context(_Tasks())
                taking_part.create_task(self._cluster.run(self.http_port))
            self._stack = stack.pop_all()

    async def stop(self) -> None:
        """Close the streams and end all parts. Envoys keep their routes."""
        await self.__aexit__(None, None, None)

    async def __aenter__(self) -> ControlPlane:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._checks = dict.fromkeys(self._checks, False)
        await self._stack.__aexit__(kind, error, trace)

    async def _follow_cluster(self, stack: AsyncExitStack, states: States) -> ClusterParts:
        section = self.config.kubernetes
        agent = f"headgate/{self.replica.identity}"
        connecting = connect(kubeconfig=section.kubeconfig, context=section.context, agent=agent)
        client = await stack.enter_async_context(await connecting)
        cluster = ClusterParts(self.config, client, states, self.store, self.engine, self.replica)
        self.registry.register(ClusterMetrics(cluster))
        return cluster

    def _run_parts(self, group: asyncio.TaskGroup) -> asyncio.Event:
        """Start every task; returns what tells that all rollouts are loaded."""
        config, loaded = self.config, asyncio.Event()
        parts: list[Coroutine[Any, Any, None]] = []
        if self._cluster is not None:
            loaded = self._cluster.source.loaded
            parts.append(self._cluster.source.run(self.store))
        elif config.manifests is not None:
            folder = Folder(config.manifests, hold=config.mass_deletion_hold)
            loaded = folder.loaded
            parts.append(folder.run(self.store))
        else:
            loaded.set()
        certificates = Certificates(
            config.gateways, self.sink.secrets, lambda problems: self.store.report("certificates", problems)
        )
        certificates.load()
        parts += (self.engine.run(loaded), self.sink.run(), certificates.run())
        parts.append(Prober(self.store, concurrency=config.probes.concurrency).run())
        if config.telemetry.sidecars:
            parts.append(self._telemetry.run())
        if self._state is not None:
            parts.append(self._state.run(self.store))
        for part in parts:
            group.create_task(part)
        return loaded


class _Tasks(asyncio.TaskGroup):
    """A TaskGroup whose tasks are cancelled when its block is left."""

    def __init__(self) -> None:
        super().__init__()
        self._mine: list[asyncio.Task[Any]] = []

    def create_task(self, coro: Any, **more: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = super().create_task(coro, **more)
        self._mine.append(task)
        return task

    async def __aexit__(self, *error: Any) -> None:
        for task in self._mine:
            task.cancel()
        await super().__aexit__(*error)


@contextlib.asynccontextmanager
async def _alone(kind: type[Exception]) -> AsyncIterator[None]:
    """Let this failure out of the group that a TaskGroup makes of it, unless others failed as well."""
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1 and isinstance(group.exceptions[0], kind):
            raise group.exceptions[0] from None
        raise


async def _listen(name: str, start: Callable[[], Awaitable[None]], address: str, port: int) -> None:
    try:
        await start()
    except OSError as error:
        raise _cannot_listen(name, address, port, error) from error


def _cannot_listen(name: str, address: str, port: int, error: OSError) -> CannotListen:
    number = error.errno or 0  # negative: the resolver's own
    why = (os.strerror(number) if number > 0 else error.strerror or str(error)).lower()
    part = name.lower()
    return CannotListen(
        f"cannot open the {name} port {address}:{port}: {why}", f"set {part}.port in the configuration, or --{part}"
    )


async def _check_free(name: str, address: str, port: int) -> None:
    """Say at once that a port cannot be opened that will be opened later, and why, which gRPC does not tell."""
    try:
        loop = asyncio.get_running_loop()
        for family, kind, _, _, place in await loop.getaddrinfo(address, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(place)
                trial.listen(1)
    except OSError as error:
        raise _cannot_listen(name, address, port, error) from error


def _server_tls(config: Config) -> ServerTls | None:
    tls = config.xds.tls
    return ServerTls(tls.certificate, tls.key, tls.client_ca, tls.check_node) if tls is not None else None


async def serve(config: Config) -> None:
    """Run until SIGTERM or SIGINT; a second signal ends the process at once."""
    loop, task, asked = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()
    assert task is not None

    def end() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        log.info("stopping; Envoys keep their routes")
        asked.set()
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    try:
        warm_up()
        async with ControlPlane(config) as plane:
            calm_collector()
            models = counted(len(plane.engine.models()), "model")
            log.info("%s; xDS on %s:%d", models, config.xds.address, plane.xds_port)
            for gateway in config.gateways:
                if gateway.plugins is not None and (why := gateway.plugins.fallback):
                    told = (
                        "gateway %s: plugins run beside Envoy, not inside it: %s; run headgate plugin serve beside it"
                    )
                    log.warning(told, gateway.name, why)
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        if not asked.is_set():
            raise
        task.uncancel()


def calm_collector() -> None:
    """Keep the garbage collector from walking thousands of loaded models in the middle of a push.

    What is loaded now is never looked at again, and the oldest generation rarely: about 8 % of a push to 1,000 Envoys.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1_000)


def run(config: Config) -> None:
    """Run `serve` on the fastest event loop that is installed."""
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        from uvloop import new_event_loop as loop_factory
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(serve(config))
