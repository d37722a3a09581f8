"""What a plugin on the request path costs: embedded Python and ext_proc beside Wasm (C), Lua, a dynamic module without
Python, and nothing.

One Envoy with one worker has a listener for each way. Each way's turn of a tenth of a second follows or precedes one of
plain Envoy, so that every ratio is between neighbours; a figure is the median of several starts, because memory lies
differently after each. Envoy has a core of its own. Load (`turns.c`), model server (nginx) and the processes beside
Envoy share the other one, for every way. Needs `nginx` and a C compiler; for Wasm `clang` and `lld`, without which its
rows say that it is absent.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.compiled import NoCompiler, compiled
from benchmarks.load_tools import cores, pin
from benchmarks.report import Report, arguments, machine, progress
from benchmarks.turns import Turns
from benchmarks.wasm import build as build_wasm
from benchmarks.wasm import missing as missing_for_wasm
from benchmarks.wasm import wasm_filter
from headgate.envoy import EnvoyProcess
from sidecar.ext_proc import wire
from sidecar.ext_proc.envoy import cluster
from sidecar.ext_proc.envoy import http_filter as ext_proc_filter
from sidecar.loading import load as load_plugins
from sidecar.native.build import NativeError, build, http_filter

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


CONNECTIONS = 16
SECONDS, ALONE = 0.1, 0.06  # of a turn, and of one with one connection
ANSWERED_BY_C = "ext_proc, answered by C"


def plugin(name: str) -> dict[str, Any]:
    return http_filter({"plugins": [{"plugin": f"benchmarks.plugin_samples:{name}"}]}, name)


def beside(name: str, by: str = "") -> dict[str, Any]:
    """A plugin in a process of its own, which Envoy asks; `by`: another process than its own."""
    loaded = load_plugins([{"plugin": f"benchmarks.plugin_samples:{name}"}])
    assert loaded.pipeline is not None, loaded.faults
    return ext_proc_filter(loaded.pipeline, by or name)


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
        ANSWERED_BY_C: (beside("HeaderPlugin", "answers"),),
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
                *(cluster(f"unix:{folder}/{name}.sock", name) for name in (*BESIDE, "answers")),
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
    """`headgate plugin serve` for each sample, and what answers without a plugin; their process ids."""
    serve = [sys.executable, "-m", "headgate", "plugin", "serve"]
    commands = [[*serve, f"benchmarks.plugin_samples:{one}", "--listen", f"unix:{folder}/{one}.sock"] for one in BESIDE]
    known = (
        wire.framed(wire.REQUEST_HEADERS, wire.put("x-seen", "/v2/models")),
        wire.framed(wire.RESPONSE_HEADERS, wire.put("x-told", "200")),
    )
    answers = str(compiled("ext_proc_answers", folder))
    commands.append([answers, f"{folder}/answers.sock", *(one.hex() for one in known)])
    with ExitStack() as stack:
        pids = []
        for command in commands:
            process = subprocess.Popen(
                command, cwd=HERE.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            assert process.stdout is not None
            said = process.stdout.readline()
            if "plugins for Envoy" not in said and "listening" not in said:
                raise RuntimeError(f"no plugins beside Envoy: {said}")
            pids.append(process.pid)
        yield pids


@dataclass(slots=True)
class Measured:
    """What one way took, by turn: `of plain` beside its neighbour."""

    rates: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    more: list[float] = field(default_factory=list)  # us of Envoy's worker a request
    beside: list[float] = field(default_factory=list)  # us of the processes beside it
    busy: list[float] = field(default_factory=list)  # percent of its core that Envoy's worker took
    added: list[float] = field(default_factory=list)  # ms


class Rig:
    """One start of Envoy, and the load."""

    def __init__(self, envoy: EnvoyProcess, ports: dict[str, int], pids: list[int]) -> None:
        tasks = Path(f"/proc/{envoy.pid}/task").iterdir()
        (self._worker,) = (one for one in tasks if (one / "comm").read_text().startswith("wrk:"))
        self._beside = [one for pid in pids for one in Path(f"/proc/{pid}/task").iterdir()]
        self._ports = ports
        self.failed = 0

    async def rate(self, load: Turns, way: str) -> tuple[float, float, float, float]:
        """Requests a second; us a request of Envoy's worker, and of those beside it; how busy the worker was."""
        worker, others = _ran([self._worker]), _ran(self._beside)
        turn = await asyncio.to_thread(load.turn, self._ports[way], CONNECTIONS, SECONDS)
        self.failed += turn.failed
        worker, others = _ran([self._worker]) - worker, _ran(self._beside) - others
        return turn.rate, worker / turn.requests, others / turn.requests, worker / turn.requests * turn.rate / 1e4

    async def p50(self, load: Turns, way: str) -> float:
        turn = await asyncio.to_thread(load.turn, self._ports[way], 1, ALONE)
        self.failed += turn.failed
        return turn.p50


def _ran(tasks: list[Path]) -> float:
    """us of CPU that threads have taken."""
    return sum(int((one / "schedstat").read_text().split()[0]) for one in tasks) / 1e3


async def measure(rig: Rig, load: Turns, ways: list[str], rounds: int) -> dict[str, Measured]:
    """Each way in pairs with plain Envoy, one right after the other, either first."""
    found = {way: Measured() for way in ways}
    for way in ways:
        await rig.rate(load, way)  # connections and caches are there
    for at in range(rounds):
        for way in random.sample(ways[1:], len(ways) - 1):
            pair = ("plain", way) if at % 2 else (way, "plain")
            many = {one: await rig.rate(load, one) for one in pair}
            alone = {one: await rig.p50(load, one) for one in pair}
            taken = found[way]
            found["plain"].rates.append(many["plain"][0])
            taken.rates.append(many[way][0])
            taken.shares.append(100 * many[way][0] / many["plain"][0])
            taken.more.append(many[way][1] - many["plain"][1])
            taken.beside.append(many[way][2])
            taken.busy.append(many[way][3])
            taken.added.append(alone[way] - alone["plain"])
    return found


