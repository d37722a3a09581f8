"""What a request costs the generator, how true it keeps a rate, and what it holds in memory.

HTTP: `headgate load`'s executor and our client inside a locust User beside wrk and locust's FastHttpUser, on the same C
server. gRPC: ModelInfer beside h2load, on nginx with a canned answer; the grpcio client beside it. CPU seconds for each
request, in rounds by turns, medians. Then a rate of 5,000/s, 5,000 requests in flight, and ten processes' histograms.
The generator has a core, the target another one. Needs wrk, h2load (nghttp2-client) and nginx.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgpack
import numpy as np

from benchmarks.compiled import compiled
from benchmarks.load_tools import BODY, canned_grpc, h2load, locust, ours, target, wrk
from benchmarks.report import Report, arguments, machine, progress
from benchmarks.samples import median
from loadgen import plan as plans
from loadgen.collect import Collector
from loadgen.counts import Part
from loadgen.histogram import Histogram
from loadgen.parts import BookPart, SeriesPart
from loadgen.parts import Report as Told
from loadgen.payload.v2 import protoset

CONNECTIONS = 16
METHOD = "inference.GRPCInferenceService/ModelInfer"
REQUEST = b'{"model_name":"m","inputs":[{"name":"x","datatype":"FP32","shape":[1,4]}]}'
ANSWER = b"\x0a\x01m\x12\x012"  # ModelInferResponse: model_name "m", model_version "2"
JSON = (("content-type", "application/json"),)


def http(url: str, load: plans.Load) -> plans.Plan:
    asked = plans.Target(f"{url}/", method="POST", headers=JSON, payload=plans.Payload(bodies=(BODY,)))
    return plans.Plan("rate", (plans.Scenario("main", asked, load),))


def grpc(url: str, load: plans.Load, client: plans.GrpcClient) -> plans.Plan:
    call = plans.Grpc(METHOD, protoset(), client=client)
    asked = plans.Target(url, "grpc", method="POST", payload=plans.Payload(bodies=(REQUEST,)), grpc=call)
    return plans.Plan("rate", (plans.Scenario("main", asked, load),))


def busy(seconds: float) -> plans.Load:
    return plans.Load("max", users=CONNECTIONS, connections=CONNECTIONS, duration=seconds)


def steady(rate: float, seconds: float, connections: int = 0) -> plans.Load:
    stages = (plans.Stage(seconds, rate, rate),)
    return plans.Load(arrivals=plans.Arrivals(stages), connections=connections, max_in_flight=60_000, warmup=1.0)


def cost_of_http(report: Report, binary: Path, rounds: int, seconds: float) -> None:
    with target(binary, "fast") as server:
        url = server.url

        def by_wrk() -> float:
            requests, cpu = wrk(url, CONNECTIONS, seconds)
            return cpu / requests

        def by_locust(kind: str) -> Callable[[], float]:
            def run() -> float:
                told = locust(kind, url, CONNECTIONS, seconds)
                return float(str(told["cpu"])) / float(str(told["requests"]))

            return run

        costs = in_turns(
            {
                "wrk": by_wrk,
                "executor": lambda: ours(http(url, busy(seconds))).cpu_per_request,
                "inside a locust User": by_locust("Ours"),
                "FastHttpUser": by_locust("Plain"),
            },
            rounds,
        )
    table(report, f"HTTP, {CONNECTIONS} connections", costs, "wrk")
    report.figure("HTTP, executor: CPU, of wrk's", costs["executor"] / costs["wrk"], "x", 2.5, headline=True)
    report.figure("HTTP, inside a locust User: CPU, of wrk's", costs["inside a locust User"] / costs["wrk"], "x", 4.0)
    report.figure("HTTP, FastHttpUser: CPU, of wrk's", costs["FastHttpUser"] / costs["wrk"], "x")


def cost_of_grpc(report: Report, folder: Path, rounds: int, seconds: float) -> None:
    framed = b"\0" + (41).to_bytes(4, "big") + bytes(41)
    headers = {"content-type": "application/grpc", "te": "trailers"}
    with canned_grpc(folder, ANSWER) as url:

        def by_h2load() -> float:
            requests, cpu = h2load(f"{url}/{METHOD}", CONNECTIONS, int(20_000 * seconds), headers, framed)
            return cpu / requests

        def by_us(client: plans.GrpcClient) -> Callable[[], float]:
            load = plans.Load("max", users=CONNECTIONS, connections=1, duration=seconds)

            def run() -> float:
                done = ours(grpc(url, load, client))
                assert all(not each.errors for each in done.outcome.series), done.outcome.series
                return done.cpu_per_request

            return run

        costs = in_turns({"h2load": by_h2load, "own": by_us("own"), "grpcio": by_us("grpcio")}, rounds)
    table(report, f"gRPC ModelInfer, {CONNECTIONS} in flight on one connection", costs, "h2load")
    report.figure("gRPC: CPU, of h2load's", costs["own"] / costs["h2load"], "x", 1.6, headline=True)
    report.figure("gRPC by grpcio: CPU, of h2load's", costs["grpcio"] / costs["h2load"], "x")


def in_turns(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of each."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            progress(f"round {number + 1} of {rounds}: {name}")
            found[name].append(run())
    return {name: median(values) for name, values in found.items()}


def table(report: Report, title: str, costs: dict[str, float], base: str) -> None:
    rows = [[name, cost * 1e6, cost / costs[base]] for name, cost in costs.items()]
    report.table(title, ["", "CPU µs a request", f"of {base}'s"], rows)


def kept_rate(report: Report, binary: Path, seconds: float) -> None:
    progress(f"5,000/s for {seconds:g} s")
    with target(binary, "fast") as server:
        outcome = ours(http(server.url, steady(5000, seconds))).outcome
    (account,), (worker,) = outcome.accounts, outcome.workers
    assert outcome.lag is not None
    lag = outcome.lag.histogram()
    p50, p99, most = (each * 1000 for each in lag.percentiles(50, 99, 100))
    rows = [[account.asked, account.sent, account.rate, p50, p99, most, 100 * worker.cpu]]
    columns = ["asked", "sent", "per second", "lag p50 ms", "p99 ms", "most ms", "CPU %"]
    report.table("5,000/s", columns, rows)
    report.figure("own lag at 5,000/s, p99", p99, "ms", 1.0, headline=True)
    report.figure("rate error at 5,000/s", 100 * abs(account.rate / 5000 - 1), "%", 0.1)


def memory(report: Report, binary: Path) -> None:
    progress("5,000 in flight")
    with target(binary, "hold") as server:
        done = ours(http(server.url, steady(1700, 7)))
    series = [each for each in done.outcome.series if each.ok]
    held = max(second.ended for each in series for second in each.timeline) * 3 if series else 0
    report.table("3 s to each answer, 1,700/s", ["in flight, about", "memory MB"], [[held, done.memory / 1e6]])
    report.figure("memory with 5,000 in flight", done.memory / 1e6, "MB", 400.0)


def merged(report: Report, workers: int = 10, each: int = 100_000) -> None:
    """What ten processes told, as it travels, against one histogram of all of it."""
    chance = np.random.default_rng(1)
    plan = http("http://localhost", busy(1))
    collector, pooled = Collector(plan, 0.0), Histogram()
    for number in range(workers):
        values = chance.lognormal(-4, 0.8, each)
        pooled.record(values)
        part = SeriesPart(0, "v1", ok=each, metrics={"latency": Part.of(values)})
        told = Told(f"worker {number}", (BookPart(asked=each, sent=each),), (part,))
        collector.add(Told.from_plain(msgpack.unpackb(msgpack.packb(told.to_plain()))))
    (series,) = collector.outcome().series
    got = dict(series.metrics["latency"].histogram().buckets())
    truth = dict(pooled.buckets())
    off = sum(got.get(value) != count for value, count in truth.items()) + len(got.keys() - truth.keys())
    report.figure(f"buckets that differ, {workers} processes merged against one", off, "", 0.0)


def main() -> int:
    given = arguments(__doc__)
    for tool in ("wrk", "h2load"):
        if not shutil.which(tool):
            print(f"rate: {tool} is not installed: apt-get install wrk nghttp2-client nginx", file=sys.stderr)
            return 1
    report = Report("rate", machine())
    rounds, seconds = (1, 2.0) if given.quick else (5, 5.0)
    with tempfile.TemporaryDirectory() as folder:
        binary = compiled("load_target", Path(folder))
        cost_of_http(report, binary, rounds, seconds)
        cost_of_grpc(report, Path(folder), rounds, seconds)
        kept_rate(report, binary, 5 if given.quick else 30)
        memory(report, binary)
    merged(report)
    return report.close(given.json)


if __name__ == "__main__":
    sys.exit(main())
