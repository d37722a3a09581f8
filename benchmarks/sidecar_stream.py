"""What the stream of single requests costs: the sidecar per entry, and Envoy per request.

Messages as Envoy sends them are taken in by one connection, in this process. Then two Envoys with the same routes to
the same server, one streaming to `headgate sidecar` and one plain, get the same load in turns (`sidecar_overhead.py`).
At last the streaming one gets 80 % of the rate that it has just held, and every entry has to come.
"""

from __future__ import annotations

import asyncio
import re
import socket
import statistics
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import msgpack

from benchmarks.child import Child, cpu_seconds, resident
from benchmarks.plane import Plane, rollouts
from benchmarks.report import ROOT, Report, arguments, machine, progress
from benchmarks.sidecar_overhead import CONNECTIONS, MANIFEST, MODEL, loaded
from sidecar.stream.figures import families
from sidecar.stream.losses import Losses
from sidecar.stream.receiver import Receiver
from sidecar.stream.requests import Requests
from xds.ir import Gateway, Listener, Stream

MESSAGES, ENTRIES = 100, 200
FLUSHED, SETTLED = 0.5, 7.0
"""Seconds until Envoy has sent what it had kept; until what has not come is told as lost."""
CASES = {
    "as it is": ("2", "", "-"),
    "with two labels": ("2 tier region", "gold\reu", "-"),
    "with figures of an LLM": ("2", "", '{"tokens_in":17,"tokens_out":140,"time_to_first_token":0.25}'),
}


class Nobody:
    async def get(self, path: str) -> bytes:
        return b""


def messages(layout: str, labels: str, metadata: str) -> list[bytes]:
    """Four versions, two codes, 1,000 clients."""
    found = []
    for message in range(MESSAGES):
        entries = []
        for index in range(ENTRIES):
            model, version = f"default/m{index % 2}", f"v{index // 2 % 2}"
            by = f"{503 if index % 50 == 0 else 200}|-|-|v0@{model}|{model}/{version}|{version}"
            numbers = "1795255762.334705|2343|2238|100|282|POST"
            user = f"user-{(message * ENTRIES + index) % 1000}"
            text = (by, user, metadata, numbers, f"/v2/models/{model}/infer", "e655daa6-4d23", "curl/8", labels)
            entries.append([1795255762, {layout: "\n".join(text)}])
        found.append(msgpack.packb(["headgate.requests", entries]))
    return found


def cost(case: tuple[str, str, str], rounds: int) -> tuple[float, float]:
    """Microseconds of CPU per entry, at the median and at most; bytes per entry."""
    taken, sent = [], messages(*case)
    requests = Requests()
    receiver = Receiver(requests)
    connection = receiver.connection()
    for _ in range(rounds):
        began = time.process_time()
        for each in sent:
            connection.data_received(each)
        taken.append(1e6 * (time.process_time() - began) / (MESSAGES * ENTRIES))
    if requests.entries != rounds * MESSAGES * ENTRIES or requests.refused:
        raise RuntimeError(f"{requests.entries} entries, refused {requests.refused}")
    families(receiver, Losses(Nobody(), lambda: 0))
    return statistics.median(taken), sum(map(len, sent)) / (MESSAGES * ENTRIES)


