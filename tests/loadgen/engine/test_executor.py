"""Executors against a clock that is only a number and servers that are only a queue."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.engine.drive import portion
from loadgen.engine.executor import Closed, Open, executor
from loadgen.plan import Arrivals, Load, Scenario, Stage, Target
from loadgen.schedule import Share
from loadgen.wire.call import NOT_SENT, Call, Fields


@dataclass
class Servers:
    """`connections` servers that each take one call at a time; the n-th call that is sent takes `service[n]`."""

    connections: int
    service: Sequence[float]
    now: float = 0.0
    out: int = 0
    sent: list[Call] = field(default_factory=list)
    ends: list[tuple[float, int, Call]] = field(default_factory=list)

    def has_room(self) -> bool:
        return not self.connections or self.out < self.connections

    def send(self, call: Call, body: bytes, headers: Fields = ()) -> None:
        call.sent = self.now
        self.out += 1
        heapq.heappush(self.ends, (self.now + self.service[len(self.sent) % len(self.service)], len(self.sent), call))
        self.sent.append(call)


def run(load: Load, servers: Servers, share: Share = Share(), until: float = math.inf, keys: int = 0) -> Open | Closed:  # noqa: B008
    """Play it through, to the end or to a moment; the clock jumps from event to event."""
    driven = executor(0, load, share, servers, lambda number, user: (b"", ()), keys)
    driven.begin(0.0)
    wake = driven.wake(0.0)
    for _ in itertools.count():
        end = servers.ends[0][0] if servers.ends else math.inf
        servers.now = min(end, math.inf if wake is None else wake)
        if servers.now > until or (driven.finished and not servers.ends) or servers.now == math.inf:
            return driven
        if end <= servers.now:
            _, _, call = heapq.heappop(servers.ends)
            servers.out -= 1
            call.ended = servers.now
            driven.ended(call, servers.now)
        wake = driven.wake(servers.now)
    raise AssertionError


def queueing_model(arrivals: Sequence[float], service: Sequence[float], servers: int) -> list[float]:
    """How long each customer of a first-come-first-served queue with so many servers is in the system."""
    free = [0.0] * servers
    stays = []
    for number, arrival in enumerate(arrivals):
        start = max(arrival, heapq.heappop(free))
        heapq.heappush(free, start + service[number % len(service)])
        stays.append(start + service[number % len(service)] - arrival)
    return stays


def every(rate: float, seconds: float, **extra: object) -> Load:
    return Load(arrivals=Arrivals((Stage(seconds, rate, rate),)), **extra)  # type: ignore[arg-type]


traces = st.lists(st.floats(0, 20), min_size=1, max_size=120).map(sorted).map(tuple)
services = st.lists(st.sampled_from([0.001, 0.01, 0.3, 2.0]), min_size=1, max_size=40)


@given(traces, services, st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_corrected_latency_is_exactly_the_stay_in_the_queueing_model(
    trace: tuple[float, ...], service: list[float], connections: int
) -> None:
    servers = Servers(connections, service)
    driven = run(Load(arrivals=Arrivals(trace=trace)), servers)
    got = [call.ended - call.intended for call in servers.sent]
    assert got == pytest.approx(queueing_model(trace, service, connections))
    assert [call.sent - call.due for call in servers.sent] == pytest.approx(
        [stay - service[i % len(service)] for i, stay in enumerate(queueing_model(trace, service, connections))]
    )
    assert (driven.book.asked, driven.book.sent, driven.book.in_flight) == (len(trace), len(trace), 0)


@given(traces, services, st.integers(1, 3), st.integers(1, 5), st.sampled_from(["queue", "drop"]), st.floats(0, 25))
@settings(max_examples=100, deadline=None)
def test_every_arrival_is_accounted_for_at_every_moment(
    trace: tuple[float, ...], service: list[float], connections: int, limit: int, on_limit: str, until: float
) -> None:
    servers = Servers(connections, service)
    load = Load(arrivals=Arrivals(trace=trace), max_in_flight=limit, on_limit=on_limit)  # type: ignore[arg-type]
    driven = run(load, servers, until=until)
    book = driven.book
    assert book.asked == book.sent + book.dropped + driven.waiting
    assert book.in_flight == servers.out <= min(connections, limit)
    assert on_limit == "drop" or book.dropped == 0
    lost = driven.give_up(30.0)
    assert {call.failure for call in lost} <= {NOT_SENT}
    assert all(call.ended - call.intended == 30.0 - call.intended for call in lost)
    assert book.asked == book.sent + book.dropped


def test_a_stalled_server_never_slows_the_schedule() -> None:
    servers = Servers(0, [100.0])
    driven = run(every(50, 10), servers, until=10.0)
    assert [call.sent for call in servers.sent] == pytest.approx([k / 50 for k in range(500)])
    assert driven.book.in_flight == 500


def test_warm_up_is_sent_over_the_same_client_and_not_recorded() -> None:
    servers = Servers(0, [0.001])
    driven = run(every(10, 5, warmup=2.0, warmup_requests=10), servers)
    assert [call.recorded for call in servers.sent] == [False] * 30 + [True] * 50
    assert (driven.book.warmup, driven.book.sent, driven.book.began) == (30, 50, 3.0)


def test_a_stopped_executor_sends_no_more_and_ends_when_all_has_ended() -> None:
    servers = Servers(0, [1.0])
    driven = run(every(10, 60), servers, until=2.05)
    driven.stop()
    assert driven.wake(3.0) is None
    assert (driven.done_sending, driven.finished) == (True, False)
    for _, _, call in servers.ends:
        driven.ended(call, 4.0)
    assert driven.finished


@given(st.integers(1, 6), st.floats(0, 1), services, st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_users_wait_for_their_answer_and_think(
    users: int, think: float, service: list[float], connections: int
) -> None:
    servers = Servers(connections, service)
    load = Load("users", users=users, think_time=think, requests=60)
    driven = run(load, servers)
    assert (driven.book.sent, driven.book.in_flight) == (60, 0)
    by_user: dict[int, list[Call]] = {}
    for call in servers.sent:
        by_user.setdefault(call.user, []).append(call)
    assert set(by_user) <= set(range(users))
    for calls in by_user.values():
        for before, after in itertools.pairwise(calls):
            assert after.intended == pytest.approx(before.ended + think)


def test_users_end_by_duration_after_their_warm_up() -> None:
    servers = Servers(0, [0.5])
    driven = run(Load("users", users=2, duration=5.0, warmup=1.0, warmup_requests=6), servers)
    warm = [call for call in servers.sent if not call.recorded]
    assert len(warm) == 6
    assert driven.book.began == 1.5
    assert max(call.sent for call in servers.sent) < 6.5
    assert driven.finished


def test_a_closed_loop_lasts_until_its_duration_or_its_last_answer() -> None:
    """And not until its last request: two rounds of slow answers would be told at twice their rate."""
    timed = run(Load("users", users=5, duration=2.0, warmup=1.0), Servers(0, [1.0]))
    assert timed.book.sent == 10
    assert timed.planned(10.0) == 2.0
    counted = run(Load("users", users=5, requests=10, warmup=1.0), Servers(0, [1.0]))
    assert counted.planned(10.0) == pytest.approx(2.0)


@pytest.mark.parametrize(("connections", "processes"), [(3, 2), (8, 3), (2, 4)])
def test_processes_share_the_connections_of_a_load_at_full_speed_once(connections: int, processes: int) -> None:
    whole = Scenario("main", Target("http://x/"), Load("max", connections=connections, duration=1.0))
    users = 0
    for index in range(processes):
        share = Share(index, processes)
        load = portion(whole, share).load
        driven = run(load, Servers(load.connections, [0.25]), share)
        assert isinstance(driven, Closed)
        users += driven.users
    assert users == connections


def test_users_come_and_go_in_stages() -> None:
    """Two users for 2 s, then one more each second up to six, which stay."""
    servers = Servers(0, [0.1])
    stages = (Stage(2, 2, 2), Stage(4, 2, 6))
    run(Load("users", users=6, staged_users=stages, duration=10.0), servers)

    def at_work(at: float) -> int:
        return sum(call.sent <= at < call.ended for call in servers.sent)

    assert [at_work(at + 0.05) for at in (0, 1, 2, 3, 4, 5, 6, 9)] == [2, 2, 2, 3, 4, 5, 6, 6]


def test_users_that_leave_do_not_come_back_unless_a_stage_says_so() -> None:
    servers = Servers(0, [0.125])
    stages = (Stage(1, 4, 4), Stage(1, 1, 1), Stage(1, 4, 4), Stage(1, 1, 1))
    driven = run(Load("users", users=4, staged_users=stages, duration=6.0), servers)
    by_second = [len({call.user for call in servers.sent if at <= call.sent < at + 1}) for at in range(6)]
    assert by_second == [4, 1, 4, 1, 1, 1]
    assert driven.finished


def test_max_keeps_every_connection_busy() -> None:
    servers = Servers(8, [0.01])
    driven = run(Load("max", connections=8, duration=1.0), servers)
    assert driven.book.sent == pytest.approx(8 * 100, abs=8)


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 30), st.integers(1, 50))
@settings(max_examples=40, deadline=None)
def test_workers_share_users_and_requests_without_loss(users: int, count: int, warm: int, requests: int) -> None:
    numbers: list[int] = []
    people: set[int] = set()
    for index in range(count):
        servers = Servers(0, [0.01])
        load = Load("users", users=users, requests=requests, warmup_requests=warm)
        driven = executor(0, load, Share(index, count), servers, lambda number, user: (b"", ()))
        assert isinstance(driven, Closed)
        if not driven.users:
            driven.begin(0.0)
            assert driven.finished
            continue
        run(load, servers, Share(index, count))
        numbers += [call.seq for call in servers.sent]
        people |= {call.user for call in servers.sent}
    assert len(numbers) == len(set(numbers))
    assert people <= set(range(users))
    if requests >= min(users, count):  # otherwise some have nothing to do, and do not warm up for it
        assert len(numbers) == warm + requests


def test_stable_keys_go_round() -> None:
    servers = Servers(0, [0.001])
    run(every(10, 3), servers, keys=4)
    assert [call.user for call in servers.sent] == [k % 4 for k in range(30)]
