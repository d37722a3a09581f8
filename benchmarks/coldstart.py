"""10,000 models in a folder: how long from `headgate serve` to an Envoy that serves the last of them, at what memory?

`headgate serve` and Envoy start at the same instant, as after a reboot; Envoy is asked for the last model until
it answers. Then the cost of a change among 10,000 models: CPU from the parsed object to bytes in the cache.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import many_models
from benchmarks.child import Child, cpu_seconds
from benchmarks.plane import accepts, listener_port
from benchmarks.report import ROOT, Report, arguments, machine, progress
from benchmarks.samples import median, percentile
from headgate.envoy import EnvoyProcess
from headgate.sink import Sink
from router.engine import Engine
from router.manifests import Located, parse
from router.observe import observe
from router.plan import plan
from router.step import RolloutState, step
from router.store import Store
from xds.bootstrap import bootstrap
from xds.ir import Gateway, Listener
from xds.translate import translate

MODELS = 10_000
WITHIN = 240.0
START_SECONDS, START_MB, COMPILE_MS = 30.0, 600.0, 2.0
CONFIG = """\
gateways:
- name: default
  listeners:
  - {name: http, address: 127.0.0.1, port: 0}
"""
now = time.monotonic
Value = TypeVar("Value")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def peak_mb(pid: int) -> float:
    """The most memory that the process has had resident."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found.group(1)) / 1000 if found else float("nan")


async def start(folder: Path, models: int) -> dict[str, float]:
    """One cold start; seconds since the processes were started, and megabytes."""
    xds, http = free_port(), free_port()
    config = folder.parent / "headgate.yaml"
    config.write_text(CONFIG)
    log = folder.parent / "serve.log"
    command = [sys.executable, "-c", "from headgate.cli import main; main()", "serve"]
    command += ["--manifests", str(folder), "--config", str(config), "--log-level", "warning"]
    command += ["--xds", f"127.0.0.1:{xds}", "--http", f"127.0.0.1:{http}"]
    node = bootstrap(node_id="cold", node_cluster="default", xds_address="127.0.0.1", xds_port=xds, admin_port=0)
    envoy = EnvoyProcess(node, concurrency=1, log_level="critical")
    began = now()
    with log.open("w") as said:
        serve = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)  # noqa: ASYNC220  a millisecond
    try:
        await envoy.start(ready=False)
        taken: dict[str, float] = {}
        async with asyncio.timeout(WITHIN):
            await until(lambda: accepts(xds), serve, log)
            taken["xDS port open"] = now() - began
            port = await listener_port(envoy, WITHIN)
            taken["Envoy listens"] = now() - began
            await until(lambda: answers(port, many_models.host(models - 1)), serve, log)
            taken["last model served"] = now() - began
        taken["serve MB"], taken["serve CPU s"] = peak_mb(serve.pid), cpu_seconds(serve.pid)
        taken["Envoy MB"] = peak_mb(envoy.pid)
    finally:
        serve.kill()
        serve.wait()
        await envoy.stop(grace=0)
    return taken


async def until(holds: Callable[[], bool], serve: subprocess.Popen[bytes], log: Path) -> None:
    """Ask again and again, unless the control plane has died."""
    while not await asyncio.to_thread(holds):
        if serve.poll() is not None:
            words = await asyncio.to_thread(log.read_text)
            raise RuntimeError(f"headgate serve ended with exit code {serve.returncode}: {words[-2000:]}")
        await asyncio.sleep(0.02)