async def beside(report: Report, rounds: int, seconds: float) -> None:
    """Envoy's CPU with and without the stream; the sidecar's own, and what it has missed at full load."""
    rates: dict[bool, list[float]] = {True: [], False: []}
    per_second: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        servers = stack.enter_context(Child.script("servers.py", "http", "v1", "v2"))
        ports = servers.hear("listening")["ports"]
        planes: dict[bool, Plane] = {}
        for streams in (True, False):
            listeners = (Listener("http", "127.0.0.1", 0),)
            gateway = Gateway("default", listeners, count_requests=False, stream=Stream("x-user") if streams else None)
            plane = planes[streams] = await stack.enter_async_context(Plane(gateway=gateway))
            (located,) = rollouts(MANIFEST.format(**ports))
            plane.put(located)
            await plane.start_envoy(sidecar=("127.0.0.1", port))
            await plane.acked(MODEL)
        envoy = planes[True].envoy
        assert envoy is not None
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "headgate", "sidecar", "--envoy", f"http://127.0.0.1:{envoy.admin_port}"),
            *("--listen", "127.0.0.1:0", "--stream", f"127.0.0.1:{port}"),
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        try:
            assert child.stderr is not None
            await child.stderr.readline()
            url = f"http://{(await child.stderr.readline()).decode().split()[-1]}"
            for plane in planes.values():
                await loaded(plane, 1.5, folder)  # by then Envoy is connected
            before, spent = await told(url), cpu_seconds(child.pid)
            for turn in range(rounds):
                progress(f"round {turn + 1} of {rounds}")
                for streams in (True, False) if turn % 2 else (False, True):
                    counted = await told(url)
                    rates[streams].append(await loaded(planes[streams], seconds, folder))
                    if streams:
                        await asyncio.sleep(FLUSHED)
                        per_second.append(((await told(url))[0] - counted[0]) / seconds)
            spent = cpu_seconds(child.pid) - spent
            await asyncio.sleep(SETTLED)
            after = await told(url)
            held = statistics.median(per_second)
            paced, came_paced, lost_paced = await at_a_rate(url, planes[True].port, 0.8 * held, 5.0)
            memory = resident(child.pid) / 1e6
        finally:
            child.terminate()
            await child.wait()
    came, lost = after[0] - before[0], after[1] - before[1]
    rows = [
        [name, statistics.median(rates[streams]), 1e6 / statistics.median(rates[streams])]
        for name, streams in (("plain", False), ("streaming", True))
    ]
    report.table("Envoy with a server that answers at once", ("Envoy", "requests per CPU second", "us a request"), rows)
    shares = [100 * streaming / plain for streaming, plain in zip(rates[True], rates[False], strict=True)]
    report.figure("request rate with the stream on", statistics.median(shares), "%", 88, "at least", headline=True)
    report.figure("all of the sidecar's CPU per entry", 1e6 * spent / came, "us")
    report.figure(f"lost of {came:,.0f} entries at full load", lost, "")
    rate = f"{paced['sent']:,} requests at {0.8 * held:,.0f}/s, 80 % of what it held"
    report.figure(f"lost or missing of {rate}", max(lost_paced, paced["sent"] - came_paced), "", 0, headline=True)
    report.figure("failed of them", paced["failed"], "", 0)
    report.figure("late by more than all connections", paced["late"], "")
    report.figure("memory of the sidecar", memory, "MB", 80)


async def at_a_rate(url: str, port: int, rate: float, seconds: float) -> tuple[dict[str, int], float, float]:
    """What was sent, how many entries came of it, and how many were told as lost."""
    before = await told(url)
    with Child.script("paced.py", port, "m.example", rate, seconds, CONNECTIONS * 4) as load:
        sent = await asyncio.to_thread(load.hear, "done", seconds + 30)
    await asyncio.sleep(SETTLED)
    after = await told(url)
    return sent, after[0] - before[0], after[1] - before[1]


async def told(url: str) -> tuple[float, float]:
    """Entries that came, and that were lost."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        text = await answer.text()
    found = re.findall(r"^headgate_stream_(entries|lost)_total\S* (\S+)$", text, re.MULTILINE)
    return sum(float(n) for name, n in found if name == "entries"), sum(float(n) for name, n in found if name == "lost")


def main() -> int:
    options = arguments(__doc__)
    report = Report("sidecar_stream", machine())
    costs = {name: cost(case, 10 if options.quick else 50) for name, case in CASES.items()}
    rows = [[name, size, each] for name, (each, size) in costs.items()]
    report.table("Python per entry", ("entry", "bytes", "us of CPU"), rows)
    report.figure("Python per entry", costs["as it is"][0], "us", 3, headline=True)
    asyncio.run(beside(report, 6 if options.quick else 30, 0.5))
    return report.close(options.json)


if __name__ == "__main__":
    sys.exit(main())
