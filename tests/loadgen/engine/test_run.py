"""The real engine in its own process, against real servers: every request accounted for, whatever happens."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from raw_server import Peer, RawServer, raw_server

from loadgen.outcome import UNATTRIBUTED, Outcome, Progress, Sent
from loadgen.plan import Arrivals, Bounds, Load, Payload, Plan, Scenario, Stage, Target
from loadgen.run import EngineFailed, run

LENIENT = Bounds(lag_p99=30.0, rate_error=1.0, cpu=100.0)  # busy test machines say nothing about the code


async def answering(peer: Peer) -> None:
    while await peer.request():
        version = "v1" if peer.number % 2 else "v2"
        await peer.send(f"HTTP/1.1 200 OK\r\ncontent-length: 2\r\napp-version: {version}\r\n\r\nok".encode())


async def silent(peer: Peer) -> None:
    await peer.gone()


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    with raw_server(answering) as made:
        yield made


def steady(rate: float, seconds: float, **extra: object) -> Load:
    return Load(arrivals=Arrivals((Stage(seconds, rate, rate),)), **extra)  # type: ignore[arg-type]


def plan(url: str, load: Load, processes: int = 1, **target: object) -> Plan:
    scenario = Scenario("main", Target(url, **target), load)  # type: ignore[arg-type]
    return Plan("test", (scenario,), processes=processes, bounds=LENIENT)


def play(asked: Plan, watch: Callable[[Progress], None] = lambda progress: None, **extra: str) -> Outcome:
    return asyncio.run(asyncio.wait_for(run(asked, watch, **extra), 100))


def balance(outcome: Outcome) -> Sent:
    """sent = ok + failed + timed out + in flight, and every series' figures are as many as its requests."""
    (account,) = outcome.accounts
    ended = sum(each.ended for each in outcome.series)
    assert account.sent == ended + account.in_flight
    assert account.asked >= account.sent + account.dropped
    for each in outcome.series:
        assert each.metrics["latency"].count == each.ended
        assert sum(second.ended for second in each.timeline) == each.ended
        assert sum(second.failed for second in each.timeline) == each.errors == sum(each.failures.values())
    return account


def test_a_plain_run_sends_what_was_asked_for_and_knows_which_version_answered(server: RawServer) -> None:
    seen: list[Progress] = []
    outcome = play(plan(server.url(), steady(100, 1.5, warmup=0.5, connections=4)), seen.append)
    account = balance(outcome)
    assert (account.asked, account.sent, account.warmup, account.in_flight) == (150, 150, 50, 0)
    assert account.rate == account.rate_asked == pytest.approx(100, rel=0.2)
    assert sum(each.ok for each in outcome.series) == 150
    assert set(outcome.versions()) <= {"v1", "v2"}
    assert outcome.valid, outcome.faults
    assert not outcome.interrupted
    assert seen[-1].phase == "draining"
    assert sum(row.ended for row in seen[-1].rows) == 150
    assert "locust 2." in outcome.engine


def test_latency_counts_from_the_intended_start_while_the_server_stalls() -> None:
    async def stalling(peer: Peer) -> None:
        first = peer.number == 0
        while await peer.request():
            if first:
                first = False
                await asyncio.sleep(1.0)
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    with raw_server(stalling) as server:
        outcome = play(plan(server.url(), steady(50, 1.0, connections=1), version="v1"))
    balance(outcome)
    (series,) = outcome.series
    latency, service = series.metrics["latency"].histogram(), series.metrics["service"].histogram()
    assert latency.percentile(50) > 0.3  # half of the arrivals waited for the only connection
    assert service.percentile(50) < latency.percentile(50)
    assert series.metrics["queue"].histogram().percentile(50) > 0.3


def test_two_processes_share_the_schedule_and_their_figures_add_up(server: RawServer) -> None:
    outcome = play(plan(server.url(), steady(200, 1.0, warmup_requests=20), processes=2))
    account = balance(outcome)
    assert (account.sent, account.warmup) == (200, 20)
    assert {each.name: each.sent for each in outcome.workers} == {"worker 1": 100, "worker 2": 100}
    assert outcome.valid, outcome.faults


