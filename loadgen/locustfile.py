"""For plain locust, and whatever starts it, such as its operator: `HEADGATE_PLAN=plan.json locust -f locustfile.py`.

HEADGATE_PLAN is a plan as `Plan.to_json` writes it, on each machine. HEADGATE_RESULT, by default headgate-result.json,
is where the outcome goes, on the master or the only process. locust's users and spawn rate mean nothing here: the plan
says what is sent, and one idle user keeps locust going. The run ends with the plan. Exit code 4: it is invalid.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from time import perf_counter
from typing import Any

import gevent
from locust import events
from locust.runners import MasterRunner, WorkerRunner

from loadgen.collect import Collector
from loadgen.engine.console import engine
from loadgen.engine.drive import Drive
from loadgen.engine.locusts import Idle, show
from loadgen.parts import Report
from loadgen.plan import Plan
from loadgen.schedule import Share

INVALID = 4

__all__ = ["HeadgateLoad"]


class HeadgateLoad(Idle):
    """What locust counts as a user."""


class _Run:
    """In each process: its share of the plan, driven where there are users, collected where there is no master."""

    def __init__(self, environment: Any) -> None:
        self.environment = environment
        self.plan = Plan.from_json(Path(os.environ["HEADGATE_PLAN"]).read_bytes())
        self.collector = Collector(self.plan, time.time(), engine())
        self.unsent: list[dict[str, Any]] = []
        self.finals = 0
        self.drive: Drive | None = None

    @property
    def runner(self) -> Any:
        return self.environment.runner

    def start(self, **_: object) -> None:
        self.collector.started = time.time()
        if not isinstance(self.runner, MasterRunner):
            gevent.spawn(self._drive)

    def _drive(self) -> None:
        is_worker = isinstance(self.runner, WorkerRunner)
        count = max(1, int(getattr(self.environment.parsed_options, "expect_workers", 1) or 1)) if is_worker else 1
        share = Share(max(self.runner.worker_index, 0) % count, count)
        self.drive = Drive(self.plan, share, self.runner.client_id)
        self.drive.settle()
        self.drive.begin(perf_counter() + 0.1)
        self.drive.run(self._tell)
        if not is_worker:
            gevent.spawn(self.runner.quit)

    def _tell(self, report: Report) -> None:
        show(self.environment, self.plan, report)
        if isinstance(self.runner, WorkerRunner):
            self.unsent.append(report.to_plain())
        else:
            self.collector.add(report)

    def report(self, client_id: str, data: dict[str, Any], **_: object) -> None:
        """A worker's: hang ours on locust's own report."""
        data["headgate"], self.unsent = self.unsent, []

    def reported(self, client_id: str, data: dict[str, Any], **_: object) -> None:
        """The master's."""
        for plain in data.get("headgate", ()):
            report = Report.from_plain(plain)
            self.collector.add(report)
            self.finals += report.final
        if self.finals and self.finals >= len(self.runner.clients):
            gevent.spawn(self.runner.quit)

    def stop(self, **_: object) -> None:
        if self.drive is not None:
            self.drive.stop()

    def quit(self, exit_code: int = 0, **_: object) -> None:
        if isinstance(self.runner, WorkerRunner):
            return
        for client in getattr(self.runner, "clients", {}).values():
            if client.state == "missing":
                self.collector.lose(client.id, "its heartbeats stopped")
        outcome = self.collector.outcome()
        Path(os.environ.get("HEADGATE_RESULT", "headgate-result.json")).write_bytes(outcome.to_json())
        if outcome.faults:
            self.environment.process_exit_code = INVALID


def _on_init(environment: Any, **_: object) -> None:
    run = _Run(environment)
    environment.events.test_start.add_listener(run.start)
    environment.events.test_stopping.add_listener(run.stop)
    environment.events.quit.add_listener(run.quit)
    environment.events.report_to_master.add_listener(run.report)
    environment.events.worker_report.add_listener(run.reported)


_events: Any = events
_events.init.add_listener(_on_init)
