"""The leading process of several: gathers workers, starts them at one moment, adds up what they tell.

It sends no requests itself. Workers are child processes on this machine, or come from other machines.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from time import perf_counter
from typing import Any

import gevent
from gevent.event import Event
from locust.runners import HEARTBEAT_LIVENESS

from loadgen.engine import messages
from loadgen.engine.console import Commands, Console
from loadgen.engine.locusts import environment, open_page, show
from loadgen.parts import Report
from loadgen.plan import Plan

HEAD_START = 0.5  # seconds between the order to begin and the schedule's zero
SILENCE = 5.0  # seconds without a report after which a worker is lost
ARRIVAL = 60.0  # seconds in which the next worker has to come, or to get ready
UNHEARD = 10  # heartbeats, one a second, after which a worker that has not begun is gone
CLOCK_ROUNDS = 5


class Leader:
    """`run` blocks until it is over. Raises OSError and ValueError for what cannot be begun.

    `arrival`: seconds in which the next worker has to come, or to get ready.
    """

    def __init__(
        self,
        plan: Plan,
        console: Console,
        commands: Commands,
        bind: tuple[str, int],
        page: tuple[str, int] | None,
        arrival: float = ARRIVAL,
    ) -> None:
        self._plan = plan
        self._arrival = arrival
        self._console = console
        self._page = page
        self._environment = environment(plan)
        try:
            self._runner = self._environment.create_master_runner(*bind)
        except Exception as error:  # locust wraps zmq's errors in a class of its own
            raise OSError(f"cannot listen for workers on {bind[0]}:{bind[1]}: {error}") from None
        self.port: int = self._runner.server.port
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._names: dict[str, str] = {}  # by locust's identity of the worker
        self._spare: dict[str, str] = {}  # more than were asked for: they take the place of one that goes
        self._shares: dict[str, int] = {}  # which share of the plan it was given
        self._left: list[str] = []  # names of those that came, and went before it began
        self._ready: set[str] = set()
        self._offsets: dict[str, list[tuple[float, float]]] = {}  # round trip, how far its clock is ahead
        self._heard: dict[str, float] = {}
        self._final: set[str] = set()
        self._failure = ""
        self._stirred = Event()
        self._interrupted = False
        commands.stop, commands.abandon = lambda: self._stop(False), lambda: self._stop(True)
        for kind, act in (
            (messages.HELLO, self._on_hello),
            (messages.READY, self._on_ready),
            (messages.FAILED, self._failed),
            (messages.CLOCK, self._clock),
            (messages.REPORT, self._report),
        ):
            self._listen(kind, act)

    def _listen(self, kind: str, act: Callable[[str, Any], None]) -> None:
        self._runner.register_message(kind, lambda environment, msg, **_: act(msg.node_id, msg.data))

    def run(self) -> int:
        try:
            return self._run()
        finally:
            self._tell_all(messages.BYE, {})
            gevent.sleep(0.05)  # for it to go out
            for child in self._children.values():
                if child.poll() is None:
                    child.kill()
                child.wait()

    def _run(self) -> int:
        if self._page is not None:
            self._console.note = f"locust's page is at {open_page(self._environment, *self._page)}"
        for number in range(1, self._plan.processes + 1 if self._plan.processes > 1 or not self._plan.workers else 1):
            self._spawn(f"worker {number}")
        expected = len(self._children) + self._plan.workers
        if not self._gather(expected):
            return self._console.finish(True) if self._interrupted else 1
        self._runner.start(expected, spawn_rate=expected)
        self._environment.events.test_stopping.add_listener(lambda **_: self._stop(False))
        self._go()
        beat = perf_counter() + 1
        while len(self._final) + len(self._gone()) < expected:
            self._stirred.wait(max(0.0, min(beat - perf_counter(), 0.1)))
            self._stirred.clear()
            if perf_counter() >= beat:
                self._console.beat()
                beat += 1
        self._console.beat()
        return self._console.finish(self._interrupted)

    def _spawn(self, name: str) -> None:
        self._children[name] = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "loadgen.engine",
                "--worker",
                f"127.0.0.1:{self.port}",
                "--name",
                name,
                "--attached",
            ],
            stdin=subprocess.PIPE,
        )

    def _gather(self, expected: int) -> bool:
        """All there, each with its share and ready. False if it was stopped meanwhile."""
        beat, most, since = 0.0, 0, perf_counter()
        while len(self._ready) < expected and not self._interrupted:
            if self._failure:
                raise ValueError(self._failure)
            for name, child in self._children.items():
                if child.poll() is not None:
                    raise OSError(f"{name} ended before it began (exit code {child.returncode})")
            self._forget_the_gone()
            if len(self._names) == expected:
                self._share_out(expected)
            now, there = perf_counter(), len(self._names) + len(self._ready)
            if there > most:
                most, since = there, now
            if now - since > self._arrival:
                raise OSError(self._lacking(expected))
            if now > beat:
                beat = now + 1
                self._console.note = self._console.note or f"{len(self._names)} of {expected} workers are there"
                self._console.beat()
            self._stirred.wait(0.05)
            self._stirred.clear()
        return not self._interrupted

    def _share_out(self, expected: int) -> None:
        free = sorted(set(range(expected)) - set(self._shares.values()), reverse=True)
        for identity in self._names.keys() - self._shares.keys():
            index = self._shares[identity] = free.pop()
            share = {"plan": self._plan.to_json().decode(), "index": index, "count": expected}
            self._runner.send_message(messages.PLAN, share, identity)

    def _forget_the_gone(self) -> None:
        """Workers on other machines that died before it began: what they were given is another's."""
        for identity, name in list(self._names.items()):
            node = self._runner.clients.get(identity)
            if name in self._children or node is None or node.heartbeat > HEARTBEAT_LIVENESS - UNHEARD:
                continue
            del self._names[identity]
            self._shares.pop(identity, None)
            self._ready.discard(identity)
            self._left.append(name)
            self._console.note = f"{name} has gone before it began; another worker may take its place"
            if self._spare:
                self._hello(*self._spare.popitem())

    def _lacking(self, expected: int) -> str:
        within = f"within {self._arrival:g} s"
        if len(self._names) == expected:
            late = [name for identity, name in self._names.items() if identity not in self._ready]
            return f"{len(self._ready)} of {expected} workers got ready, the others did not {within}: {', '.join(late)}"
        left = f"; {', '.join(self._left)} came and went again" if self._left else ""
        return f"only {len(self._names)} of {expected} workers are there, and no other came {within}{left}"

    def _go(self) -> None:
        for _ in range(CLOCK_ROUNDS):
            for identity in self._names:
                self._runner.send_message(messages.CLOCK, {"leader": time.time()}, identity)
            gevent.sleep(0.01)
        deadline = perf_counter() + 2
        while len(self._offsets) < len(self._names) and perf_counter() < deadline:
            gevent.sleep(0.005)
        at, start = time.time() + HEAD_START, perf_counter() + HEAD_START
        self._console.begin(start)
        for identity, name in self._names.items():
            ahead = min(self._offsets.get(identity, [(0.0, 0.0)]))[1]
            self._heard[name] = start
            self._runner.send_message(messages.GO, {"at": at + ahead}, identity)

    def _gone(self) -> set[str]:
        """Those that were lost."""
        now = perf_counter()
        lost = set()
        for name, heard in self._heard.items():
            if name in self._final:
                continue
            child = self._children.get(name)
            code = None if child is None else child.poll()
            if code is not None:
                why = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            elif now - heard > SILENCE:
                why = f"no word from it for {SILENCE:g} s"
            else:
                continue
            lost.add(name)
            if not self._console.collector.is_lost(name):
                self._console.note = f"{name} is lost: {why}"
                self._console.lose(name, why)
        return lost

    def _stop(self, abandon: bool) -> None:
        self._interrupted = True
        self._tell_all(messages.STOP, {"abandon": abandon})
        self._stirred.set()

    def _tell_all(self, kind: str, data: dict[str, Any]) -> None:
        for identity in self._names:
            self._runner.send_message(kind, data, identity)

    # ------------------------------------------------------------------ what workers say

    def _on_hello(self, identity: str, data: dict[str, Any]) -> None:
        self._hello(identity, data["name"])
        self._stirred.set()

    def _hello(self, identity: str, name: str) -> None:
        if len(self._names) < len(self._children) + self._plan.workers:
            taken = set(self._names.values())
            self._names[identity] = name if name not in taken else f"{name} ({identity[-6:]})"
        else:
            self._spare[identity] = name

    def _on_ready(self, identity: str, data: dict[str, Any]) -> None:
        if identity in self._names:
            self._ready.add(identity)
        self._stirred.set()

    def _failed(self, identity: str, data: dict[str, Any]) -> None:
        self._failure = data["error"]
        self._stirred.set()

    def _clock(self, identity: str, data: dict[str, float]) -> None:
        now = time.time()
        self._offsets.setdefault(identity, []).append(
            (now - data["leader"], data["worker"] - (now + data["leader"]) / 2)
        )

    def _report(self, identity: str, data: dict[str, Any]) -> None:
        if identity not in self._names:
            return
        report = Report.from_plain({**data, "worker": self._names[identity]})
        self._heard[report.worker] = perf_counter()
        self._console.take(report)
        if self._page is not None:
            show(self._environment, self._plan, report)
        if report.final:
            self._final.add(report.worker)
            self._stirred.set()
