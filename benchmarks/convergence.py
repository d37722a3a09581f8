"""A version's readiness changes: how long until Envoy gives the first answer by the new weights?

One real Envoy serves 1, 100, 1,000 and 10,000 models; a probe asks for one of them back to back over one connection.
Time runs from the change in the store (what a readiness probe tells) to the first answer of the other version,
through the real engine, translation, cache, server and Envoy. Beside it, in turn, the same change through one
RouteConfiguration with all models, as meshes do it, from the same server with every benefit (one_route_table.py).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import Any

from benchmarks.child import Child
from benchmarks.one_route_table import TABLE, OneRouteTable
from benchmarks.peer_sovereign import VARIABLE, Sovereign, missing
from benchmarks.plane import GATEWAY, LISTENER, Plane, now, rollouts
from benchmarks.report import Report, arguments, machine, progress
from benchmarks.samples import median, percentile
from xds.ir import Endpoint, Gateway, Listener

MODEL = "default/watched"
HOST = "watched.example"

P50_MS, P99_MS, GROWTH = 3.0, 10.0, 2.0
TIMES_SLOWER, TIMES_MORE_BYTES = 100.0, 1_000.0

WATCHED = """
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata: {{name: watched}}
spec:
  hosts: [watched.example]
  strategy: blue-green
  versions:
  - {{name: v1, weight: 0, backend: {{endpoints: ["127.0.0.1:{v1}"]}}}}
  - name: v2
    weight: 100
    backend: {{endpoints: ["127.0.0.1:{v2}"]}}
    readiness: {{http: {{path: /}}}}
"""

FILLER = """
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata: {{name: model-{n:05d}}}
spec:
  hosts: [model-{n:05d}.example]
  strategy: canary
  versions:
  - {{name: v1, weight: 9, backend: {{endpoints: ["127.0.0.1:{v1}"]}}}}
  - {{name: v2, weight: 1, backend: {{endpoints: ["127.0.0.1:{v2}"]}}}}
"""


@dataclass(slots=True)
class Taken:
    """One plane's measurements at one number of models."""

    answer: list[float] = field(default_factory=list)
    ack: list[float] = field(default_factory=list)
    bytes: list[float] = field(default_factory=list)
    missing: int = 0


class Watched:
    """A plane with its Envoy, its probe, and the endpoint whose readiness flips."""

    def __init__(self, plane: Plane, probe: Child, endpoint: Endpoint, route: str) -> None:
        self.plane, self._probe, self._endpoint, self._route = plane, probe, endpoint, route
        self._ready = False
        self.taken = Taken()
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        self._reader = loop.run_in_executor(None, self._listen, loop)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(TimeoutError, ValueError, RuntimeError):
            while True:
                loop.call_soon_threadsafe(self._answers.put_nowait, self._probe.hear("answer", 600))

    async def flip(self, taken: Taken | None, within: float = 30.0) -> None:
        """Change the readiness, wait for the first new answer and for the ACK."""
        self._ready = not self._ready
        wanted = "v2" if self._ready else "v1"
        bytes_before = self.plane.pushed_bytes()
        changed = self.plane.health(MODEL, "v2", self._endpoint, self._ready)
        try:
            async with asyncio.timeout(within):
                while (answer := await self._answers.get())["version"] != wanted:
                    pass
                acked = await self.plane.acked(self._route, lambda: self.plane.route_acked(self._route))
        except TimeoutError:
            if taken is not None:
                taken.missing += 1
            return
        if taken is not None:
            taken.answer.append((answer["at"] - changed) * 1000)
            taken.ack.append((acked - changed) * 1000)
            taken.bytes.append(self.plane.pushed_bytes() - bytes_before)

    async def asking(self, on: bool) -> None:
        """The probe that is not measured is silent, and does not take the other's processor."""
        self._probe.say("go" if on else "pause")
        await asyncio.sleep(0.05)
        while not self._answers.empty():
            self._answers.get_nowait()


async def watched(stack: AsyncExitStack, ports: dict[str, int], models: int, rival: bool) -> Watched:
    """Load the models, start Envoy, wait until it answers for the watched model."""
    gateway = Gateway(GATEWAY, (Listener(LISTENER, "127.0.0.1", 0),))
    table = OneRouteTable(gateway) if rival else None
    plane = await stack.enter_async_context(Plane(sink=table, gateway=gateway))
    began = now()
    for located in manifests(ports, models):
        plane.put_all(located)
    endpoint = Endpoint("127.0.0.1", ports["v2"])
    plane.health(MODEL, "v2", endpoint, False)
    await plane.idle()
    if table is not None:
        table.open()
    loaded = now()
    port = await plane.start_envoy(within=240)
    probe = stack.enter_context(Child.script("probe.py", port, HOST))
    await asyncio.to_thread(probe.hear, "answer", 60)
    route = TABLE if rival else MODEL
    await plane.acked(route, lambda: plane.route_acked(route), within=60)
    progress(
        f"{'rival' if rival else 'headgate'}, {models:,} models: planned in {loaded - began:.1f} s, "
        f"Envoy serves after {now() - loaded:.1f} s, {plane.envoy_resident() / 1e6:.0f} MB"
    )
    return Watched(plane, probe, endpoint, route)


def manifests(ports: dict[str, int], models: int) -> Iterator[Any]:
    yield rollouts(WATCHED.format(**ports))
    for n in range(1, models):
        yield rollouts(FILLER.format(n=n, **ports), f"model-{n:05d}.yaml")


