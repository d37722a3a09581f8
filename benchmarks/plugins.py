"""What a plugin on the request path costs: embedded Python and ext_proc beside Wasm (C), Lua, a dynamic module without
Python, and nothing.

One Envoy with one worker has a listener for each way; wrk sends to plain Envoy and to a way in turn, so that every
ratio is between neighbouring runs. Needs `wrk`, `nginx` (as the model server) and a C compiler; for Wasm `clang` and
`lld`, without which its rows say that it is absent.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.child import cpu_seconds
from benchmarks.report import Report, arguments, machine, progress
from benchmarks.wasm import build as build_wasm
from benchmarks.wasm import missing as missing_for_wasm
from benchmarks.wasm import wasm_filter
from headgate.envoy import EnvoyProcess
from sidecar.ext_proc.envoy import cluster
from sidecar.ext_proc.envoy import http_filter as ext_proc_filter
from sidecar.loading import load as load_plugins
from sidecar.native.build import build, http_filter

HERE = Path(__file__).resolve().parent
TYPES = "type.googleapis.com/envoy.extensions"
LUA_HEADERS = """
function envoy_on_request(handle)
  handle:headers():replace("x-seen", handle:headers():get(":path"))
end
function envoy_on_response(handle)
  handle:headers():replace("x-told", handle:headers():get(":status"))
end
"""
LUA_BODY = """
function envoy_on_request(handle)
  local body = handle:body()
  local text = body:getBytes(0, body:length())
  body:setBytes(string.upper(text))
end
"""
NGINX = """
daemon off; worker_processes 1; error_log stderr crit; pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder}; client_body_buffer_size 256k;
  server {{ listen unix:{folder}/model.sock; location / {{ return 200 "answer of the model"; }} }}
}}
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """What wrk tells of one run."""

    rate: float
    p50: float  # ms
    failed: int


def plugin(name: str) -> dict[str, Any]:
    return http_filter({"plugins": [{"plugin": f"benchmarks.plugin_samples:{name}"}]}, name)


def beside(name: str) -> dict[str, Any]:
    """A plugin in a process of its own, which Envoy asks."""
    loaded = load_plugins([{"plugin": f"benchmarks.plugin_samples:{name}"}])
    assert loaded.pipeline is not None, loaded.faults
    return ext_proc_filter(loaded.pipeline, name)


def lua(code: str) -> dict[str, Any]:
    return {
        "name": "lua",
        "typed_config": {
            "@type": f"{TYPES}.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": code},
        },
    }


Ways = dict[str, tuple[dict[str, Any], ...]]


def ways(wasm: Path | None) -> Ways:
    """The filters of each way; without a Wasm module those that need none."""
    found: Ways = {
        "plain": (),
        "module without a plugin": (http_filter({}, "none"),),
        "Lua": (lua(LUA_HEADERS),),
        "Wasm (C)": (wasm_filter(wasm, "headers"),) if wasm else (),
        "embedded Python": (plugin("HeaderPlugin"),),
        "ext_proc": (beside("HeaderPlugin"),),
        "Lua, body": (lua(LUA_BODY),),
        "Wasm (C), body": (wasm_filter(wasm, "bodies"),) if wasm else (),
        "embedded Python, body": (plugin("BodyPlugin"),),
        "ext_proc, body": (beside("BodyPlugin"),),
    }
    return {way: filters for way, filters in found.items() if filters or way == "plain"}


BESIDE = ("HeaderPlugin", "BodyPlugin")


def bootstrap(folder: Path, ways: Ways) -> dict[str, Any]:
    """A listener for each way; all lead to the same server."""

    def listener(name: str, filters: tuple[dict[str, Any], ...]) -> dict[str, Any]:
        router = {"name": "router", "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"}}
        route = {"match": {"prefix": "/"}, "route": {"cluster": "model"}}
        manager = {
            "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "benchmark",
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            "http_filters": [*filters, router],
        }
        return {
            "name": name,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
            "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
        }

    endpoint = {"endpoint": {"address": {"pipe": {"path": f"{folder}/model.sock"}}}}
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {
            "listeners": [listener(name, filters) for name, filters in ways.items()],
            "clusters": [
                {
                    "name": "model",
                    "type": "STATIC",
                    "load_assignment": {"cluster_name": "model", "endpoints": [{"lb_endpoints": [endpoint]}]},
                },
                *(cluster(f"unix:{folder}/{name}.sock", name) for name in BESIDE),
            ],
        },
    }


@contextmanager
def model_server(folder: Path) -> Iterator[None]:
    """nginx, which answers at once."""
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder))
    process = subprocess.Popen(["nginx", "-c", str(config), "-e", "stderr"])
    try:
        end = time.monotonic() + 10
        while not (folder / "model.sock").exists():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("nginx did not start")
            time.sleep(0.01)
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def beside_servers(folder: Path) -> Iterator[list[int]]:
    """`headgate plugin serve` for each sample; their process ids."""
    command = [sys.executable, "-m", "headgate", "plugin", "serve"]
    with ExitStack() as stack:
        pids = []
        for name in BESIDE:
            given = [f"benchmarks.plugin_samples:{name}", "--listen", f"unix:{folder}/{name}.sock"]
            process = subprocess.Popen([*command, *given], cwd=HERE.parent, stderr=subprocess.PIPE, text=True)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            assert process.stderr is not None
            told = process.stderr.readline()
            if "plugins for Envoy" not in told:
                raise RuntimeError(f"no plugins beside Envoy: {told}")
            pids.append(process.pid)
        yield pids


