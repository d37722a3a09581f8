"""How the plugins of a server get on: /metrics for Prometheus, and /healthz."""

from __future__ import annotations

import time
from collections.abc import Iterable

from aiohttp import web

from sidecar.ext_proc.application import Application
from sidecar.instruments import Family, Labels, Sample
from sidecar.metrics.families import content_type, page


def pages(application: Application) -> web.Application:
    """Both pages."""

    async def metrics(request: web.Request) -> web.Response:
        kind = content_type(request.headers.get("Accept", ""))
        now = time.monotonic()
        found = merged(family for one in application.pipelines() for family in one.families(now))
        return web.Response(body=page({}, None, kind, found).encode(), headers={"Content-Type": kind})

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    made = web.Application()
    made.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz)])
    return made


def merged(families: Iterable[Family]) -> tuple[Family, ...]:
    """One family of each name: what the same plugin counted for models with lists of their own is added up."""
    found: dict[str, tuple[Family, dict[tuple[str, Labels], float]]] = {}
    for family in families:
        samples = found.setdefault(family.name, (family, {}))[1]
        for one in family.samples:
            key = (one.suffix, one.labels)
            samples[key] = samples.get(key, 0) + one.value
    return tuple(
        Family(first.name, first.kind, first.help, tuple(Sample(*key, value) for key, value in samples.items()))
        for first, samples in found.values()
    )
