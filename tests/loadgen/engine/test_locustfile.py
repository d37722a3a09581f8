"""Plain locust with a plan."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from raw_server import Peer, raw_server

from loadgen.outcome import Outcome
from loadgen.plan import Arrivals, Bounds, Load, Plan, Scenario, Stage, Target

FILE = Path(__file__).parents[3] / "loadgen" / "locustfile.py"


async def answering(peer: Peer) -> None:
    while await peer.request():
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\napp-version: v1\r\n\r\n")


@pytest.mark.parametrize("processes", [1, 2])
def test_locust_runs_a_plan_and_leaves_its_outcome(tmp_path: Path, processes: int) -> None:
    with raw_server(answering) as server:
        load = Load(arrivals=Arrivals((Stage(1.0, 100, 100),)))
        bounds = Bounds(lag_p99=30, rate_error=1, cpu=100)
        plan = Plan("x", (Scenario("main", Target(server.url()), load),), bounds=bounds)
        (tmp_path / "plan.json").write_bytes(plan.to_json())
        several = ["--processes", "2", "--expect-workers", "2"] if processes > 1 else []
        done = subprocess.run(
            [sys.executable, "-m", "locust", "-f", str(FILE), "--headless", "-u", str(processes), *several],
            env={
                **os.environ,
                "HEADGATE_PLAN": str(tmp_path / "plan.json"),
                "HEADGATE_RESULT": str(tmp_path / "r.json"),
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    outcome = Outcome.from_json((tmp_path / "r.json").read_bytes())
    (account,) = outcome.accounts
    assert (account.asked, account.sent) == (100, 100)
    assert len(outcome.workers) == processes
    assert "main v1" in done.stdout + done.stderr


OWN = """
from locust import task
from loadgen.caller import Caller
from loadgen.plan import Target


class Shopper(Caller):
    target = Target("{url}", method="POST", headers=(("x-shop", "7"),))

    @task
    def look(self):
        answer = self.call(b"hi", name="look")
        assert answer.code == "200" and answer.version == "v1", answer
        self.call(b"sick", headers=((b"x-sick", b"1"),), name="sick")
"""


def test_our_client_inside_a_user_s_own_locust_file(tmp_path: Path) -> None:
    async def answering_or_sick(peer: Peer) -> None:
        while request := await peer.request():
            assert b"x-shop: 7" in request
            status = b"503 Busy" if b"x-sick: 1" in request else b"200 OK"
            await peer.send(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\napp-version: v1\r\n\r\n")

    with raw_server(answering_or_sick) as server:
        file = tmp_path / "shop.py"
        file.write_text(OWN.format(url=server.url()))
        done = subprocess.run(
            [sys.executable, "-m", "locust", "-f", str(file), "--headless", "-u", "3", "-t", "1s", "--json"],
            env={**os.environ, "PYTHONPATH": str(FILE.parents[1])},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    told = {each["name"]: each for each in json.loads(done.stdout)}
    assert told["look"]["num_failures"] == 0
    assert told["sick"]["num_failures"] == told["sick"]["num_requests"] > 0
    assert abs(told["look"]["num_requests"] - told["sick"]["num_requests"]) <= 3
    assert "status 503" in done.stderr
