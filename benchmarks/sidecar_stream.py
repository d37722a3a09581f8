"""What the stream of single requests costs: the sidecar per entry, and Envoy's rate.

Messages as Envoy sends them are taken in by one connection, in this process. Then two listeners of one Envoy, one
streaming to `headgate sidecar` and one plain, get the same load by turns (see `listeners.py`). At last the streaming
one gets 80 % of the rate that it holds, and every entry has to come.
"""

from __future__ import annotations

import asyncio
import re
import socket
import statistics
import sys
import time
from dataclasses import dataclass

import aiohttp
import msgpack

from benchmarks.child import Child, cpu_seconds, resident
from benchmarks.listeners import COLUMNS, CONNECTIONS, Compared, Rig, gateway
from benchmarks.load_tools import cores, pin
from benchmarks.report import Report, arguments, machine, progress
from benchmarks.sidecar_child import sidecar
from sidecar.stream.figures import families
from sidecar.stream.losses import Losses
from sidecar.stream.receiver import Receiver
from sidecar.stream.requests import Requests
from xds.ir import Stream

MESSAGES, ENTRIES = 100, 200
SETTLED = 7.0
"""Seconds until what has not come is told as lost."""
WAYS = {
    "plain": gateway(count_requests=False),
    "streaming": gateway(count_requests=False, stream=Stream("x-user")),
}
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


async def beside(report: Report, starts: int, rounds: int) -> None:
    """Envoy's rate with and without the stream; the sidecar's own cost, and what it has missed."""
    compared, at_full = Compared(), Full()
    for start in range(starts):
        progress(f"Envoy {start + 1} of {starts}")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        async with (
            Rig(WAYS, sidecar=("127.0.0.1", port)) as rig,
            sidecar(f"http://127.0.0.1:{rig.envoy.admin_port}", port) as (pid, url),
        ):
            pin(pid, cores()[0])
            await connected(url, rig)
            before, spent = await told(url), cpu_seconds(pid)
            compared.add(await rig.compare(rounds), "plain")
            await asyncio.sleep(SETTLED)
            after = await told(url)
            at_full.add(after[0] - before[0], after[1] - before[1], cpu_seconds(pid) - spent)
            if start == starts - 1:
                held = await rig.rate("streaming", 3.0)
                await asyncio.sleep(SETTLED)
                paced, came, lost = await at_a_rate(url, rig.ports["streaming"], 0.8 * held, 5.0)
                memory = resident(pid) / 1e6
    report.table(f"One worker of Envoy, {starts} starts", COLUMNS, compared.rows())
    report.figure("request rate with the stream on", compared.share("streaming"), "%", 88, "at least", headline=True)
    report.figure("all of the sidecar's CPU per entry", 1e6 * at_full.cpu / at_full.came, "us")
    report.figure(f"lost of {at_full.came:,.0f} entries at full load", at_full.lost, "")
    rate = f"{paced['sent']:,} requests at {0.8 * held:,.0f}/s, 80 % of what it held"
    report.figure(f"lost or missing of {rate}", max(lost, paced["sent"] - came), "", 0, headline=True)
    report.figure("failed of them", paced["failed"], "", 0)
    report.figure("late by more than all connections", paced["late"], "")
    report.figure("memory of the sidecar", memory, "MB", 80)


@dataclass
class Full:
    """What came of full load: entries, those lost, seconds of the sidecar's CPU."""

    came: float = 0.0
    lost: float = 0.0
    cpu: float = 0.0

    def add(self, came: float, lost: float, cpu: float) -> None:
        self.came, self.lost, self.cpu = self.came + came, self.lost + lost, self.cpu + cpu


async def connected(url: str, rig: Rig) -> None:
    """Until entries come, for Envoy connects when it has one to tell; and until what was lost before is known."""
    async with asyncio.timeout(30):
        while not (await told(url))[0]:
            await rig.rate("streaming")
            await asyncio.sleep(0.3)
    await asyncio.sleep(SETTLED)


async def at_a_rate(url: str, port: int, rate: float, seconds: float) -> tuple[dict[str, int], float, float]:
    """What was sent, how many entries came of it, and how many were told as lost."""
    before = await told(url)
    with Child.script("paced.py", port, "m.example", rate, seconds, CONNECTIONS * 4) as load:
        pin(load.pid, cores()[0])
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
    asyncio.run(beside(report, *((2, 30) if options.quick else (6, 60))))
    return report.close(options.json)


if __name__ == "__main__":
    sys.exit(main())
