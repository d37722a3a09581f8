"""What an entry of the request stream costs the sidecar: messages as Envoy sends them, taken in by one connection."""

from __future__ import annotations

import statistics
import sys
import time

import msgpack

from benchmarks.report import Report, arguments, machine
from sidecar.stream.figures import families
from sidecar.stream.losses import Losses
from sidecar.stream.receiver import Receiver
from sidecar.stream.requests import Requests

MESSAGES, ENTRIES = 100, 200
CASES = {
    "as it is": ("1", "", "-"),
    "with two labels": ("1 tier region", "gold\x1eeu", "-"),
    "with figures of an LLM": ("1", "", '{"tokens_in":17,"tokens_out":140,"time_to_first_token":0.25}'),
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
            by = f"{503 if index % 50 == 0 else 200}|-|-|weighted|v0@{model}|{model}/{version}|{version}"
            rest = ("1795255762.334705", "2343", "2238", "100", "282", "POST", f"/v2/models/{model}/infer")
            text = (
                by,
                f"user-{(message * ENTRIES + index) % 1000}",
                labels,
                metadata,
                *rest,
                "e655daa6-4d23",
                "curl/8",
            )
            entries.append([1795255762, {layout: "\x1f".join(text)}])
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


def main() -> int:
    options = arguments(__doc__)
    report = Report("sidecar_stream", machine())
    costs = {name: cost(case, 10 if options.quick else 50) for name, case in CASES.items()}
    rows = [[name, size, each] for name, (each, size) in costs.items()]
    report.table("Python per entry", ("entry", "bytes", "us of CPU"), rows)
    report.figure("Python per entry", costs["as it is"][0], "us", 3, headline=True)
    return report.close(options.json)


if __name__ == "__main__":
    sys.exit(main())
