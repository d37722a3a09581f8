"""A worker: gets its share of a plan from the leading process, drives it, reports once a second."""

from __future__ import annotations

import time
from time import perf_counter
from typing import Any

from gevent.event import AsyncResult, Event

from loadgen.engine import messages
from loadgen.engine.console import Commands
from loadgen.engine.drive import Drive
from loadgen.engine.locusts import environment
from loadgen.parts import Report
from loadgen.plan import Plan
from loadgen.schedule import Share

GOODBYE = 10.0  # seconds in which the leader is to have confirmed the last report


def run(host: str, port: int, name: str, commands: Commands) -> int:
    """Until its part is over. Raises OSError where there is no leader."""
    plan: AsyncResult = AsyncResult()
    go: AsyncResult = AsyncResult()
    bye = Event()
    drives: list[Drive] = []

    def on_stop(abandon: bool) -> None:
        for drive in drives:
            drive.abandon() if abandon else drive.stop()
        if not drives or not go.ready():
            plan.set(None)
            go.set(None)

    made = environment()
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
    listen(messages.BYE, lambda _: bye.set())
    commands.stop, commands.abandon = lambda: on_stop(False), lambda: on_stop(True)

    runner.send_message(messages.HELLO, {"name": name})
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
