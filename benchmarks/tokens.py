"""When a streamed token arrives, and when the load generator says that it did: headgate beside locust's FastHttpUser.

A server streams tokens 10 ms apart over 20, 100 and 300 connections at once and stamps each as it hands it to the
kernel; clocks are the same on one machine, so every token's error is known. The generators run in turn, on one core,
the server on another. No Envoy is involved.
"""

from __future__ import annotations

import os
import shutil
import sys
from itertools import chain

from benchmarks.child import Child
from benchmarks.report import Report, arguments, machine, progress
from benchmarks.samples import median, percentile

TOKENS, GAP = 50, 0.010  # as many to a stream, so many seconds apart
SPREAD = 0.1  # seconds in which the streams of a run begin
GENERATORS = ("headgate", "locust")
NAMES = {"headgate": "headgate", "locust": "FastHttpUser.iter_lines"}


def run(server: Child, port: int, kind: str, streams: int) -> tuple[list[float], float]:
    """Milliseconds by which each token's stamp is late, and the microseconds of CPU that each cost."""
    command = [sys.executable, "-m", "benchmarks.token_client", kind, f"http://127.0.0.1:{port}", streams, SPREAD]
    with Child(*_pinned(1), *map(str, command)) as client:
        seen = client.hear("seen", timeout=120)
    server.do("stamps")
    truth = server.hear("stamps")["stamps"]
    assert truth.keys() == seen["stamps"].keys()
    late = []
    for number, stamps in truth.items():
        told = seen["stamps"][number]
        if len(told) != len(stamps):
            raise RuntimeError(f"{kind} saw {len(told)} of the {len(stamps)} tokens of a stream")
        late += [(there - here) * 1000 for here, there in zip(stamps, told, strict=True)]
    return late, seen["cpu"] / len(late) * 1e6


def _pinned(core: int) -> list[str]:
    """Server and generator on a core each, where that can be arranged."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return ["taskset", "-c", str(cores[core])] if len(cores) > core and shutil.which("taskset") else []


def main() -> int:
    chosen = arguments(__doc__)
    report = Report("tokens", machine())
    sizes = (20, 100) if chosen.quick else (20, 100, 300)
    rounds = 2 if chosen.quick else 5
    script = [sys.executable, "-m", "benchmarks.token_server", str(TOKENS), str(GAP)]
    with Child(*_pinned(0), *script) as server:
        port = server.hear("listening")["port"]
        rows = []
        for streams in sizes:
            collected: dict[str, list[tuple[list[float], float]]] = {kind: [] for kind in GENERATORS}
            for number in range(rounds):
                for kind in GENERATORS:
                    progress(f"{streams} streams, round {number + 1} of {rounds}: {NAMES[kind]}")
                    collected[kind].append(run(server, port, kind, streams))
            for kind in GENERATORS:
                late = list(chain.from_iterable(each[0] for each in collected[kind]))
                cost = median([each[1] for each in collected[kind]])
                rows.append(
                    [f"{NAMES[kind]}, {streams} streams", *(percentile(late, p) for p in (50, 99)), max(late), cost]
                )
            ours = median([percentile(each[0], 50) for each in collected["headgate"]])
            report.figure(
                f"lateness of a token's stamp, p50, {streams} streams", ours, "ms", 1.0, headline=streams == 100
            )
            if streams == 100:
                theirs = median([percentile(each[0], 50) for each in collected["locust"]])
                report.figure("FastHttpUser's lateness beside it, p50", theirs, "ms")
        report.table(
            f"{TOKENS} tokens per stream, {GAP * 1000:.0f} ms apart; how late each one's stamp is",
            ["generator", "p50 ms", "p99 ms", "greatest ms", "CPU us per token"],
            rows,
        )
    return report.close(chosen.json)


if __name__ == "__main__":
    raise SystemExit(main())
