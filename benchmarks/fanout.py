"""One model changes: how long until 1, 100 and 1,000 connected Envoys have ACKed it, and at what cost?

The control plane runs in one process, the simulated Envoys (swarm.c, compiled here) in another. Beside ours runs a
rival on the same grpc.aio that serialises per client; rounds alternate. Then: memory per idle stream, 1,000 Envoys
with 61 kB nodes connecting at once, and 19 stalled streams among 39.

Time runs from the changed plan (translation included) to the last client's ACK at the server.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.child import Child
from benchmarks.compiled import NoCompiler, compiled
from benchmarks.fleet_models import GATEWAY
from benchmarks.report import Report, arguments, machine, progress
from benchmarks.samples import median, paired_ratio, percentile
from benchmarks.swarm import NODE_BYTES, Swarm

ROUTES = 101
"""Header routes of the changed model: 17.7 kB."""
LARGE = 1_130
"""... and 181 kB, more than the socket buffers of a stalled client hold after a few pushes."""

LAST_ACK_MS = 85.0
CPU_MS = 120.0
STREAM_KB = 60.0
STORM_SECONDS = 1.0
STALLED_RATIO = 1.5


@dataclass(slots=True)
class Rounds:
    """What one plane took, a value per round."""

    ack: list[float] = field(default_factory=list)
    receipt: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    bytes: list[float] = field(default_factory=list)


class Plane:
    """A control plane in a child, and a swarm connected to it."""

    def __init__(
        self, stack: ExitStack, binary: Path, kind: str, clients: int, routes: int = ROUTES, padding: int = 0
    ) -> None:
        self._server = stack.enter_context(Child.script("fanout_server.py", kind, routes))
        said = self._server.hear("listening")
        self.port, self.body = said["port"], said["body"]
        self.idle = self.memory()
        self.swarm = stack.enter_context(Swarm(binary, self.port, GATEWAY, padding=padding))
        self.connected = served(self.swarm.connect(clients), clients)
        self._clients = clients

    def push(self, rounds: Rounds | None = None) -> float:
        """Change the model and wait until every client has ACKed; returns milliseconds."""
        self.swarm.expect(self._clients)
        self._server.do("push", clients=self._clients)
        at_server, at_swarm = self._server.hear("acked", 70), self.swarm.reached()
        if at_server["acked"] < self._clients:
            raise RuntimeError(f"only {at_server['acked']} of {self._clients} clients ACKed a change")
        took: float = (at_server["last"] - at_server["changed"]) * 1000
        if rounds is not None:
            rounds.ack.append(took)
            rounds.receipt.append((at_swarm["at"] - at_server["changed"]) * 1000)
            rounds.cpu.append(at_server["cpu"] * 1000)
            rounds.bytes.append(at_swarm["bytes"])
        return took

    def memory(self) -> int:
        self._server.do("memory")
        resident: int = self._server.hear("memory")["resident"]
        return resident


def served(said: dict[str, float], wanted: int) -> float:
    """Seconds from the first connect to the last client's first route; NaN when a client was turned away."""
    if said["gone"] or said["served"] < wanted:
        progress(f"{said['gone']} streams refused or lost, {said['served']} of {wanted} served: {said['why']}")
        return math.nan
    return said["at"] - said["started"]


