"""How the plugins of a server get on: /metrics for Prometheus, and /healthz."""

from __future__ import annotations

import time

from aiohttp import web

from sidecar.ext_proc.application import Application
from sidecar.instruments import added
from sidecar.metrics.families import content_type, page


def pages(application: Application) -> web.Application:
    """Both pages."""

    async def metrics(request: web.Request) -> web.Response:
        kind = content_type(request.headers.get("Accept", ""))
        now = time.monotonic()
        found = added(family for one in application.pipelines() for family in one.families(now))
        return web.Response(body=page({}, None, kind, found).encode(), headers={"Content-Type": kind})

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    made = web.Application()
    made.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz)])
    return made
