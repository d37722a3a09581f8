"""What figures per version cost: Envoy's rate with and without them, and the sidecar beside 100 versions.

One Envoy has a listener that counts and one that does not, and both get the same load by turns (see `listeners.py`);
`headgate sidecar` reads its figures meanwhile. The plain one keeps codes and times per cluster of its own, as Envoy
does by default. Copies are counted while some model is mirrored: that is told apart, for another model's requests.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
from aiohttp import web

from benchmarks.child import cpu_seconds, resident
from benchmarks.listeners import COLUMNS, Compared, Rig, gateway
from benchmarks.report import Report, arguments, machine, progress
from benchmarks.sidecar_child import sidecar
from sidecar.metrics.families import Own, page
from sidecar.metrics.follow import Follower
from xds.bootstrap import SECONDS

WAYS = {"plain": gateway(count_requests=False), "counting": gateway()}
VERSIONS = 100


async def cost(report: Report, starts: int, rounds: int) -> None:
    found = {False: Compared(), True: Compared()}
    for start in range(starts):
        for mirrored, compared in found.items():
            progress(f"Envoy {2 * start + mirrored + 1} of {2 * starts}")
            async with Rig(WAYS, mirrored=mirrored) as rig, sidecar(f"http://127.0.0.1:{rig.envoy.admin_port}"):
                compared.add(await rig.compare(rounds), "plain")
    report.table(f"One worker of Envoy, {starts} starts", COLUMNS, found[False].rows())
    report.table("The same while some model is mirrored", COLUMNS, found[True].rows())
    report.figure("request rate with figures on", found[False].share("counting"), "%", 95, "at least", headline=True)
    report.figure("request rate while some model is mirrored", found[True].share("counting"), "%")


def stats(versions: int, turn: int) -> bytes:
    """What Envoy answers: each version with two codes and three routes."""
    bounds = [round(bound * 1e6) for bound in SECONDS]
    told: list[dict[str, Any]] = [{"name": "server.uptime", "value": 1000 + turn}]
    histograms: list[dict[str, Any]] = []
    for by, count in names(versions, turn):
        sums = ("request_bytes", "response_bytes", "duration_us", "first_byte_us")
        told += [{"name": f"headgate.{kind}.by.{by}", "value": count * 1000} for kind in sums]
        buckets = [
            {"upper_bound": bound, "interval": 0, "cumulative": min(count, 40 * (index + turn))}
            for index, bound in enumerate(bounds)
        ]
        kinds = ("duration.by.", "answered.by.200||-|", "answered.by.503||-|")
        histograms += [{"name": f"headgate.{kind}{by}", "buckets": buckets} for kind in kinds]
    return json.dumps({"stats": [*told, {"histograms": histograms}]}).encode()


def names(versions: int, turn: int) -> Iterator[tuple[str, int]]:
    for index in range(versions):
        model, version = f"default/model-{index // 2}", f"v{index % 2}"
        yield f"v0@{model}|{model}/{version}|{version}", 1000 + turn * 10


def scrape(report: Report) -> None:
    """In this process: the parts that take time, without the HTTP around them."""

    class Nobody:
        async def get(self, path: str) -> bytes:
            return b""

    follower = Follower(Nobody())
    reading, paging = [], []
    for turn in range(30):
        body = stats(VERSIONS, turn)
        began = time.perf_counter()
        follower.take(body)
        read = time.perf_counter()
        text = page(follower.figures, Own())
        paging.append(1e3 * (time.perf_counter() - read))
        reading.append(1e3 * (read - began))
    rows = [
        ["read /stats", f"{len(body) / 1000:,.0f} kB", statistics.median(reading), max(reading)],
        ["write /metrics", f"{len(text) / 1000:,.0f} kB", statistics.median(paging), max(paging)],
    ]
    report.table(f"The sidecar with {VERSIONS} versions", ("step", "size", "median ms", "highest ms"), rows)


async def process(report: Report, seconds: float) -> None:
    """The sidecar as users start it, beside an Envoy that is a page."""
    turn = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal turn
        turn += 1
        return web.Response(body=stats(VERSIONS, turn), content_type="application/json")

    app = web.Application()
    app.router.add_get("/stats", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    admin = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with sidecar(admin) as (pid, url):
            scrapes = []
            async with aiohttp.ClientSession() as session:
                began, spent = time.monotonic(), cpu_seconds(pid)
                while time.monotonic() - began < seconds:
                    asked = time.perf_counter()
                    async with session.get(f"{url}/metrics") as got:
                        body = await got.read()
                    if len(body) > 100_000:
                        scrapes.append(1e3 * (time.perf_counter() - asked))
                    await asyncio.sleep(0.25)
                busy = 100 * (cpu_seconds(pid) - spent) / (time.monotonic() - began)
            report.figure(f"scrape of {VERSIONS} versions", statistics.median(scrapes), "ms", 20, headline=True)
            report.figure("memory of the sidecar", resident(pid) / 1e6, "MB", 60)
            report.figure("CPU of the sidecar, scraped four times a second", busy, "%")
    finally:
        await runner.cleanup()


def main() -> int:
    options = arguments(__doc__)
    report = Report("sidecar_overhead", machine())
    asyncio.run(cost(report, *((3, 30) if options.quick else (8, 60))))
    scrape(report)
    asyncio.run(process(report, 10.0 if options.quick else 30.0))
    return report.close(options.json)


if __name__ == "__main__":
    sys.exit(main())