def test_users_send_one_after_the_other(server: RawServer) -> None:
    outcome = play(plan(server.url(), Load("users", users=3, requests=60, warmup_requests=6)))
    account = balance(outcome)
    assert (account.sent, account.warmup, account.connections) == (60, 6, 3)


def test_a_target_that_refuses_is_a_failure_for_each_request_and_no_crash() -> None:
    with raw_server(silent) as gone:
        pass
    outcome = play(plan(gone.url(), steady(50, 0.5)))
    account = balance(outcome)
    (series,) = outcome.series
    assert series.version == UNATTRIBUTED
    assert (series.ok, series.failed) == (0, account.sent)
    assert series.failures == {"connection refused": 25}
    assert "127.0.0.1" in series.samples["connection refused"]


def test_what_is_out_when_the_grace_time_ends_has_timed_out_and_what_never_found_room_has_failed() -> None:
    with raw_server(silent) as server:
        outcome = play(plan(server.url(), steady(20, 0.5, connections=4, grace=0.5), version="v1"))
    account = balance(outcome)
    (series,) = outcome.series
    assert (series.timed_out, series.failed, account.in_flight) == (4, 6, 0)
    assert series.failures == {"timeout": 4, "not sent": 6}
    assert series.metrics["latency"].histogram().percentile(0) >= 0.5
    assert series.metrics["service"].count == 4


def test_timeouts_are_counted_with_the_time_that_was_waited() -> None:
    with raw_server(silent) as server:
        outcome = play(plan(server.url(), steady(20, 0.5, connections=0), timeout=0.3))
    balance(outcome)
    (series,) = outcome.series
    assert series.failures == {"timeout": 10}
    assert series.metrics["latency"].histogram().percentile(0) >= 0.3


def test_a_limit_may_drop_and_then_the_run_is_not_valid() -> None:
    with raw_server(silent) as server:
        load = steady(50, 0.5, max_in_flight=5, on_limit="drop", grace=0.2)
        asked = plan(server.url(), load)
        outcome = play(Plan("drops", asked.scenarios, bounds=Bounds(lag_p99=30)))
    account = balance(outcome)
    assert (account.asked, account.sent, account.dropped) == (25, 5, 20)
    assert "dropped" in {each.kind for each in outcome.faults}


def engine_of(parent: int) -> psutil.Process:
    (engine,) = [each for each in psutil.Process(parent).children() if "loadgen.engine" in each.cmdline()]
    return engine


def test_a_signal_ends_it_early_with_what_is_there(server: RawServer) -> None:
    def watch(progress: Progress) -> None:
        if progress.rows:
            os.kill(os.getpid(), signal.SIGINT)

    outcome = play(plan(server.url(), steady(100, 60.0)), watch)
    account = balance(outcome)
    assert outcome.interrupted
    assert 50 < account.sent < 3000


def test_requests_out_when_it_is_interrupted_twice_are_in_flight() -> None:
    def watch(progress: Progress) -> None:
        if progress.sent >= 16:
            os.kill(os.getpid(), signal.SIGTERM)

    with raw_server(silent) as server:
        outcome = play(plan(server.url(), steady(50, 60.0)), watch)
    (account,) = outcome.accounts
    assert account.in_flight == account.sent == 16
    assert outcome.series == ()


def test_an_engine_that_is_killed_leaves_what_it_had_measured(server: RawServer) -> None:
    killed: list[int] = []

    def watch(progress: Progress) -> None:
        if progress.rows and not killed:
            killed.append(engine_of(os.getpid()).pid)
            os.kill(killed[0], signal.SIGKILL)

    outcome = play(plan(server.url(), steady(100, 60.0)), watch)
    assert sum(each.ok for each in outcome.series) >= 50
    assert not outcome.valid
    assert "killed by signal 9" in outcome.faults[0].what