async def start(
    folder: Path, filters: Ways, sizes: tuple[int, ...], rounds: int
) -> tuple[list[dict[str, Measured]], int, int]:
    """One Envoy: what it took with headers and with each size of a body, requests that failed, and those that went by
    without their plugin."""
    mine, envoys = cores()
    order = dict(random.sample(list(filters.items()), len(filters)))  # who is made first lies elsewhere
    headers = [way for way in filters if "body" not in way]
    bodies = ["plain", *(way for way in filters if "body" in way)]
    binary = compiled("turns", folder)
    with ExitStack() as stack:
        stack.enter_context(model_server(folder))
        pids = stack.enter_context(beside_servers(folder))
        for pid in (*_family(folder / "nginx.pid"), *pids):
            pin(pid, mine)
        async with EnvoyProcess(bootstrap(folder, order), folder=folder / "envoy", concurrency=1) as envoy:
            rig = Rig(envoy, {way: await envoy.wait_listener(way) for way in filters}, pids)
            pin(envoy.pid, envoys)
            measured = []
            for size in (0, *sizes):
                with Turns(binary, mine, size) as load:
                    measured.append(
                        await measure(rig, load, bodies if size else headers, rounds if not size else rounds // 3)
                    )
            stats = await envoy.stats("ext_proc.(failure_mode_allowed|streams_failed)$")
            return measured, rig.failed, max(stats.values(), default=0)


def _family(file: Path) -> list[int]:
    """The process whose id is in the file, and its children."""
    pid = int(file.read_text())
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def told(report: Report, what: str, starts: list[dict[str, Measured]], absent: str) -> None:
    """One table of all starts."""

    def middle(way: str, name: str) -> float:
        return statistics.median(statistics.median(getattr(one[way], name)) for one in starts)

    rows = []
    for way in starts[0]:
        if way == "plain":
            continue
        shares = [statistics.median(one[way].shares) for one in starts]
        rows.append(
            [
                way,
                f"{middle(way, 'rates'):,.0f}",
                f"{statistics.median(shares):.1f}",
                f"{min(shares):.1f}",
                f"{max(shares):.1f}",
                f"{middle(way, 'more'):.1f}",
                f"{middle(way, 'busy'):.0f}",
                f"{middle(way, 'beside'):.1f}" if "ext_proc" in way else "",
                f"{middle(way, 'added'):.3f}",
            ]
        )
    if absent:
        rows.append(["Wasm (C)", "absent", *[""] * 7])
    columns = ("way", "requests/s", "% of plain", "lowest", "highest start")
    report.table(
        f"{what}: {CONNECTIONS} connections, one for the latency (plain: {middle('plain', 'rates'):,.0f} requests/s)",
        (*columns, "Envoy's CPU us more", "% of its core", "CPU us beside", "added p50 ms"),
        rows,
    )
    if "embedded Python" not in starts[0]:
        return
    for way, name, rate, added in (("embedded Python", "embedded", 75, 0.1), ("ext_proc", "ext_proc", 40, 2)):
        share = middle(way, "shares")
        report.figure(f"{name} header plugin, rate of plain", share, "%", rate, "at least", headline=True)
        report.figure(f"{name} header plugin, added p50", middle(way, "added"), "ms", added, headline=True)
    report.figure("ext_proc answered by C, rate of plain", middle(ANSWERED_BY_C, "shares"), "%")


async def run(report: Report, starts: int, rounds: int) -> None:
    sizes = (1_000, 100_000)
    with tempfile.TemporaryDirectory(prefix="headgate-plugins-") as name:
        os.environ.update(build().environment)
        absent = missing_for_wasm()
        if absent:
            progress(f"Wasm is left out: {absent}")
        filters = ways(None if absent else build_wasm(Path(name)))
        found: list[list[dict[str, Measured]]] = []
        failed = unseen = 0
        for at in range(starts):
            folder = Path(name) / str(at)
            folder.mkdir()
            measured, more_failed, more_unseen = await start(folder, filters, sizes, rounds)
            found.append(measured)
            failed, unseen = failed + more_failed, unseen + more_unseen
            shares = {way: statistics.median(one.shares) for way, one in measured[0].items() if one.shares}
            progress(f"start {at + 1}: " + ", ".join(f"{way} {share:.1f} %" for way, share in shares.items()))
    for at, what in enumerate(("headers", *(f"body of {size // 1000} kB" for size in sizes))):
        told(report, what, [one[at] for one in found], absent)
    report.figure("failed requests", failed, "", 0)
    report.figure("requests that went by without their plugin", unseen, "", 0)


def main() -> int:
    chosen = arguments(__doc__)
    if shutil.which("nginx") is None:
        print("missing: nginx (Debian: apt-get install nginx-light)", file=sys.stderr)
        return 2
    report = Report("plugins", machine())
    try:
        asyncio.run(run(report, 3 if chosen.quick else 5, 8 if chosen.quick else 24))
    except (NoCompiler, NativeError) as error:
        print(error, file=sys.stderr)
        return 2
    return report.close(chosen.json)


if __name__ == "__main__":
    sys.exit(main())
