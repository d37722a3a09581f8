"""The sidecar's HTTP, read-only: /metrics, /versions, /healthz, /readyz."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from aiohttp import web

from sidecar.instruments import Family
from sidecar.metrics.exemplars import ByKey
from sidecar.metrics.families import OPENMETRICS, Own, content_type, page
from sidecar.metrics.llm import Llms
from sidecar.metrics.llm import brief as llm_brief
from sidecar.metrics.stats import Key
from sidecar.metrics.totals import Figures
from sidecar.metrics.windows import WINDOWS

_PATHS = ("/metrics", "/versions", "/healthz", "/readyz")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Known(Protocol):
    """What the pages tell: follow.py's `Follower` beside an Envoy, counted.py's `Counted` without one."""

    @property
    def figures(self) -> Mapping[Key, Figures]: ...

    @property
    def own(self) -> Own | None: ...

    @property
    def age(self) -> float | None: ...

    @property
    def trouble(self) -> str | None: ...

    @property
    def unready(self) -> str | None: ...

    def versions(self, window: str | None = None) -> list[dict[str, Any]]: ...


class More:
    """What other parts add to the pages, asked for at each reading. Override what you have."""

    def families(self) -> tuple[Family, ...]:
        """Further metrics: those of plugins, or of the stream of requests."""
        return ()

    def exemplars(self) -> ByKey:
        return {}

    @property
    def llms(self) -> Llms | None:
        """Tokens and their times for /versions, where somebody is told of them."""
        return None


def application(known: Known, more: More | None = None) -> web.Application:
    """All pages over what is known, and `more`."""
    pages = _Pages(known, more or More())
    app = web.Application(middlewares=[_errors_as_json])
    handlers = (pages.metrics, pages.versions, pages.healthz, pages.readyz)
    app.add_routes([web.get(path, handler) for path, handler in zip(_PATHS, handlers, strict=True)])
    return app


class _Pages:
    def __init__(self, known: Known, more: More) -> None:
        self._known, self._more = known, more

    async def metrics(self, request: web.Request) -> web.Response:
        kind = content_type(request.headers.get("Accept", ""))
        exemplars = self._more.exemplars() if kind == OPENMETRICS else {}
        body = page(self._known.figures, self._known.own, kind, self._more.families(), exemplars).encode()
        return web.Response(body=body, headers={"Content-Type": kind})

    async def versions(self, request: web.Request) -> web.Response:
        """?model=NAMESPACE/NAME gives that one only, ?window=10s only that window, ?brief rates and quantiles only."""
        wanted, window = request.query.get("model"), request.query.get("window")
        if window is not None and window not in WINDOWS:
            return _json({"error": f"no window {window!r}", "hint": f"there are {', '.join(WINDOWS)}"}, 400)
        versions, llms = self._known.versions(window), self._more.llms
        spoken = [] if llms is None else llms.versions(window)
        if wanted is not None:
            namespace, _, name = wanted.rpartition("/")
            versions = [one for one in versions if (one["namespace"], one["model"]) == (namespace, name)]
            spoken = [one for one in spoken if (one["namespace"], one["model"]) == (namespace, name)]
        if "brief" in request.query:
            versions, spoken = [_brief(one) for one in versions], [llm_brief(one) for one in spoken]
        age = self._known.age
        return _json(
            {
                "ready": self._known.unready is None,
                "trouble": self._known.trouble,
                "age_seconds": None if age is None else round(age, 3),
                "windows": WINDOWS,
                "versions": versions,
                **({} if llms is None else {"llm": spoken}),
            }
        )

    async def healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        unready = self._known.unready
        if unready is not None:
            return web.Response(text=f"not ready: {unready}\n", status=503)
        return web.Response(text="ready\n")


_BRIEF = ("seconds", "requests", "errors", "rps", "duration_seconds")


def _brief(version: dict[str, Any]) -> dict[str, Any]:
    """For who asks every second: a quarter of the bytes."""
    windows = {name: {key: told[key] for key in _BRIEF} for name, told in version["windows"].items()}
    return {**version, "total": {"requests": version["total"]["requests"]}, "windows": windows}


@web.middleware
async def _errors_as_json(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status == 404:
            hint = f"there are {', '.join(_PATHS)}"
            return _json({"error": f"no page {request.path!r}", "hint": hint}, 404)
        return _json({"error": error.reason.lower(), "hint": "everything here is read with GET"}, error.status)


def _json(document: Any, status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(document) + "\n", content_type="application/json", status=status)
