"""One process's part of a run: its executors over their clients, recorded and told once a second.

The rhythm is the schedule's; everything slow (folding, telling) happens between wake-ups and in small steps.
"""

from __future__ import annotations

import errno
import gc
import os
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

import gevent
from gevent.event import Event

from loadgen.engine.alarm import Alarm
from loadgen.engine.executor import Closed, Executor, executor
from loadgen.engine.recorder import Recorder
from loadgen.engine.rehearsal import rehearse
from loadgen.parts import BookPart, Report
from loadgen.payload.render import Requests
from loadgen.plan import Plan, Scenario
from loadgen.schedule import Share
from loadgen.wire.call import CANCELLED, TIMEOUT, Call, Client
from loadgen.wire.clients import open_client

Tell = Callable[[Report], None]

TICK = 0.000_25  # seconds between two wake-ups at the least: what falls due between them is sent at the second
_FULLER = 60  # seconds between two collections of what has outlived one
INTERRUPTED_GRACE = 5.0  # seconds that a run which is ended by hand waits for its answers


class Drive:
    """`settle`, `begin`, then `run` until all has ended; `stop` and `abandon` end it earlier, from other greenlets."""

    def __init__(self, plan: Plan, share: Share, worker: str) -> None:
        """Raises ValueError for a target or payload that cannot be."""
        self.phase = "starting"
        self.interrupted = False
        self._plan = plan
        self._worker = worker
        self._recorder = Recorder([each.target for each in plan.scenarios])
        self._stirred = Event()
        self._lanes = [
            _Lane(index, portion(each, share), share, self._recorder, self._stirred)
            for index, each in enumerate(plan.scenarios)
        ]
        self._abandoned = False
        self._drain_until = 0.0
        self._began_cpu = self._began = self._cpu = 0.0
        self._clocks = 0.0
        self._files = 0

    def settle(self) -> None:
        """All that takes time, before it counts: nothing is collected from here to the end but what a second leaves."""
        raise_file_limit()
        rehearse(self._plan)
        gc.collect()
        gc.freeze()
        gc.disable()

    def begin(self, start: float) -> None:
        """The schedule's zero is this moment of perf_counter()."""
        self._began, self._began_cpu = perf_counter(), time.process_time()
        self._clocks = time.time() - perf_counter()
        self.phase = "warm-up" if any(each.warms_up for each in self._lanes) else "running"
        self._start = start
        for each in self._lanes:
            each.begin(start)

    def run(self, tell: Tell) -> None:
        """Blocks this greenlet till the run is over; `tell` gets a report a second and a final one."""
        second = 1
        while not self._over():
            until = min(self._start + second, *(each.cut_at for each in self._lanes))
            self._stirred.wait(max(0.0, until - perf_counter()))
            self._stirred.clear()
            if perf_counter() >= self._start + second:
                self._tell(tell, final=False)
                gc.collect(1 if second % _FULLER == 0 else 0)
                second = int(perf_counter() - self._start) + 1
        for each in self._lanes:
            each.close()
        self._tell(tell, final=True)
        gc.enable()
        gc.unfreeze()

    def stop(self) -> None:
        """Send no more, wait a little for answers; what is out then counts as in flight."""
        self.interrupted = True
        for each in self._lanes:
            each.interrupt(perf_counter() + INTERRUPTED_GRACE)
        self._stirred.set()

    def abandon(self) -> None:
        """As stop, without waiting."""
        self.stop()
        self._abandoned = True
        self._stirred.set()

    def _over(self) -> bool:
        now = perf_counter()
        for each in self._lanes:
            each.look(now)
        if self.phase == "warm-up" and all(each.executor.book.began <= now for each in self._lanes):
            self.phase = "running"
        if all(each.executor.schedule_over for each in self._lanes) and self.phase != "draining":
            self.phase = "draining"
            self._measure_cpu()
        return self._abandoned or all(each.over for each in self._lanes)

    def _measure_cpu(self) -> None:
        wall = perf_counter() - self._began
        self._cpu = (time.process_time() - self._began_cpu) / wall if wall > 0.1 else 0.0

    def _tell(self, tell: Tell, final: bool) -> None:
        if self.phase != "draining":
            self._measure_cpu()
        series = []
        for part in self._recorder.fold([each.executor.book.began for each in self._lanes]):
            series.append(part)
            gevent.sleep(0)  # let what has become due go out
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._files = max(self._files, open_files(limit))
        tell(
            Report(
                self._worker,
                tuple(each.book() for each in self._lanes),
                tuple(series),
                self.phase,
                final,
                round(self._cpu, 4),
                time.time() - perf_counter() - self._clocks,
                (self._files, limit),
                tuple(each.executor.trouble for each in self._lanes if each.executor.trouble),
            )
        )


