"""1,000 weight flips and 50 add/promote/delete cycles under constant load: does a request fail, are the shares right?

One real Envoy, two models (HTTP/1 and gRPC) under load from processes of their own; both models change at once, by
manifests that are parsed and put as a source would. Between two flips the weights are held for a sample; an
answer counts for a setting when it was asked after Envoy's ACK and came before the next change.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.child import Child
from benchmarks.plane import Plane, now, rollouts
from benchmarks.report import Report, arguments, machine, progress
from benchmarks.samples import binomial_interval, median, percentile
from benchmarks.traffic import FAILED, Records

KINDS = ("http", "grpc")
CONNECTIONS = {"http": 8, "grpc": 4}
SETTINGS = ((100, 0), (0, 100), (50, 50), (90, 10), (25, 75), (1, 99), (67, 33))
HOLD = 0.030
AFTER_ACK = 0.002
"""Envoy's main thread ACKs; its worker has the new routes a moment later."""
CALLED = {"http": "HTTP/1", "grpc": "gRPC"}

HEAD = """
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata: {{name: {kind}}}
spec:
  hosts: [{kind}.example]
  protocol: {protocol}
  strategy: canary
  primary: {primary}
  versions:
"""
VERSION = """  - name: {name}
    weight: {weight}
    match: [{{headers: [{{name: x-pin, exact: {name}}}]}}]
    backend: {{endpoints: ["127.0.0.1:{port}"]}}
"""


def manifest(kind: str, ports: dict[str, int], weights: Sequence[tuple[str, str, int]], primary: str) -> str:
    """`weights`: (version's name, the server behind it, weight)."""
    head = HEAD.format(kind=kind, protocol="http1" if kind == "http" else "h2c", primary=primary)
    return head + "".join(
        VERSION.format(name=name, weight=weight, port=ports[server]) for name, server, weight in weights
    )


@dataclass(slots=True)
class Phase:
    """From Envoy's ACK of a setting to the next change."""

    setting: tuple[int, int]
    begins: float
    ends: float


@dataclass(slots=True)
class Storm:
    """The models under load, and what was done to them."""

    plane: Plane
    ports: dict[str, dict[str, int]]
    phases: list[Phase] = field(default_factory=list)
    acks: list[float] = field(default_factory=list)

    async def change(self, weights: Sequence[tuple[str, str, int]], primary: str) -> tuple[float, float]:
        """Put both models' manifests; returns when they changed and when Envoy had ACKed both."""
        made = [rollouts(manifest(kind, self.ports[kind], weights, primary))[0] for kind in KINDS]
        changed = now()
        for located in made:
            self.plane.put(located)
        acked = max([await self.plane.acked(f"default/{kind}") for kind in KINDS])
        self.acks.append((acked - changed) * 1000)
        return changed, acked

    async def flips(self, count: int, seed: int = 1) -> None:
        """Weights change, the versions stay."""
        chance, setting = random.Random(seed), SETTINGS[0]
        for n in range(count):
            setting = chance.choice([other for other in SETTINGS if other != setting])
            changed, acked = await self.change([("v1", "v1", setting[0]), ("v2", "v2", setting[1])], "v1")
            if self.phases:
                self.phases[-1].ends = changed
            self.phases.append(Phase(setting, acked + AFTER_ACK, float("inf")))
            await asyncio.sleep(HOLD)
            if n % 100 == 99:
                progress(f"{n + 1:,} flips, ACK p50 {median(self.acks):.1f} ms")

    async def cycles(self, count: int) -> None:
        """A candidate is added, gets traffic, becomes the primary, and the old version goes: cluster and all."""
        old, server = ("v1", "v1")
        await self.change([(old, server, 1)], old)
        if self.phases:
            self.phases[-1].ends = now()
        for n in range(count):
            new, new_server = f"v{n + 3}", "v2" if server == "v1" else "v1"
            for weights, primary in (
                ([(old, server, 100), (new, new_server, 0)], old),
                ([(old, server, 50), (new, new_server, 50)], old),
                ([(old, server, 0), (new, new_server, 100)], new),
                ([(new, new_server, 1)], new),
            ):
                await self.change(weights, primary)
                await asyncio.sleep(HOLD / 3)
            old, server = new, new_server
            if n % 10 == 9:
                progress(f"{n + 1} add/promote/delete cycles, ACK p50 {median(self.acks):.1f} ms")


