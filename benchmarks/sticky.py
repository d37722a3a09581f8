"""A sticky rollout ramps 1 -> 5 -> 25 -> 50 -> 100 %: does any user move back, and does the offline prediction hold?

Ten thousand user keys are sent through a real Envoy at every step. Nobody who has the candidate may lose it, and
`router.sticky` (what `headgate who` prints) must name every user's version beforehand, without asking Envoy.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from benchmarks.child import Child
from benchmarks.plane import Plane, now, rollouts
from benchmarks.report import Report, arguments, machine, progress
from benchmarks.samples import binomial_interval
from router.sticky import arm

MODEL = "default/sticky"
RAMP = (1, 5, 25, 50, 100)
CONNECTIONS = 16

MANIFEST = """
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata: {{name: sticky}}
spec:
  hosts: [sticky.example]
  strategy: canary
  sticky: {{header: x-user}}
  versions:
  - {{name: v1, weight: {rest}, backend: {{endpoints: ["127.0.0.1:{v1}"]}}}}
  - name: v2
    weight: {share}
    backend: {{endpoints: ["127.0.0.1:{v2}"]}}
    match: [{{headers: [{{name: x-pin, exact: v2}}]}}]
"""


async def ask(port: int, keys: Sequence[str]) -> dict[str, str]:
    """Who answers each user, asked over a few keep-alive connections. A failed request is an answer of its own."""
    waiting, answers = iter(keys), dict[str, str]()

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for key in waiting:
            writer.write(f"GET / HTTP/1.1\r\nhost: sticky.example\r\nx-user: {key}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").lower().split("\r\n")
            length = next((int(line.partition(":")[2]) for line in lines if line.startswith("content-length:")), 0)
            body = (await reader.readexactly(length)).decode()
            status = lines[0].split(" ")[1]
            answers[key] = body if status == "200" else f"HTTP {status}"
        writer.close()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CONNECTIONS):
            tasks.create_task(one())
    return answers


async def run(report: Report, users: int) -> None:
    keys = [f"user-{n}@example.org" for n in range(users)]
    rows: list[list[Any]] = []
    moved_back = wrong = failed = outside = 0
    async with AsyncExitStack() as stack:
        servers = stack.enter_context(Child.script("servers.py", "http", "v1", "v2"))
        ports = servers.hear("listening")["ports"]
        plane = await stack.enter_async_context(Plane())
        held: set[str] = set()
        port = 0
        for share in RAMP:
            (located,) = rollouts(MANIFEST.format(share=share, rest=100 - share, **ports))
            changed = plane.put(located)
            if not port:
                port = await plane.start_envoy()
            acked = await plane.acked(MODEL)
            planned = plane.engine.models()[MODEL].plan
            assert planned is not None
            targets = planned.routes[-1].targets
            predicted = {key: arm(targets, key) for key in keys}
            answers = await ask(port, keys)
            candidates = {key for key, version in answers.items() if version == "v2"}
            back, mistaken = len(held - candidates), sum(answers[key] != predicted[key] for key in keys)
            broken = sum(version not in ("v1", "v2") for version in answers.values())
            low, high = binomial_interval(users, share / 100)
            outside += not low <= len(candidates) <= high
            came, right = len(candidates - held), f"{users - mistaken} of {users}"
            rows.append([f"{share} %", len(candidates), f"{low}..{high}", came, back, right])
            moved_back, wrong, failed = moved_back + back, wrong + mistaken, failed + broken
            held = candidates
            took = f"ACK after {(acked - changed) * 1000:.1f} ms, asked for {now() - acked:.1f} s"
            progress(f"{share} %: {len(candidates)} users have v2, {back} moved back, {took}")
    report.table(
        f"{users:,} users at each step of the ramp",
        ("candidate", "users on it", "99.9 % interval", "came", "moved back", "prediction right"),
        rows,
    )
    report.figure("users that moved back", moved_back, "", 0, headline=True)
    report.figure(f"wrong predictions of {users * len(RAMP):,}", wrong, "", 0, headline=True)
    report.figure("failed requests", failed, "", 0)
    report.figure("steps whose share of users is outside its binomial 99.9 % interval", outside, "", 0)


def main() -> int:
    chosen = arguments(__doc__)
    report = Report("sticky", machine())
    asyncio.run(run(report, 2_000 if chosen.quick else 10_000))
    return report.close(chosen.json)


if __name__ == "__main__":
    sys.exit(main())