async def load(port: int, connections: int, seconds: int, body: Path | None) -> Taken:
    """One run of wrk."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", f"http://127.0.0.1:{port}/v2/models"]
    if body is not None:
        command += ["-s", str(body)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    told = (await process.communicate())[0].decode()
    rate = re.search(r"Requests/sec:\s+([\d.]+)", told)
    p50 = re.search(r"50%\s+([\d.]+)(us|ms|s)", told)
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    if rate is None or p50 is None:
        raise RuntimeError(f"wrk told nothing: {told}")
    scale = {"us": 0.001, "ms": 1.0, "s": 1000.0}[p50[2]]
    return Taken(float(rate[1]), float(p50[1]) * scale, int(failed[1]) if failed else 0)


def script(folder: Path, size: int) -> Path:
    """A POST of so many bytes."""
    path = folder / f"post-{size}.lua"
    path.write_text(f'wrk.method = "POST"\nwrk.body = string.rep("model ", {size // 6})\n')
    return path


async def run(report: Report, rounds: int, seconds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="headgate-plugins-") as name:
        folder = Path(name)
        os.environ.update(build().environment)
        absent = missing_for_wasm()
        if absent:
            progress(f"Wasm is left out: {absent}")
        filters = ways(None if absent else build_wasm(folder))
        with model_server(folder), beside_servers(folder) as pids:
            async with EnvoyProcess(bootstrap(folder, filters), folder=folder / "envoy", concurrency=1) as envoy:
                rig = Rig(report, [envoy.pid, *pids], {way: await envoy.wait_listener(way) for way in filters}, absent)
                headers = [way for way in filters if "body" not in way]
                bodies = ["plain", *(way for way in filters if "body" in way)]
                await measure(rig, "headers", headers, None, rounds, seconds)
                for size in (1_000, 100_000):
                    text = f"body of {size // 1000} kB"
                    await measure(rig, text, bodies, script(folder, size), max(2, rounds // 2), seconds)


@dataclass(frozen=True, slots=True)
class Rig:
    """What the measurements share."""

    report: Report
    pids: list[int]  # Envoy's, and those of the processes beside it
    ports: Mapping[str, int]
    absent: str  # why there is no Wasm


async def measure(rig: Rig, what: str, ways: list[str], body: Path | None, rounds: int, seconds: int) -> None:
    """Each way in pairs with plain Envoy, one right after the other, either first."""
    report, ports = rig.report, rig.ports
    others = ways[1:]
    ratios: dict[str, list[float]] = {way: [] for way in others}
    costs: dict[str, list[float]] = {way: [] for way in others}
    beside: dict[str, list[float]] = {way: [] for way in others}
    added: dict[str, list[float]] = {way: [] for way in others}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    failed = 0

    async def taken(way: str) -> tuple[Taken, float, float]:
        before = [cpu_seconds(pid) for pid in rig.pids]
        run = await load(ports[way], 16, seconds, body)
        took = [
            (cpu_seconds(pid) - then) / (run.rate * seconds) * 1e6 for pid, then in zip(rig.pids, before, strict=True)
        ]
        return run, took[0], sum(took[1:])

    for way in ways:
        await load(ports[way], 16, 1, body)  # connections and caches are there
    for at in range(rounds):
        for way in others:
            pair = ("plain", way) if at % 2 == 0 else (way, "plain")
            busy = {one: await taken(one) for one in pair}
            idle = {one: await load(ports[one], 1, 1, body) for one in pair}
            failed += sum(busy[one][0].failed + idle[one].failed for one in pair)
            for one in pair:
                rates[one].append(busy[one][0].rate)
            ratios[way].append(busy[way][0].rate / busy["plain"][0].rate)
            costs[way].append(busy[way][1] - busy["plain"][1])
            beside[way].append(busy[way][2])
            added[way].append(idle[way].p50 - idle["plain"].p50)
        progress(f"{what}, round {at + 1}: " + ", ".join(f"{way} {ratios[way][-1]:.2f}" for way in others))
    middle = statistics.median
    report.table(
        f"{what}: 16 connections, and one for the latency (plain: {middle(rates['plain']):,.0f} requests/s)",
        ("way", "requests/s", "of plain", "from", "to", "Envoy's CPU us more", "CPU us beside", "added p50 ms"),
        [
            [
                way,
                f"{middle(rates[way]):,.0f}",
                f"{middle(ratios[way]):.2f}",
                f"{min(ratios[way]):.2f}",
                f"{max(ratios[way]):.2f}",
                f"{middle(costs[way]):.1f}",
                f"{middle(beside[way]):.1f}" if "ext_proc" in way else "",
                f"{middle(added[way]):.3f}",
            ]
            for way in others
        ]
        + ([["Wasm (C)", "absent", *[""] * 6]] if rig.absent else []),
    )
    if body is None:
        share = 100 * middle(ratios["embedded Python"])
        report.figure("embedded header plugin, rate of plain", share, "%", 75, "at least", headline=True)
        report.figure("embedded header plugin, added p50", middle(added["embedded Python"]), "ms", 0.1, headline=True)
        beside_share = 100 * middle(ratios["ext_proc"])
        report.figure("ext_proc header plugin, rate of plain", beside_share, "%", 40, "at least", headline=True)
        report.figure("ext_proc header plugin, added p50", middle(added["ext_proc"]), "ms", 2, headline=True)
    report.figure(f"{what}: failed requests", failed, "", 0)


def main() -> int:
    chosen = arguments(__doc__)
    missing = [tool for tool in ("wrk", "nginx") if shutil.which(tool) is None]
    if missing:
        print(f"missing: {', '.join(missing)} (Debian: apt-get install wrk nginx-light)", file=sys.stderr)
        return 2
    report = Report("plugins", machine())
    asyncio.run(run(report, 4 if chosen.quick else 9, 1 if chosen.quick else 2))
    return report.close(chosen.json)


if __name__ == "__main__":
    sys.exit(main())
