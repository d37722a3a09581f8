"""A worker: gets its share of a plan from the leading process, drives it, reports once a second."""

from __future__ import annotations

import os
import time
from time import perf_counter
from typing import Any

import gevent
from gevent.event import AsyncResult, Event

from loadgen.engine import messages
from loadgen.engine.console import Commands
from loadgen.engine.drive import Drive
from loadgen.engine.locusts import environment
from loadgen.parts import Report
from loadgen.plan import Plan
from loadgen.schedule import Share

GOODBYE = 10.0  # seconds in which the leader is to have confirmed the last report
SILENCE = 20.0  # seconds without a heartbeat after which the leader is gone: nobody could stop the load any more


def run(host: str, port: int, name: str, commands: Commands) -> int:
    """Until its part is over. Raises OSError where there is no leader."""
    plan: AsyncResult = AsyncResult()
    go: AsyncResult = AsyncResult()
    bye = Event()
    drives: list[Drive] = []

    gone = False

    def on_stop(abandon: bool) -> None:
        for drive in drives:
            drive.abandon() if abandon else drive.stop()
        if not drives or not go.ready():
            plan.set(None)
            go.set(None)

    made = environment()
    commands.stop = commands.abandon = lambda: os._exit(0)  # locust tries for minutes; there is nothing to end yet
    try:
        runner = made.create_worker_runner(host, port)
    except ConnectionError:
        raise ConnectionError(f"no leading process answers at {host}:{port}") from None

    def listen(kind: str, act: Any) -> None:
        runner.register_message(kind, lambda environment, msg, **_: act(msg.data))

    listen(messages.PLAN, plan.set)
    listen(messages.CLOCK, lambda data: runner.send_message(messages.CLOCK, {**data, "worker": time.time()}))
    listen(messages.GO, lambda data: go.set(data["at"]))
    listen(messages.STOP, lambda data: on_stop(data["abandon"]))

    def on_bye(_: object) -> None:
        bye.set()
        if not go.ready():
            on_stop(True)

    def watch() -> None:
        nonlocal gone
        since = time.time()
        while not bye.wait(1.0):
            if time.time() - max(since, runner.last_heartbeat_timestamp or 0.0) > SILENCE:
                gone = True
                on_stop(True)
                return

    listen(messages.BYE, on_bye)
    commands.stop, commands.abandon = lambda: on_stop(False), lambda: on_stop(True)

    runner.send_message(messages.HELLO, {"name": name})
    gevent.spawn(watch)
    try:
        return _serve(runner, name, plan, go, bye, drives)
    finally:
        if gone:
            raise ConnectionError(f"the leading process at {host}:{port} has not been heard of for {SILENCE:g} s")


def _serve(runner: Any, name: str, plan: AsyncResult, go: AsyncResult, bye: Event, drives: list[Drive]) -> int:
    """From the plan to the last report."""
    told: dict[str, Any] | None = plan.get()
    if told is None:
        return 0
    try:
        drive = Drive(Plan.from_json(told["plan"]), Share(told["index"], told["count"]), name)
    except ValueError as error:
        runner.send_message(messages.FAILED, {"error": str(error)})
        bye.wait(GOODBYE)
        return 1
    drives.append(drive)
    drive.settle()
    runner.send_message(messages.READY, {})
    at = go.get()
    if at is None:
        return 0
    drive.begin(perf_counter() + at - time.time())

    def tell(report: Report) -> None:
        runner.send_message(messages.REPORT, report.to_plain())

    drive.run(tell)
    bye.wait(GOODBYE)
    return 0