def test_an_engine_that_is_stuck_is_ended_and_leaves_what_it_had_measured(server: RawServer) -> None:
    stuck: list[int] = []

    def stop(progress: Progress) -> None:
        if progress.rows and not stuck:
            stuck.append(engine_of(os.getpid()).pid)
            os.kill(stuck[0], signal.SIGSTOP)

    outcome = asyncio.run(run(plan(server.url(), steady(100, 60.0)), stop, silence=4.0))
    assert stuck
    assert sum(each.ended for each in outcome.series) > 0
    assert "said nothing for 4 s, and was killed" in outcome.faults[0].what


def test_a_worker_that_is_killed_is_reported_and_the_others_go_on(server: RawServer) -> None:
    killed: list[int] = []

    def watch(progress: Progress) -> None:
        if progress.rows and not killed:
            victim = engine_of(os.getpid()).children()[0]
            killed.append(victim.pid)
            victim.kill()

    outcome = play(plan(server.url(), steady(100, 3.0), processes=2), watch)
    assert [each.kind for each in outcome.faults if each.kind == "worker"] == ["worker"]
    assert "killed by signal 9" in next(each.what for each in outcome.faults if each.kind == "worker")
    lost = Counter(each.lost for each in outcome.workers)
    assert lost == {True: 1, False: 1}
    assert next(each.sent for each in outcome.workers if not each.lost) == 150


def test_a_worker_from_elsewhere_takes_its_share(server: RawServer, tmp_path: Path) -> None:
    from loadgen.run import work

    asked = plan(server.url(), steady(100, 1.0))
    with raw_server(silent) as free:
        port = free.port
    leader = Plan("two machines", asked.scenarios, workers=1, bounds=LENIENT)
    outcomes: list[Outcome] = []
    thread = threading.Thread(
        target=lambda: outcomes.append(asyncio.run(run(leader, listen=f"127.0.0.1:{port}"))), name="leader"
    )
    thread.start()
    asyncio.run(asyncio.wait_for(work(f"127.0.0.1:{port}"), 90))
    thread.join(90)
    assert balance(outcomes[0]).sent == 100
    assert len(outcomes[0].workers) == 1


def test_workers_that_do_not_come_are_not_waited_for_without_end(server: RawServer) -> None:
    leader = Plan("alone", plan(server.url(), steady(1, 1)).scenarios, workers=2, bounds=LENIENT)
    with pytest.raises(EngineFailed, match=r"only 0 of 2 workers are there, and no other came within 0\.5 s"):
        asyncio.run(asyncio.wait_for(run(leader, listen="127.0.0.1:0", arrival=0.5), 90))


HELLO_AND_DEATH = """
import sys
from locust import __version__
from locust.rpc import Message, zmqrpc
leader = zmqrpc.Client("127.0.0.1", int(sys.argv[1]), "weak")
leader.send(Message("client_ready", __version__, "weak"))
leader.send(Message("headgate-hello", {"name": "weak"}, "weak"))
leader.recv()
"""


def test_a_worker_that_dies_before_it_is_ready_does_not_count_and_another_takes_its_place(server: RawServer) -> None:
    from loadgen.run import work

    asked = plan(server.url(), steady(100, 1.0))
    with raw_server(silent) as free:
        port = free.port
    leader = Plan("two machines", asked.scenarios, workers=1, bounds=LENIENT)
    notes: list[str] = []

    async def both() -> Outcome:
        here = run(leader, lambda progress: notes.append(progress.note), listen=f"127.0.0.1:{port}")
        leading = asyncio.create_task(here)
        weak = await asyncio.create_subprocess_exec(sys.executable, "-c", HELLO_AND_DEATH, str(port))
        assert await weak.wait() == 0
        outcome, _ = await asyncio.gather(leading, work(f"127.0.0.1:{port}"))
        return outcome

    outcome = asyncio.run(asyncio.wait_for(both(), 120))
    assert any("weak has gone before it began" in note for note in notes)
    assert balance(outcome).sent == 100
    assert [each.lost for each in outcome.workers] == [False]


