"""Whether the sidecar's figures are true: 100,000 requests with known codes and times, through a real Envoy, both ways.

The model servers answer each request with the code and after the time that it asks for; the clients remember both, by
the version that answered. The same is then read from `headgate sidecar`: what Envoy counts by itself, and what its
stream of single requests tells. Counts have to be equal; p50 and p99 in the bucket of the truth, or in the next one.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from benchmarks.child import Child
from benchmarks.listeners import MANIFEST, MODEL
from benchmarks.plane import Plane, rollouts
from benchmarks.report import Report, arguments, machine, progress
from benchmarks.sidecar_child import sidecar
from sidecar.metrics.totals import Times
from xds.bootstrap import SECONDS
from xds.ir import Gateway, Listener, Stream

CONNECTIONS = 128
SHARES = {"p50": 0.5, "p99": 0.99}
WAYS = {"counted by Envoy": "headgate_request", "by the stream": "headgate_stream_request"}
_SAMPLE = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Told:
    """What is said of one version."""

    codes: Mapping[int, int]
    quantiles: Mapping[str, float]


async def truth(folder: Path, port: int, requests: int) -> dict[str, Told]:
    """What the clients know, in seconds that the servers were asked to take."""
    file = folder / "truth.json"
    script = ("truth_peers.py", "ask", port, "m.example", requests, CONNECTIONS, 7, file)
    with Child.script(*map(str, script)) as clients:
        written = await asyncio.to_thread(clients.hear, "written", 600.0)
    if written["wrong"]:
        raise RuntimeError(f"{written['wrong']} requests got another code than they asked for")
    known: dict[str, Any] = json.loads(file.read_text())
    return {
        version: Told({int(code): count for code, count in codes.items()}, _exact(known["times"][version]))
        for version, codes in sorted(known["codes"].items())
    }


def _exact(microseconds: list[int]) -> dict[str, float]:
    ordered = sorted(microseconds)
    return {name: ordered[int(share * (len(ordered) - 1))] / 1e6 for name, share in SHARES.items()}


def read(page: str, family: str) -> dict[str, Told]:
    """One way's figures of each version, of a page for Prometheus."""
    codes: dict[str, Counter[int]] = {}
    buckets: dict[str, Counter[float]] = {}
    for name, said, value in _SAMPLE.findall(page):
        labels = dict(_LABEL.findall(said))
        version = labels.get("version", "")
        if name == f"{family}s_total":
            codes.setdefault(version, Counter())[int(labels["code"])] += int(float(value))
        elif name == f"{family}_duration_seconds_bucket" and labels["le"] != "+Inf":
            buckets.setdefault(version, Counter())[float(labels["le"])] += int(float(value))
    return {version: Told(counts, _quantiles(buckets.get(version, Counter()))) for version, counts in codes.items()}


def _quantiles(buckets: Counter[float]) -> dict[str, float]:
    times = Times(tuple(sorted(buckets)), tuple(buckets[bound] for bound in sorted(buckets)))
    return {name: times.quantile(share) or 0.0 for name, share in SHARES.items()}


async def run(report: Report, requests: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        stream = free.getsockname()[1]
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        servers = stack.enter_context(Child.script("truth_peers.py", "serve", "v1", "v2"))
        gateway = Gateway("default", (Listener("http", "127.0.0.1", 0),), stream=Stream())
        plane = await stack.enter_async_context(Plane(gateway=gateway))
        (located,) = rollouts(MANIFEST.format(**servers.hear("listening")["ports"]))
        plane.put(located)
        await plane.start_envoy(sidecar=("127.0.0.1", stream))
        await plane.acked(MODEL)
        assert plane.envoy is not None
        _, url = await stack.enter_async_context(sidecar(f"http://127.0.0.1:{plane.envoy.admin_port}", stream))
        first = await truth(folder, plane.port, 200)  # by then Envoy is connected
        await settled(url, total(first))
        progress(f"{requests:,} requests")
        known = _both(first, await truth(folder, plane.port, requests))
        page = await settled(url, total(known))
    compare(report, known, page)


def _both(first: Mapping[str, Told], rest: Mapping[str, Told]) -> dict[str, Told]:
    """The first 200 are counted, too; they change no quantile of the many."""
    return {
        version: Told(Counter(one.codes) + Counter(first[version].codes), one.quantiles)
        for version, one in rest.items()
    }


def total(known: Mapping[str, Told]) -> int:
    return sum(sum(one.codes.values()) for one in known.values())


async def settled(url: str, wanted: int) -> str:
    """The page once both ways have told of so many, or of no more for 10 s."""
    async with aiohttp.ClientSession() as session:
        for _ in range(40):
            async with session.get(f"{url}/metrics") as answer:
                page = await answer.text()
            counted = [total(read(page, family)) for family in WAYS.values()]
            timed = re.findall(r"^headgate_\w*request_duration_seconds_count\{.*\} (\d+)$", page, re.MULTILINE)
            if min(counted) >= wanted and sum(map(int, timed)) >= 2 * wanted:
                break
            await asyncio.sleep(0.25)
        return page


def compare(report: Report, known: Mapping[str, Told], page: str) -> None:
    ways = {way: read(page, family) for way, family in WAYS.items()}
    nobody = Told({}, dict.fromkeys(SHARES, 0.0))
    rows: list[list[Any]] = []
    wrong, apart = 0, 0
    for version, one in known.items():
        found = [ways[way].get(version, nobody) for way in WAYS]
        for code in sorted({*one.codes, *(code for each in found for code in each.codes)}):
            counts = [one.codes.get(code, 0), *(each.codes.get(code, 0) for each in found)]
            wrong += sum(abs(count - counts[0]) for count in counts[1:])
            rows.append([f"{version} {code}", *(f"{count:,}" for count in counts)])
        for name, exact in one.quantiles.items():
            told = [each.quantiles[name] for each in found]
            apart = max(apart, *(abs(bisect_left(SECONDS, each) - bisect_left(SECONDS, exact)) for each in told))
            rows.append([f"{version} {name}", *(f"{1000 * each:.1f} ms" for each in (exact, *told))])
    report.table(f"{total(known):,} requests", ("version", "truth", *WAYS), rows)
    report.figure("counts that are wrong, both ways", wrong, "", 0, headline=True)
    report.figure("quantiles: buckets from the truth, at most", apart, "", 1, headline=True)
    lost = sum(float(value) for name, _, value in _SAMPLE.findall(page) if name == "headgate_stream_lost_total")
    report.figure("entries lost", lost, "", 0)


def main() -> int:
    options = arguments(__doc__)
    report = Report("sidecar_truth", machine())
    asyncio.run(run(report, 10_000 if options.quick else 100_000))
    return report.close(options.json)


if __name__ == "__main__":
    sys.exit(main())
