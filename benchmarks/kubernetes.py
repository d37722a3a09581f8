"""A change at the API server: how long until Envoy gives the first answer by it, among 10 and among 5,000 rollouts?

`headgate serve --kubernetes` follows an API server in a process of its own: the double of the tests, or, when
KUBEBUILDER_ASSETS is set, a real one. Each rollout has two versions, each with a Deployment, a Service and an
EndpointSlice. A probe asks one real Envoy back to back; time runs from the instant at which the double has stored the
change (of the rollout's weights, or of a Deployment's readiness) to the first answer of the other version. What the
API server itself takes stands beside it; a real one does not tell, so time runs from the sending of the PATCH then.
With most rollouts also: a cold start until the xDS port is open, all statuses are written and all finalizers are set,
then memory, CPU and requests at rest with 20 Envoys, 19 of them simulated.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.child import Child, resident
from benchmarks.compiled import compiled
from benchmarks.kube_objects import host
from benchmarks.kube_plane import Api, Serve, address
from benchmarks.plane import accepts, listener_port
from benchmarks.report import Report, arguments, machine, progress
from benchmarks.samples import median, percentile
from benchmarks.swarm import Swarm
from headgate.envoy import EnvoyProcess
from xds.bootstrap import bootstrap

P50_MS, P99_MS, GROWTH = 10.0, 50.0, 2.0
REST_CPU, REST_MB, REST_REQUESTS = 2.0, 600.0, 2.0
OPEN_SECONDS = 30.0
ENVOYS = 20
DEBOUNCE_MS, DEBOUNCE_MAX_MS = 100.0, 10_000.0
"""istiod's PILOT_DEBOUNCE_AFTER and PILOT_DEBOUNCE_MAX as published; README.md names the sources."""
now = time.monotonic


@dataclass(slots=True)
class Taken:
    """Milliseconds from the change to the first answer by it; from the PATCH to that, and to the change."""

    answer: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)