class _Lane:
    """A scenario: its executor, client and alarm."""

    def __init__(self, index: int, scenario: Scenario, share: Share, recorder: Recorder, stirred: Event) -> None:
        requests = Requests(scenario.target, seed(scenario))
        fixed = requests.fixed
        self.client: Client = open_client(scenario, self.done)
        self.executor: Executor = executor(
            index,
            scenario.load,
            share,
            self.client,
            requests.next if fixed is None else lambda number, user: fixed,
            scenario.target.users,
        )
        self.cut_at = float("inf")
        self.over = False
        self._scenario = scenario
        self._record = recorder.record
        self._alarm = Alarm(self.wake)
        self._stirred = stirred
        self._interrupted = self._closing = False

    @property
    def warms_up(self) -> bool:
        return self._scenario.load.warmup > 0 or self._scenario.load.warmup_requests > 0

    def begin(self, start: float) -> None:
        self.executor.begin(start)
        self._alarm.set(start)

    def wake(self) -> None:
        now = perf_counter()
        at = self.executor.wake(now)
        if at is not None:
            self._alarm.set(max(at, now + TICK))
        elif self.executor.schedule_over:
            self._stirred.set()

    def done(self, call: Call) -> None:
        """Of the client's: a call has ended."""
        driven = self.executor
        if self._closing and call.failure == CANCELLED:
            if self._interrupted:
                return  # in flight at the end
            call.failure = TIMEOUT
            call.message = f"no answer within the {self._scenario.load.grace:g} s of grace after the last request"
        at = driven.ended(call, call.ended)
        if call.recorded:
            self._record(call)
        if at is not None:
            self._alarm.by(at)
        if not driven.out and driven.done_sending:
            self._stirred.set()

    def interrupt(self, until: float) -> None:
        self._interrupted = True
        self.executor.stop()
        self.cut_at = min(self.cut_at, until)

    def look(self, now: float) -> None:
        """Once sending is over: has all ended, or is the grace time up?"""
        if self.over:
            return
        if self.executor.schedule_over and self.cut_at == float("inf"):
            self.cut_at = now + self._scenario.load.grace
        if self.executor.finished:
            self.over = True
        elif now >= self.cut_at:
            self._cut(now)
        if self.over:
            self.cut_at = float("inf")

    def _cut(self, now: float) -> None:
        if not self._interrupted:
            for call in self.executor.give_up(now):
                self._record(call)
        self.close()
        self.over = True

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._alarm.close()
            self.client.close()

    def book(self) -> BookPart:
        now, book = perf_counter(), self.executor.book
        planned = self.executor.planned(now)
        is_open = not isinstance(self.executor, Closed)
        return BookPart(
            book.asked,
            book.sent,
            book.in_flight,
            book.dropped,
            book.warmup,
            self.client.opened,
            self.client.retried,
            planned,
            max(planned, book.last_sent - book.began) if book.sent else 0.0,
            max(0.0, book.last_due - book.last_intended) if is_open else 0.0,
        )


def portion(scenario: Scenario, share: Share) -> Scenario:
    """What one of several processes has of connections. Users of a closed loop keep their own names."""
    load, target = scenario.load, scenario.target
    if load.executor == "max" and not load.users:  # one for each connection of them all
        load = replace(load, users=load.connections)
    if share.count > 1 and load.connections:
        load = replace(load, connections=max(1, share.of(load.connections)))
    if load.executor == "users" and not target.users:
        target = replace(target, users=load.users)
    return replace(scenario, load=load, target=target)


def seed(scenario: Scenario) -> int:
    return scenario.load.arrivals.seed if scenario.load.arrivals is not None else 0


def raise_file_limit() -> None:
    """As many files as this process is allowed to allow itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 1 << 20
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def open_files(limit: int) -> int:
    """About how many files are open: a new one gets the lowest free number."""
    try:
        file = os.open(os.devnull, os.O_RDONLY)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return limit
        raise
    os.close(file)
    return file