def answers(port: int, host: str) -> bool:
    """Whether Envoy answers 200 for a host; a new connection each time, as a first user's."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
        return connection.recv(100).startswith(b"HTTP/1.1 200")
    return False


def cold_starts(report: Report, models: int, rounds: int) -> None:
    columns = ("xDS port open", "Envoy listens", "last model served", "serve MB", "serve CPU s", "Envoy MB")
    taken: list[dict[str, float]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headgate-cold-"))) / "models"
        folder.mkdir()
        servers = stack.enter_context(Child.script("servers.py", "http", "v1", "v2"))
        many_models.write(folder, models, servers.hear("listening")["ports"])
        for n in range(rounds):
            taken.append(asyncio.run(start(folder, models)))
            progress(f"cold start {n + 1}: last model served after {taken[-1]['last model served']:.1f} s")
    rows = [[f"round {n + 1}", *(one[column] for column in columns)] for n, one in enumerate(taken)]
    report.table(f"{models:,} models, from process start: seconds, and peak memory", ("", *columns), rows)
    served = median([one["last model served"] for one in taken])
    report.figure(f"{models:,} models, start to the last one served", served, "s", START_SECONDS, headline=True)
    report.figure("peak memory of headgate serve", median([one["serve MB"] for one in taken]), "MB", START_MB)


def changes(models: int, count: int) -> dict[str, list[float]]:
    """CPU milliseconds of each phase of a change, over many changed models."""
    ports = {"v1": 9_001, "v2": 9_002}
    gateway = Gateway("default", (Listener("http", "127.0.0.1", 0),))
    store, sink = Store(), Sink([gateway])
    engine = Engine(store, sink, gateways={gateway.name: gateway})
    for n in range(models):
        located = read(many_models.manifest(n, ports))
        store.put(located.rollout.key, located)
        engine.update(located.rollout.key)
    store.take_dirty()
    while sink._again:  # the switch to on-demand scopes belongs to loading, not to a change
        sink.translate_slice()
    chance = random.Random(1)
    spent: dict[str, list[float]] = {
        "parse": [],
        "observe, step, plan": [],
        "translate": [],
        "parsed object to bytes": [],
    }
    for turn, n in enumerate(chance.sample(range(models), count) if models >= count else [0] * count):
        text = many_models.manifest(n, ports, share=11 + turn % 80)
        located = timed(spent["parse"], partial(read, text))
        model = located.rollout.key

        def pure(located: Located = located, model: str = model) -> Any:
            rollout = located.rollout
            seen = observe(rollout, store.health(model))
            return plan(rollout, seen, step(rollout, seen, RolloutState(), 0.0), tuple(rollout.spec.hosts)).plan

        made = timed(spent["observe, step, plan"], pure)
        timed(spent["translate"], partial(translate, made))

        def whole(located: Located = located, model: str = model) -> None:
            store.put(model, located)
            for dirty in store.take_dirty():
                engine.update(dirty)

        before = sink.caches["default"].version(model)
        timed(spent["parsed object to bytes"], whole)
        if sink.caches["default"].version(model) == before:
            raise RuntimeError(f"the change of {model} did not reach the cache")
    return spent


def read(text: str) -> Located:
    parsed = parse(text.encode(), "benchmark.yaml")
    (located,) = parsed.rollouts
    return located


def timed(into: list[float], work: Callable[[], Value]) -> Value:
    begun = time.thread_time()
    result = work()
    into.append((time.thread_time() - begun) * 1000)
    return result


def compile_changes(report: Report, models: int, count: int) -> None:
    progress(f"{count} changes among {models:,} models and among 1, in this process")
    many, one = changes(models, count), changes(1, count)
    rows = [[phase, median(one[phase]), median(many[phase]), percentile(many[phase], 99)] for phase in many]
    report.table(
        "CPU milliseconds of one change", ("phase", "among 1, median", f"among {models:,}, median", "p99"), rows
    )
    total = "parsed object to bytes"
    report.figure(
        f"CPU of one change among {models:,}, {total}", median(many[total]), "CPU-ms", COMPILE_MS, headline=True
    )
    report.figure(f"... among {models:,} against among 1", median(many[total]) / median(one[total]), "x")


def main() -> int:
    chosen = arguments(__doc__)
    report = Report("coldstart", machine())
    cold_starts(report, MODELS, 1 if chosen.quick else 3)
    compile_changes(report, MODELS, 300 if chosen.quick else 1000)
    return report.close(chosen.json)


if __name__ == "__main__":
    sys.exit(main())