class Cluster:
    """One API server with so many rollouts, one control plane, one real Envoy, one probe."""

    def __init__(self, models: int, ports: dict[str, int]) -> None:
        self.models, self._ports = models, ports
        self._stack = AsyncExitStack()
        self.started: dict[str, float] = {}

    async def __aenter__(self) -> Cluster:
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="headgate-kubernetes-")))
        self.api = Api(self._stack.enter_context(Child.script("kube_server.py")))
        began = now()
        await asyncio.to_thread(self.api.load, self.models, self._ports)
        progress(f"{self.models:,} rollouts are at the API server after {now() - began:.0f} s")
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    async def start(self, simulated: int, binary: Path | None) -> None:
        """Start the control plane, and the Envoys as soon as it lets them in; wait until nothing is left to write."""
        began = now()
        serve = self.serve = self._stack.enter_context(Serve(self.api.kubeconfig, self._folder))
        await self.until(lambda: accepts(serve.xds), 300, 0.02)
        self.started["xDS port open"] = now() - began
        self.started["CPU s until then"] = serve.cpu_seconds()
        self.started["MB then"] = serve.resident_mb()
        node = bootstrap(
            node_id="real", node_cluster="default", xds_address="127.0.0.1", xds_port=serve.xds, admin_port=0
        )
        self.envoy = EnvoyProcess(node, concurrency=1, log_level="critical")
        self._stack.push_async_callback(self.envoy.stop)
        await self.envoy.start(within=240, ready=False)
        if binary is not None:
            await self._simulate(simulated, binary)
            self.started["all Envoys served"] = now() - began
        port = await listener_port(self.envoy, 240)
        await self.until(lambda: accepts(port), 60, 0.02)
        self.probe = self._stack.enter_context(Child.script("probe.py", port, host(0)))
        await asyncio.to_thread(self.probe.hear, "answer", 120)
        self.started["Envoy answers"] = now() - began
        self.probe.say("pause")
        await self._written(began)

    async def _simulate(self, count: int, binary: Path) -> None:
        swarm = self._stack.enter_context(Swarm(binary, self.serve.xds, "default", prefix="simulated"))
        await asyncio.to_thread(swarm.connect, count, 240)

    async def _written(self, began: float) -> None:
        """Note when the API server has all statuses, when all of them say Programmed, when all finalizers are set."""
        first: float | None = None
        wanted = {"written": self.models, "programmed": self.models, "protected": 4 * self.models}
        words = {"written": "all statuses", "programmed": "all Programmed", "protected": "all finalizers"}
        ends, told = now() + 900, now()
        while wanted:
            self.serve.check()
            found = await asyncio.to_thread(self.api.counts)
            if first is None and found["written"]:
                first = now() - began
            for name in [name for name, most in wanted.items() if found[name] >= most]:
                self.started[words[name]] = now() - began
                del wanted[name]
            if now() > ends:
                raise RuntimeError(f"not all was written: {found}; {self.serve.log.read_text()[-1000:]}")
            if now() - told > 10:
                told = now()
                progress(f"... {found}")
            await asyncio.sleep(0.25)
        self.started["first status"] = first or 0.0
        self.started["CPU s until all is written"] = self.serve.cpu_seconds()

    async def until(self, holds: Callable[[], bool], within: float, every: float) -> None:
        async with asyncio.timeout(within):
            while not await asyncio.to_thread(holds):
                self.serve.check()
                await asyncio.sleep(every)

    async def changes(self, count: int) -> dict[str, Taken]:
        """Weights and readiness in turn; the probe is silent at other times."""
        return await asyncio.to_thread(self._changes, count)

    def _changes(self, count: int) -> dict[str, Taken]:
        taken = {"weights": Taken(), "readiness": Taken()}
        self.probe.say("go")
        self.probe.hear("answer", 30)
        for n in range(-4, count):
            for kind, change in (("weights", lambda to: self.api.weigh(100 * to)), ("readiness", self.api.ready)):
                for to in (False, True):
                    at = now()
                    change(to)
                    wanted = "v2" if to else "v1"
                    while (answer := self.probe.hear("answer", 30))["version"] != wanted:
                        pass
                    stored = self.api.committed()
                    if n >= 0:
                        taken[kind].answer.append((answer["at"] - (stored or at)) * 1000)
                        taken[kind].whole.append((answer["at"] - at) * 1000)
                        taken[kind].server.append(((stored or at) - at) * 1000)
                    time.sleep(0.1)  # an edit a tenth of a second: each comes while the status of the last is written
        self.probe.say("pause")
        return taken

    async def rest(self, seconds: float) -> dict[str, float]:
        """What the control plane costs while nothing happens. Envoys that came are in the statuses by then."""
        before = await self._quiet()
        cpu, began = self.serve.cpu_seconds(), now()
        await asyncio.sleep(seconds)
        spent, took = self.serve.cpu_seconds() - cpu, now() - began
        after = await asyncio.to_thread(self.api.counts)
        found = {"CPU %": 100 * spent / took, "MB": self.serve.resident_mb(), "peak MB": self.serve.peak_mb()}
        found |= {"Envoy MB": resident(self.envoy.pid) / 1e6}
        told = bool(after["requests"])  # a real server does not tell them: not measured rather than none
        for kind in {*after["requests"], "leases", "watches"}:
            asked = after["requests"].get(kind, 0) - before["requests"].get(kind, 0)
            found[f"{kind} a second"] = asked / took if told else float("nan")
        return found

    async def restart(self, simulated: int, binary: Path) -> dict[str, float]:
        """The same again, in an orderly way and with everything written: how long, and what is written anew.

        A real Envoy connects again by itself; the swarm's do not, so new ones of the same names come in their place.
        """
        before = await self._quiet()
        began = now()
        await asyncio.to_thread(self.serve.stop)
        stopped = now()
        ports = self.serve.xds, self.serve.http
        serve = self.serve = self._stack.enter_context(Serve(self.api.kubeconfig, self._folder, ports))
        await self.until(lambda: accepts(serve.xds), 300, 0.02)
        taken = {"stopped after": stopped - began, "xDS port open again after": now() - stopped}
        await self._simulate(simulated, binary)
        taken["all Envoys served again after"] = now() - stopped
        after = await self._quiet()
        for kind in ("statuses", "finalizers", "events"):
            taken[f"{kind} written anew"] = after["requests"].get(kind, 0) - before["requests"].get(kind, 0)
        return taken

    async def _quiet(self) -> dict[str, Any]:
        """Wait until no status has been written for some seconds; returns the counts."""
        before: dict[str, Any] = {}
        began, told = now(), now()
        while now() - began < 600:
            found = await asyncio.to_thread(self.api.counts)
            written = {kind: found["requests"].get(kind, 0) for kind in ("statuses", "finalizers", "events")}
            if written == before:
                return found
            before = written
            if now() - told > 30:
                told = now()
                progress(f"... still writing: {found}")
            await asyncio.sleep(6)
        raise RuntimeError("the control plane did not stop writing within 10 minutes")


