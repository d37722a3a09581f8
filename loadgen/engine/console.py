"""What the engine's process says and hears: progress on stdout, commands on stdin and by signal, results in files."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

import gevent

from loadgen.collect import Collector
from loadgen.journal import Journal
from loadgen.outcome import Outcome
from loadgen.parts import Report
from loadgen.plan import Plan
from loadgen.schedule import Schedule

_READ = 1
_PENDING = 1 << 20  # bytes of lines that a slow reader may lag behind before it misses some


class Lines:
    """To a pipe, without ever waiting for its reader: what it does not take in time is left out, a line at a time."""

    def __init__(self, file: int = 1) -> None:
        self._file = file
        self._pending = bytearray()
        os.set_blocking(file, False)

    def write(self, line: bytes) -> None:
        if len(self._pending) < _PENDING:
            self._pending += line + b"\n"
        self._push()

    def flush(self, seconds: float = 2.0) -> None:
        deadline = perf_counter() + seconds
        while self._pending and perf_counter() < deadline:
            self._push()
            gevent.sleep(0.005)

    def _push(self) -> None:
        try:
            while self._pending:
                del self._pending[: os.write(self._file, self._pending[:4096])]
        except BlockingIOError:
            pass
        except OSError:
            self._pending.clear()  # nobody reads


def fail(lines: Lines, message: str) -> int:
    """Tell the parent why there is no result. Gives the exit code."""
    lines.write(json.dumps({"error": message}).encode())
    lines.flush()
    return 1


class Commands:
    """`stop` once for the end, and `abandon` for the second time: by signal, on stdin ("stop"), or as stdin ends."""

    def __init__(self, attached: bool) -> None:
        """`attached`: stdin is a parent's; when it ends, the parent has died."""
        self.stop: Callable[[], None] = _nothing
        self.abandon: Callable[[], None] = _nothing
        self._times = 0
        self._watcher: Any = None
        for number in (signal.SIGTERM, signal.SIGINT):
            gevent.signal_handler(number, self.again)
        if attached:
            os.set_blocking(0, False)
            self._watcher = gevent.get_hub().loop.io(0, _READ)
            self._watcher.start(self._readable)

    def again(self) -> None:
        self._times += 1
        gevent.spawn(self.stop if self._times == 1 else self.abandon)

    def _readable(self) -> None:
        try:
            data = os.read(0, 4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            for _ in range(data.count(b"stop\n")):
                self.again()
        else:
            self._watcher.stop()
            self._times = max(self._times, 1)
            self.again()


class Console:
    """Of the process that leads a run."""

    def __init__(self, plan: Plan, result: Path, lines: Lines) -> None:
        self.collector = Collector(plan, time.time(), engine())
        self.note = ""
        self._plan = plan
        self._result = result
        self._lines = lines
        self._journal = Journal(result.with_name(result.name + ".partial"))
        self._schedules = [Schedule(each.load) for each in plan.scenarios if each.load.arrivals is not None]
        self._closed = any(each.load.arrivals is None for each in plan.scenarios)
        self._start = self._running_since = perf_counter()
        self._phase = "starting"
        self._phases: dict[str, str] = {}

    def begin(self, start: float) -> None:
        """The schedule's zero, of perf_counter()."""
        self._start = self._running_since = start
        self.collector.started = time.time() + start - perf_counter()

    def take(self, report: Report) -> None:
        self.collector.add(report)
        self._journal.append(report)
        if self._journal.long:
            self._journal.replace(self.collector.reports())
        self._phases[report.worker] = report.phase
        phase = min(self._phases.values(), key=_PHASES.index)
        if phase == "running" and self._phase in ("starting", "warm-up"):
            self._running_since = self._start + max((each.warmup for each in self._schedules), default=0.0)
        self._phase = phase

    def lose(self, worker: str, why: str) -> None:
        self.collector.lose(worker, why)
        self._phases.pop(worker, None)

    def beat(self) -> None:
        """A line of progress."""
        since = perf_counter()
        asked = [rate for each in self._schedules if (rate := each.rate_at(since - self._start)) is not None]
        at = since - (self._running_since if self._phase in ("running", "draining") else self._start)
        note, self.note = self.note or self._journal.trouble, ""
        self._lines.write(
            self.collector.progress(
                self._phase, max(at, 0.0), self._total(), sum(asked) if asked and not self._closed else None, note
            ).to_json()
        )

    def _total(self) -> float | None:
        durations = [each.duration for each in self._schedules]
        durations += [
            each.load.duration for each in self._plan.scenarios if each.load.duration and not each.load.arrivals
        ]
        return max(durations, default=None)

    def finish(self, interrupted: bool) -> int:
        """Write the result. Where that fails it goes to the parent as a line."""
        outcome = self.collector.outcome(interrupted)
        try:
            _write(self._result, outcome)
        except OSError:
            self._lines.write(b'{"outcome":' + outcome.to_json() + b"}")
        else:
            with contextlib.suppress(OSError):
                self._journal.path.unlink()
        self._lines.flush(30.0)
        return 0


_PHASES = ("starting", "warm-up", "running", "draining")


def _write(path: Path, outcome: Outcome) -> None:
    new = path.with_name(path.name + ".new")
    new.write_bytes(outcome.to_json())
    new.replace(path)


def engine() -> str:
    """Which versions made an outcome."""
    return ", ".join(
        [
            *(f"{name} {metadata.version(name)}" for name in ("headgate", "locust", "gevent")),
            f"Python {platform.python_version()}",
        ]
    )


def _nothing() -> None:
    """Before there is anything to stop."""
