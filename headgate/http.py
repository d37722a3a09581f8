"""The control plane's HTTP: health, metrics and status for people, probes and scrapers. Read-only, JSON.

/healthz  /readyz[?verbose]  /metrics  /status  /models  /models/{ns}/{name}[/arm?key=K]  /envoys
/fleet?model=M&cluster=C, what replicas ask each other
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from importlib.metadata import version
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage
from prometheus_client import CollectorRegistry, Gauge, Info, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from headgate.documents import State, unknown
from headgate.status import Status
from router.replica import Replica

Checks = Callable[[], Mapping[str, bool]]
"""What has to be true before traffic may depend on this process, in plain words."""

MOST_ASKED = 1_000
"""Models and clusters together in one request for /fleet."""

Notes = Callable[[], Mapping[str, str]]
"""What people should know although traffic may depend on this process: by subject, in plain words."""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _quiet_about_clients(record: logging.LogRecord) -> bool:
    """Garbage from a client is answered with 400; a traceback in our log would help nobody."""
    return not (record.exc_info and isinstance(record.exc_info[1], BadHttpMessage))


_log = logging.getLogger("headgate.http")
_log.addFilter(_quiet_about_clients)


class HttpServer:
    """Serves one `Status`. `start` raises OSError when the port is taken."""

    def __init__(
        self,
        status: Status,
        registry: CollectorRegistry,
        checks: Checks,
        *,
        address: str,
        port: int,
        replica: Replica | None = None,
        notes: Notes = dict,
    ) -> None:
        self._address, self._wanted_port = address, port
        app = application(status, registry, checks, replica, notes)
        self._runner = web.AppRunner(app, access_log=None, logger=_log, shutdown_timeout=1.0)
        self.port = 0

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, self._address, self._wanted_port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()


def application(
    status: Status,
    registry: CollectorRegistry,
    checks: Checks,
    replica: Replica | None = None,
    notes: Notes = dict,
) -> web.Application:
    """All routes over one `Status`, and what `replica` says to the others if there is one."""
    pages = _Pages(status, _Metrics(status, registry), checks, notes)
    app = web.Application(middlewares=[_errors_as_json])
    app.add_routes(
        [
            web.get("/healthz", pages.healthz),
            web.get("/readyz", pages.readyz),
            web.get("/metrics", pages.metrics),
            web.get("/status", pages.status),
            web.get("/models", pages.models),
            web.get("/models/{namespace}/{name}", pages.model),
            web.get("/models/{namespace}/{name}/arm", pages.arm),
            web.get("/envoys", pages.envoys),
        ]
    )
    if replica is not None:
        app.add_routes([web.get("/fleet", _FleetPage(replica).answer)])
    return app


class _Pages:
    def __init__(self, status: Status, metrics: _Metrics, checks: Checks, notes: Notes) -> None:
        self._status, self._metrics, self._checks, self._notes = status, metrics, checks, notes

    async def healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        checks = self._checks()
        ready = all(checks.values())
        if "verbose" in request.query:
            lines = [f"[{'+' if passed else '-'}] {name}" for name, passed in checks.items()]
            lines += [f"[i] {subject}: {told}" for subject, told in self._notes().items()]
            text = "\n".join([*lines, "ready" if ready else "not ready"])
        else:
            failed = ", ".join(name for name, passed in checks.items() if not passed)
            text = "ready" if ready else f"not ready: {failed}"
        return web.Response(text=text + "\n", status=200 if ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        body, content_type = await self._metrics.page(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def status(self, request: web.Request) -> web.StreamResponse:
        rest = {
            "version": version("headgate"),
            "ready": all(self._checks().values()),
            "problems": self._status.problems(),
            "gateways": self._status.gateways(),
            "envoys": self._status.envoys(),
            "sidecars": self._status.sidecars(),
        }
        head = json.dumps(rest)[:-1] + ',"models":'
        return await _stream(request, head, self._status.models(), "}\n")

    async def models(self, request: web.Request) -> web.StreamResponse:
        return await _stream(request, "", self._status.models(), "\n")

    async def model(self, request: web.Request) -> web.Response:
        key = _key(request)
        found = self._status.model(key)
        return _json(found) if found is not None else _json(unknown("model", key, self._status.names()), 404)

    async def arm(self, request: web.Request) -> web.Response:
        key, user = _key(request), request.query.get("key")
        if user is None:
            return _json({"error": "key is missing", "hint": "ask /models/NAMESPACE/NAME/arm?key=USER"}, 400)
        if key not in self._status.names():
            return _json(unknown("model", key, self._status.names()), 404)
        found = self._status.arm(key, user)
        if found is None:
            return _json({"error": f"{key} is not sticky", "hint": "set spec.sticky.header in its manifest"}, 409)
        return _json(found)

    async def envoys(self, request: web.Request) -> web.Response:
        return _json(self._status.envoys())


class _FleetPage:
    """A Report as JSON. The address line of a request bounds what one can ask; this bounds what it costs."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def answer(self, request: web.Request) -> web.Response:
        query = request.query
        odd = sorted({name for name in query if name not in ("model", "cluster")})
        if odd:
            return _json({"error": f"unknown parameter {odd[0]!r}", "hint": "ask /fleet?model=M&cluster=C"}, 400)
        if len(query) > MOST_ASKED:
            hint = f"ask for at most {MOST_ASKED} models and clusters at a time"
            return _json({"error": f"{len(query)} parameters are too many", "hint": hint}, 400)
        report = await self._replica.report(query.getall("model", []), query.getall("cluster", []))
        return _json(report.to_json())


class _Metrics:
    """Figures that are counted when somebody asks, beside those that the xDS server keeps."""

    def __init__(self, status: Status, registry: CollectorRegistry) -> None:
        self._status, self._registry = status, registry
        self._models = Gauge("headgate_models", "Models by state.", ("gateway", "state"), registry=registry)
        self._problems = Gauge(
            "headgate_problems", "Problems that somebody should mend.", ("severity",), registry=registry
        )
        Info("headgate_build", "What is running.", registry=registry).info({"version": version("headgate")})
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

    async def page(self, accept: str) -> tuple[bytes, str]:
        states, severities = await self._status.states(), self._status.severities()
        for gateway in self._status.gateway_names():
            for state in State:
                self._models.labels(gateway, state.value).set(states[gateway, state])
        for severity in ("error", "warning"):
            self._problems.labels(severity).set(severities[severity])
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


@web.middleware
async def _errors_as_json(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status == 404:
            paths = [resource.canonical for resource in request.app.router.resources()]
            return _json({"error": f"no page {request.path!r}", "hint": f"there are {', '.join(paths)}"}, 404)
        return _json({"error": error.reason.lower(), "hint": "everything here is read with GET"}, error.status)


async def _stream(
    request: web.Request, head: str, items: AsyncIterator[dict[str, Any]], tail: str
) -> web.StreamResponse:
    """A JSON list with one line per item, written while it is made: 10,000 models would block the loop otherwise."""
    response = web.StreamResponse(headers={"Content-Type": "application/json; charset=utf-8"})
    await response.prepare(request)
    pending, separator = [head, "["], "\n"
    async for item in items:
        pending += separator, json.dumps(item)
        separator = ",\n"
        if len(pending) >= 200:
            await response.write("".join(pending).encode())
            pending.clear()
    pending += "\n]", tail
    await response.write("".join(pending).encode())
    await response.write_eof()
    return response


def _key(request: web.Request) -> str:
    return f"{request.match_info['namespace']}/{request.match_info['name']}"


def _json(document: Any, status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(document, indent=2) + "\n", content_type="application/json", status=status)
