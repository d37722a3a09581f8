"""What figures per version cost: Envoy's CPU per request with and without them, and the sidecar beside 100 versions.

Envoys with the same routes to the same server, one of them not counting, get the same load in turns. The figure is
requests per second of Envoy's CPU: its request rate when it is the bottleneck, whatever else the machine does.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from aiohttp import web

from benchmarks.child import Child, cpu_seconds, resident
from benchmarks.plane import Plane, rollouts
from benchmarks.report import ROOT, Report, arguments, machine, progress
from sidecar.metrics.families import Own, page
from sidecar.metrics.follow import Follower
from xds.bootstrap import SECONDS
from xds.ir import Gateway, Listener

MODEL = "default/m"
CONNECTIONS = 16
WAYS = {"plain": (False, False), "counting": (True, True), "without copies": (True, False)}
"""Whether requests are counted, and mirrored copies."""
VERSIONS = 100

MANIFEST = """
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata: {{name: m}}
spec:
  hosts: [m.example]
  strategy: canary
  versions:
  - {{name: v1, weight: 50, backend: {{endpoints: ["127.0.0.1:{v1}"]}}}}
  - {{name: v2, weight: 50, backend: {{endpoints: ["127.0.0.1:{v2}"]}}}}
"""


async def loaded(plane: Plane, seconds: float, folder: Path) -> float:
    """Requests per second of Envoy's CPU."""
    assert plane.envoy is not None
    file = folder / "records"
    with Child.script("traffic.py", "http", plane.port, "m.example", CONNECTIONS, file) as load:
        await asyncio.to_thread(load.hear, "started")
        began = cpu_exactly(plane.envoy.pid)
        await asyncio.sleep(seconds)
        load.end_input()
        written = await asyncio.to_thread(load.hear, "written")
        spent = cpu_exactly(plane.envoy.pid) - began
    if written["failed"]:
        raise RuntimeError(f"{written['failed']} requests failed")
    return float(written["requests"]) / spent


def cpu_exactly(pid: int) -> float:
    """CPU seconds of a process whose threads stay, to the microsecond: rounds may be short, and therefore many."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in tasks) / 1e9


async def cost(report: Report, rounds: int, seconds: float) -> None:
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        servers = stack.enter_context(Child.script("servers.py", "http", "v1", "v2"))
        ports = servers.hear("listening")["ports"]
        planes: dict[str, Plane] = {}
        for name, (counts, copies) in WAYS.items():
            listeners = (Listener("http", "127.0.0.1", 0),)
            gateway = Gateway("default", listeners, count_requests=counts, count_copies=copies)
            plane = planes[name] = await stack.enter_async_context(Plane(gateway=gateway))
            (located,) = rollouts(MANIFEST.format(**ports))
            plane.put(located)
            await plane.start_envoy()
            await plane.acked(MODEL)
            await loaded(plane, 0.5, folder)
        for turn in range(rounds):
            progress(f"round {turn + 1} of {rounds}")
            for name in list(WAYS)[:: 1 if turn % 2 else -1]:
                rates[name].append(await loaded(planes[name], seconds, folder))
    shares = {
        name: statistics.median([100 * counted / plain for counted, plain in zip(found, rates["plain"], strict=True)])
        for name, found in rates.items()
    }
    rows = [
        [name, statistics.median(found), 1e6 / statistics.median(found), shares[name]] for name, found in rates.items()
    ]
    head = ("Envoy", "requests per CPU second", "us a request", "% of plain")
    report.table("Envoy with a server that answers at once", head, rows)
    report.figure("request rate with figures on", shares["counting"], "%", 95, "at least", headline=True)
    report.figure("request rate without those of copies", shares["without copies"], "%", 95, "at least")


def stats(versions: int, turn: int) -> bytes:
    """What Envoy answers: each version with two codes and three routes."""
    bounds = [round(bound * 1e6) for bound in SECONDS]
    told: list[dict[str, Any]] = [{"name": "server.uptime", "value": 1000 + turn}]
    histograms: list[dict[str, Any]] = []
    for by, count in names(versions, turn):
        told += [{"name": f"headgate.requests.by.{code}||-|{by}", "value": count} for code in (200, 503)]
        for kind in ("request_bytes", "response_bytes", "duration_us", "first_byte_us"):
            told.append({"name": f"headgate.{kind}.by.{by}", "value": count * 1000})
        buckets = [
            {"upper_bound": bound, "interval": 0, "cumulative": min(count, 40 * (index + turn))}
            for index, bound in enumerate(bounds)
        ]
        histograms += [{"name": f"headgate.{kind}.by.{by}", "buckets": buckets} for kind in ("duration", "first_byte")]
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
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "headgate", "sidecar", "--envoy", admin, "--listen", "127.0.0.1:0"),
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        assert child.stderr is not None
        line = (await child.stderr.readline()).decode()
        url = f"http://{line.split()[-1]}"
        scrapes = []
        async with aiohttp.ClientSession() as session:
            began, spent = time.monotonic(), cpu_seconds(child.pid)
            while time.monotonic() - began < seconds:
                asked = time.perf_counter()
                async with session.get(f"{url}/metrics") as got:
                    body = await got.read()
                if len(body) > 100_000:
                    scrapes.append(1e3 * (time.perf_counter() - asked))
                await asyncio.sleep(0.25)
            busy = 100 * (cpu_seconds(child.pid) - spent) / (time.monotonic() - began)
        report.figure(f"scrape of {VERSIONS} versions", statistics.median(scrapes), "ms", 20, headline=True)
        report.figure("memory of the sidecar", resident(child.pid) / 1e6, "MB", 60)
        report.figure("CPU of the sidecar, scraped four times a second", busy, "%")
    finally:
        child.terminate()
        await child.wait()
        await runner.cleanup()


def main() -> int:
    options = arguments(__doc__)
    report = Report("sidecar_overhead", machine())
    asyncio.run(cost(report, 6 if options.quick else 40, 0.5))
    scrape(report)
    asyncio.run(process(report, 10.0 if options.quick else 30.0))
    return report.close(options.json)


if __name__ == "__main__":
    sys.exit(main())