def shares(records: Records, phases: Sequence[Phase]) -> dict[tuple[int, int], tuple[int, int]]:
    """By setting: answers in its phases, and how many of them came from v2."""
    trials: Counter[tuple[int, int]] = Counter()
    hits: Counter[tuple[int, int]] = Counter()
    begins = [phase.begins for phase in phases]
    second = records.versions.index("v2") if "v2" in records.versions else None
    for sent, done, version in zip(records.sent, records.done, records.arm, strict=True):
        at = bisect_left(begins, sent) - 1
        if at < 0 or done >= phases[at].ends or version == FAILED:
            continue
        trials[phases[at].setting] += 1
        hits[phases[at].setting] += version == second
    return {setting: (trials[setting], hits[setting]) for setting in SETTINGS}


async def run(report: Report, flips: int, cycles: int) -> None:
    files = {}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headgate-storm-")))
        ports: dict[str, dict[str, int]] = {}
        for kind in KINDS:
            ports[kind] = stack.enter_context(Child.script("servers.py", kind, "v1", "v2")).hear("listening")["ports"]
        plane = await stack.enter_async_context(Plane())
        storm = Storm(plane, ports)
        for kind in KINDS:
            plane.put_all(rollouts(manifest(kind, ports[kind], [("v1", "v1", 100), ("v2", "v2", 0)], "v1")))
        port = await plane.start_envoy()
        for kind in KINDS:
            await plane.acked(f"default/{kind}")
        loads = {}
        for kind in KINDS:
            files[kind] = folder / kind
            loads[kind] = stack.enter_context(
                Child.script("traffic.py", kind, port, f"{kind}.example", CONNECTIONS[kind], files[kind])
            )
            loads[kind].hear("started")
        await asyncio.sleep(0.5)
        began = now()
        await storm.flips(flips)
        flip_acks, storm.acks = storm.acks, []
        await storm.cycles(cycles)
        took = now() - began
        await asyncio.sleep(0.2)
        for load in loads.values():
            load.end_input()
        for load in loads.values():
            load.hear("written", 60)
        records = {kind: Records.read(files[kind]) for kind in KINDS}
    judge(report, records, storm.phases, flip_acks, storm.acks, took)


def judge(
    report: Report,
    records: dict[str, Records],
    phases: Sequence[Phase],
    flips: Sequence[float],
    steps: Sequence[float],
    took: float,
) -> None:
    rows: list[list[Any]] = []
    outside = 0
    for kind, all_records in records.items():
        for (first, second), (trials, hits) in shares(all_records, phases).items():
            low, high = binomial_interval(trials, second / (first + second))
            outside += not low <= hits <= high
            holds = sum(phase.setting == (first, second) for phase in phases)
            measured = 100 * hits / trials if trials else float("nan")
            rows.append(
                [
                    f"{CALLED[kind]} {first}/{second}",
                    holds,
                    f"{trials:,}",
                    f"{measured:.2f} %",
                    f"{hits:,}",
                    f"{low:,}..{high:,}",
                ]
            )
    report.table(
        "Share of v2, over all holds of a setting",
        ("weights", "holds", "answers", "measured", "v2", "99.9 % interval"),
        rows,
    )
    report.table(
        "Load and changes",
        ("", "requests", "failed", "per second", "p50 ms", "p99 ms"),
        [
            [CALLED[kind], f"{len(r):,}", r.failed, f"{len(r) / took:,.0f}", *latencies(r)]
            for kind, r in records.items()
        ],
    )
    for kind, r in records.items():
        for failure in r.failures[:5]:
            progress(f"{CALLED[kind]} failed: {failure['why']}")
    report.figure("weight flips", len(flips))
    report.figure("flip of both models to both ACKs, p50", median(flips), "ms")
    report.figure("... p99", percentile(flips, 99), "ms")
    report.figure("steps of add/promote/delete cycles", len(steps))
    report.figure("step of both models to both ACKs, p50", median(steps), "ms")
    report.figure("... p99 of the steps", percentile(steps, 99), "ms")
    for kind, r in records.items():
        report.figure(f"failed of {len(r):,} {CALLED[kind]} requests", r.failed, "", 0, headline=True)
    report.figure(f"shares outside their binomial 99.9 % interval, of {len(rows)}", outside, "", 0)


def latencies(records: Records) -> list[float]:
    took = [(done - sent) * 1000 for sent, done in zip(records.sent, records.done, strict=True)]
    return [median(took), percentile(took, 99)]


def main() -> int:
    chosen = arguments(__doc__)
    report = Report("storm", machine())
    asyncio.run(run(report, *((200, 10) if chosen.quick else (1000, 50))))
    return report.close(chosen.json)


if __name__ == "__main__":
    sys.exit(main())
