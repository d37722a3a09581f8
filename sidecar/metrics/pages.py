"""The sidecar's HTTP, read-only: /metrics, /versions, /healthz, /readyz."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from sidecar.metrics.families import content_type, page
from sidecar.metrics.follow import Follower
from sidecar.metrics.windows import WINDOWS

_PATHS = ("/metrics", "/versions", "/healthz", "/readyz")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(follower: Follower) -> web.Application:
    """All pages over one follower."""
    pages = _Pages(follower)
    app = web.Application(middlewares=[_errors_as_json])
    handlers = (pages.metrics, pages.versions, pages.healthz, pages.readyz)
    app.add_routes([web.get(path, handler) for path, handler in zip(_PATHS, handlers, strict=True)])
    return app


class _Pages:
    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    async def metrics(self, request: web.Request) -> web.Response:
        kind = content_type(request.headers.get("Accept", ""))
        body = page(self._follower.figures, self._follower.own, kind).encode()
        return web.Response(body=body, headers={"Content-Type": kind})

    async def versions(self, request: web.Request) -> web.Response:
        """?model=NAMESPACE/NAME gives that one only."""
        wanted = request.query.get("model")
        versions = self._follower.versions()
        if wanted is not None:
            namespace, _, name = wanted.rpartition("/")
            versions = [one for one in versions if (one["namespace"], one["model"]) == (namespace, name)]
        age = self._follower.age
        return _json(
            {
                "ready": self._follower.unready is None,
                "trouble": self._follower.trouble,
                "age_seconds": None if age is None else round(age, 3),
                "windows": WINDOWS,
                "versions": versions,
            }
        )

    async def healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        unready = self._follower.unready
        if unready is not None:
            return web.Response(text=f"not ready: {unready}\n", status=503)
        return web.Response(text="ready\n")


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