def test_a_plan_that_cannot_be_run_says_why() -> None:
    broken = plan("http://127.0.0.1:9/", steady(1, 1), payload=Payload(template="{{ nonsense }}"))
    with pytest.raises(EngineFailed, match="nonsense"):
        play(broken)


def test_locust_s_page_is_alive(server: RawServer) -> None:
    import urllib.request

    pages: list[bytes] = []

    def watch(progress: Progress) -> None:
        if progress.rows and not pages:
            port = next(
                each.laddr.port for each in engine_of(os.getpid()).net_connections("tcp") if each.status == "LISTEN"
            )
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats/requests", timeout=20) as answer:
                pages.append(answer.read())

    notes: list[str] = []
    outcome = play(
        plan(server.url(), steady(100, 3.0)),
        lambda progress: (notes.append(progress.note), watch(progress))[1],
        page="127.0.0.1:0",
    )
    assert outcome.valid, outcome.faults
    assert any("locust's page" in note for note in notes)
    assert re.search(rb"main v[12]", pages[0]), "which of the two answers is a matter of connections"


def test_a_worker_from_elsewhere_ends_with_a_leader_that_cannot_begin(server: RawServer) -> None:
    from loadgen.run import work

    asked = plan(server.url(), steady(1, 1), payload=Payload(template="{{ nonsense }}"))
    with raw_server(silent) as free:
        port = free.port
    leader = Plan("two machines", asked.scenarios, workers=1, bounds=LENIENT)
    told: list[str] = []

    def lead() -> None:
        with pytest.raises(EngineFailed) as failed:
            asyncio.run(run(leader, listen=f"127.0.0.1:{port}"))
        told.append(str(failed.value))

    thread = threading.Thread(target=lead, name="leader")
    thread.start()
    with pytest.raises(EngineFailed):
        asyncio.run(asyncio.wait_for(work(f"127.0.0.1:{port}"), 90))
    thread.join(90)
    assert "nonsense" in told[0]


def test_scenarios_of_one_plan_run_at_the_same_time(server: RawServer) -> None:
    scenarios = (
        Scenario("open", Target(server.url()), steady(100, 1.0, warmup=0.2)),
        Scenario("closed", Target(server.url("/x")), Load("users", users=2, duration=1.0, think_time=0.05)),
    )
    outcome = play(Plan("both", scenarios, bounds=LENIENT))
    by_name = {each.scenario: each for each in outcome.accounts}
    assert by_name["open"].sent == 100
    assert 2 <= by_name["closed"].sent <= 40
    for name, account in by_name.items():
        assert sum(each.ok for each in outcome.series if each.scenario == name) == account.sent


def test_a_disk_that_is_full_loses_nothing(server: RawServer, tmp_path: Path) -> None:
    import subprocess
    import sys

    (tmp_path / "plan").write_bytes(plan(server.url(), steady(50, 1.0)).to_json())
    done = subprocess.run(
        [sys.executable, "-m", "loadgen.engine", str(tmp_path / "plan"), str(tmp_path / "no" / "such" / "folder")],
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *progress, last = done.stdout.splitlines()
    assert any(b"cannot be kept" in each for each in progress)
    assert last.startswith(b'{"outcome":')
    assert sum(each.ok for each in Outcome.from_json(last[len(b'{"outcome":') : -1]).series) == 50


def test_a_worker_without_a_leader_ends_when_it_is_told_to() -> None:
    with raw_server(silent) as free:
        port = free.port
    worker = subprocess.Popen(
        [sys.executable, "-m", "loadgen.engine", "--worker", f"127.0.0.1:{port}", "--attached"], stdin=subprocess.PIPE
    )
    worker.communicate(b"stop\n", timeout=60)
    assert worker.returncode == 0