async def measure(
    report: Report, ports: dict[str, int], models: int, flips: int, rival_flips: int
) -> tuple[Taken, Taken, float, float]:
    """Both planes at one number of models, in alternating rounds."""
    rounds = 4
    async with AsyncExitStack() as stack:
        ours = await watched(stack, ports, models, rival=False)
        rival = await watched(stack, ports, models, rival=True)
        await rival.asking(False)
        for _ in range(4):
            await ours.flip(None)
        await ours.asking(False)
        await rival.asking(True)
        await rival.flip(None)
        for _ in range(rounds):
            for one, count in ((rival, rival_flips), (ours, flips)):
                other = ours if one is rival else rival
                await other.asking(False)
                await one.asking(True)
                for _ in range(count // rounds):
                    await one.flip(one.taken)
                    await asyncio.sleep(0.003)
        return ours.taken, rival.taken, ours.plane.envoy_resident() / 1e6, rival.plane.envoy_resident() / 1e6


async def beside_peer(report: Report, ports: dict[str, int], python: str, flips: int) -> None:
    """The same change with one model, ours and sovereign's in turn."""
    chance = random.Random(1)
    async with AsyncExitStack() as stack:
        ours = await watched(stack, ports, 1, rival=False)
        peer = Sovereign(python, ports)
        stack.push_async_callback(peer.stop)
        await peer.start()
        theirs: list[float] = []
        for n in range(flips):
            await ours.asking(False)
            await peer.asking(True)
            await asyncio.sleep(chance.random())  # not in step with its timers
            theirs.append(await peer.flip())
            await peer.asking(False)
            await ours.asking(True)
            for _ in range(5):
                await ours.flip(ours.taken)
            progress(f"sovereign, change {n + 1} of {flips}: {theirs[-1]:.0f} ms")
    report.table(
        "One model, ours and sovereign's in turn",
        ("control plane", "changes", "p50 ms", "min ms", "max ms"),
        [
            [name, len(taken), median(taken), min(taken), max(taken)]
            for name, taken in (("headgate", ours.taken.answer), ("sovereign at its fastest", theirs))
        ],
    )
    report.figure("sovereign slower", median(theirs) / median(ours.taken.answer), "x")


async def run(report: Report, quick: bool, peer: str | None) -> None:
    sizes = (1, 1000) if quick else (1, 100, 1000, 10_000)
    flips = 100 if quick else 400
    rows: list[list[Any]] = []
    results: dict[int, tuple[Taken, Taken]] = {}
    with ExitStack() as stack:
        servers = stack.enter_context(Child.script("servers.py", "http", "v1", "v2"))
        ports = servers.hear("listening")["ports"]
        for models in sizes:
            rival_flips = max(8, flips // 10) if models < 10_000 else 12
            ours, rival, our_mb, rival_mb = await measure(report, ports, models, flips, rival_flips)
            results[models] = (ours, rival)
            for name, taken, megabytes in (("headgate", ours, our_mb), ("one RouteConfiguration", rival, rival_mb)):
                first, size = (median(taken.answer), percentile(taken.answer, 99)), f"{median(taken.bytes):,.0f}"
                rows.append(
                    [
                        f"{models:,} models, {name}",
                        len(taken.answer),
                        *first,
                        median(taken.ack),
                        size,
                        f"{megabytes:.0f}",
                    ]
                )
            told = f"p50 {median(ours.answer):.2f} ms, one RouteConfiguration {median(rival.answer):.2f} ms"
            progress(f"{models:,} models: {told}")
        if peer is not None:
            await beside_peer(report, ports, peer, 6 if quick else 12)
    report.table(
        "Readiness change -> first answer by the new weights",
        ("models", "changes", "p50 ms", "p99 ms", "ACK p50 ms", "bytes per change", "Envoy MB"),
        rows,
    )
    for models, (ours, _) in results.items():
        last = models == max(sizes)
        report.figure(f"p50 at {models:,} models", median(ours.answer), "ms", P50_MS, headline=last)
        report.figure(f"p99 at {models:,} models", percentile(ours.answer, 99), "ms", P99_MS, headline=last)
        report.figure(f"changes without an answer at {models:,} models", ours.missing, "", 0)
    most = max(sizes)
    ours, rival = results[most]
    full = most == 10_000
    growth = median(ours.answer) / median(results[1][0].answer)
    report.figure(f"p50 at {most:,} models against 1", growth, "x", GROWTH)
    slower, bytes_more = median(rival.answer) / median(ours.answer), median(rival.bytes) / median(ours.bytes)
    report.figure(
        f"one RouteConfiguration of {most:,} models slower",
        slower,
        "x",
        TIMES_SLOWER if full else None,
        "at least",
        True,
    )
    report.figure("... and more bytes", bytes_more, "x", TIMES_MORE_BYTES if full else None, "at least")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--peer",
        choices=["sovereign"],
        help=f"measure this control plane too; {VARIABLE} names the interpreter of an environment that has it",
    )


def main() -> int:
    chosen = arguments(__doc__, more=options)
    report = Report("convergence", machine())
    python, why = os.environ.get(VARIABLE), None
    if chosen.peer and (why := missing(python)) is not None:
        print(f"{chosen.peer} is not measured: {why} (see benchmarks/peer_sovereign.py)")
    asyncio.run(run(report, chosen.quick, python if chosen.peer and why is None else None))
    return report.close(chosen.json)


if __name__ == "__main__":
    sys.exit(main())