async def run(report: Report, quick: bool) -> None:
    few, many = 10, 1_000 if quick else 5_000
    count = 15 if quick else 100
    taken: dict[int, dict[str, Taken]] = {}
    async with AsyncExitStack() as stack:
        kind = f"http@{address()}"
        servers = stack.enter_context(Child.script("servers.py", kind, "v1", "v2"))
        ports = servers.hear("listening")["ports"]
        binary = compiled("swarm", Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headgate-swarm-"))))
        async with Cluster(few, ports) as cluster:
            await cluster.start(0, None)
            taken[few] = await cluster.changes(count)
            tell(few, taken[few])
        async with Cluster(many, ports) as cluster:
            await cluster.start(ENVOYS - 1, binary)
            progress(f"{many:,} rollouts: " + ", ".join(f"{name} {s:.1f}" for name, s in cluster.started.items()))
            rest = await cluster.rest(20 if quick else 120)
            progress("at rest: " + ", ".join(f"{name} {value:.2f}" for name, value in rest.items()))
            taken[many] = await cluster.changes(count)
            tell(many, taken[many])
            again = await cluster.restart(ENVOYS - 1, binary)
            started = cluster.started
    convergence(report, taken, few, many)
    start_and_rest(report, started, rest, many)
    report.table("The control plane restarted, 20 Envoys connected", ("", ""), [[*one] for one in again.items()])


def tell(models: int, taken: dict[str, Taken]) -> None:
    for kind, one in taken.items():
        progress(f"{models:,} rollouts, {kind}: p50 {median(one.answer):.1f}, p99 {percentile(one.answer, 99):.1f} ms")


def times(taken: list[float]) -> tuple[float, float]:
    return median(taken), percentile(taken, 99)


def convergence(report: Report, taken: dict[int, dict[str, Taken]], few: int, many: int) -> None:
    rows: list[list[Any]] = [
        [f"{models:,} rollouts, {kind}", len(one.answer), *times(one.answer), median(one.server), *times(one.whole)]
        for models, by_kind in taken.items()
        for kind, one in by_kind.items()
    ]
    rows.append(["Iter8 through Istio: published debounce alone", "-", f"> {DEBOUNCE_MS:.0f}", *"----"])
    rows.append(["... while changes keep coming, at most", "-", "-", f"{DEBOUNCE_MAX_MS:,.0f}", *"---"])
    columns = ("change", "changes", "p50 ms", "p99 ms", "before: API server", "from PATCH p50", "p99")
    report.table("Change at the API server -> first answer by it", columns, rows)
    for models, by_kind in taken.items():
        for kind, one in by_kind.items():
            last = models == many
            name = f"at {models:,} rollouts, {kind}"
            more = GROWTH if last else 1.0
            report.figure(f"p50 {name}", median(one.answer), "ms", P50_MS * more, headline=last)
            report.figure(f"p99 {name}", percentile(one.answer, 99), "ms", P99_MS * more, headline=last)
    for kind in taken[many]:
        growth = median(taken[many][kind].answer) / median(taken[few][kind].answer)
        report.figure(f"p50 at {many:,} rollouts against {few}, {kind}", growth, "x", GROWTH)


def start_and_rest(report: Report, started: dict[str, float], rest: dict[str, float], many: int) -> None:
    rows = [[name, value] for name, value in started.items()]
    report.table(
        f"Cold start with {many:,} rollouts and {ENVOYS} Envoys: seconds since the process start", ("", ""), rows
    )
    report.table("At rest", ("", ""), [[name, value] for name, value in sorted(rest.items())])
    report.figure(f"start with {many:,} rollouts to an open xDS port", started["xDS port open"], "s", OPEN_SECONDS)
    report.figure("... to all statuses written", started["all statuses"], "s")
    writing = started["all statuses"] - started["first status"]
    report.figure("statuses written a second, at the start", many / writing if writing > 0 else float("nan"), "")
    report.figure("... to all finalizers set", started["all finalizers"], "s")
    report.figure("memory at rest", rest["MB"], "MB", REST_MB, headline=True)
    report.figure("CPU at rest", rest["CPU %"], "% of a core", REST_CPU, headline=True)
    asked = sum(value for name, value in rest.items() if name.endswith("a second") and not name.startswith("leases"))
    report.figure("requests a second at rest, without leases", asked, "", None if asked != asked else REST_REQUESTS)
    report.figure("... and for leases", rest["leases a second"], "")


def main() -> int:
    chosen = arguments(__doc__)
    report = Report("kubernetes", machine())
    asyncio.run(run(report, chosen.quick))
    return report.close(chosen.json)


if __name__ == "__main__":
    sys.exit(main())