def fan_out(report: Report, binary: Path, clients: tuple[int, ...], rounds: int) -> None:
    rows = []
    for count in clients:
        progress(f"one change to {count:,} streams, {rounds} rounds, ours and the rival's in turn")
        with ExitStack() as stack:
            planes = {kind: Plane(stack, binary, kind, count) for kind in ("headgate", "naive")}
            taken = {kind: Rounds() for kind in planes}
            idle = {kind: (plane.memory() - plane.idle) / count / 1000 for kind, plane in planes.items()}
            for plane in planes.values():
                plane.push()
            for _ in range(rounds):
                for kind, plane in planes.items():
                    plane.push(taken[kind])
            ours, rival = taken["headgate"], taken["naive"]
            for kind, took in taken.items():
                spread, size = (median(took.ack), percentile(took.ack, 90)), f"{median(took.bytes):,.0f}"
                streams = f"{count:,} x {planes[kind].body / 1000:.1f} kB, {kind}"
                rows.append([streams, *spread, median(took.receipt), median(took.cpu), size])
        ratio = paired_ratio(rival.ack, ours.ack)
        promised = count == max(clients) >= 1000
        report.figure(
            f"last ACK of {count:,}", median(ours.ack), "ms", LAST_ACK_MS if promised else None, headline=True
        )
        report.figure(f"CPU of {count:,}", median(ours.cpu), "CPU-ms", CPU_MS if promised else None, headline=True)
        if promised:
            report.figure("memory per idle stream", idle["headgate"], "kB", STREAM_KB)
            report.figure("... of the rival", idle["naive"], "kB")
        report.figure(
            f"per-client serialising against ours at {count:,}", ratio, "x", 1.0 if promised else None, "at least"
        )
    report.table(
        "One model changed: milliseconds from the changed plan, medians",
        ("streams", "last ACK ms", "p90 ms", "last receipt ms", "server CPU-ms", "bytes"),
        rows,
    )


def storm(report: Report, binary: Path, count: int, rounds: int) -> None:
    progress(f"{count:,} Envoys with {NODE_BYTES // 1000} kB nodes connecting at once, {rounds} rounds")
    fresh, again, kilobytes = [], [], []
    for _ in range(rounds):
        with ExitStack() as stack:
            plane = Plane(stack, binary, "headgate", count, padding=NODE_BYTES)
            fresh.append(plane.connected)
            kilobytes.append((plane.memory() - plane.idle) / count / 1000)
            plane.swarm.__exit__(None, None, None)
            with Swarm(binary, plane.port, GATEWAY, prefix="again", padding=NODE_BYTES) as swarm:
                again.append(served(swarm.connect(count), count))
    report.table(
        f"{count:,} Envoys with {NODE_BYTES // 1000} kB nodes at once: seconds until each has ACKed its first routes",
        ("", "median s", "worst s"),
        [
            ["to a fresh control plane", median(fresh), max(fresh)],
            ["all cut off and back at once", median(again), max(again)],
        ],
    )
    report.figure(f"{count:,} Envoys connecting at once", median(fresh), "s", STORM_SECONDS)
    report.figure(f"{count:,} Envoys reconnecting at once", median(again), "s", STORM_SECONDS)
    report.figure(f"memory per stream after a node of {NODE_BYTES // 1000} kB", median(kilobytes), "kB")


def stalled(report: Report, binary: Path, rounds: int, pushes: int) -> None:
    progress(f"20 live streams with and without 19 stalled ones, {rounds} rounds of {pushes} pushes")
    alone: list[float] = []
    beside: list[float] = []
    with ExitStack() as stack:
        plane = Plane(stack, binary, "headgate", 20, routes=LARGE)
        for _ in range(3):
            plane.push()
        for _ in range(rounds):
            alone.append(median([plane.push() for _ in range(pushes)]))
            with Swarm(binary, plane.port, GATEWAY, prefix="stalled") as stuck:
                served(stuck.connect(19), 19)
                time.sleep(0.1)  # let the last of their ACKs arrive, so that they are not counted as live ones
                stuck.stall()
                beside.append(median([plane.push() for _ in range(pushes)]))
                stuck.resume()
        body = plane.body
    report.table(
        f"Last ACK of 20 live streams, {body / 1000:.0f} kB",
        ("", "ms"),
        [["alone", median(alone)], ["beside 19 stalled streams", median(beside)]],
    )
    report.figure("19 stalled streams slow 20 live ones", paired_ratio(beside, alone), "x", STALLED_RATIO)


def main() -> int:
    chosen = arguments(__doc__)
    report = Report("fanout", machine())
    with tempfile.TemporaryDirectory(prefix="headgate-swarm-") as folder:
        try:
            binary = compiled("swarm", Path(folder))
        except NoCompiler as error:
            print(error, file=sys.stderr)
            return 2
        fan_out(report, binary, (1, 100, 1000), 5 if chosen.quick else 25)
        storm(report, binary, 1000, 2 if chosen.quick else 5)
        stalled(report, binary, 2 if chosen.quick else 5, 10 if chosen.quick else 30)
    return report.close(chosen.json)


if __name__ == "__main__":
    sys.exit(main())
