"""Runs a plan in an engine of its own process: a plan in, progress on the way, an outcome out.

The engine patches its process and must not share ours. What it has measured outlives it: when it dies, the outcome is
made from its journal and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from loadgen import journal
from loadgen.collect import Collector
from loadgen.outcome import Fault, Outcome, Progress
from loadgen.plan import Plan
from loadgen.scratch import scratch

Watch = Callable[[Progress], None]

_LINE = 1 << 27  # bytes: an outcome comes as a line where the disk is full
_SILENCE = 60.0  # seconds without a word after which an engine, which speaks once a second, is stuck
_ABANDONED = 10.0  # seconds that an engine has to end at once
_LAST_WORDS = 20  # lines of the engine's stderr that are kept
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class EngineFailed(Exception):
    """There is no outcome; the text says why."""


async def run(
    plan: Plan,
    watch: Watch = lambda progress: None,
    *,
    page: str | None = None,
    listen: str | None = None,
    silence: float = _SILENCE,
    arrival: float | None = None,
) -> Outcome:
    """`page`: [HOST:]PORT of locust's web page. `listen`: [HOST:]PORT on which workers of other machines are expected.

    SIGINT and SIGTERM end the run early, the second time at once: the outcome is then `interrupted`. An engine that
    says nothing for `silence` seconds is killed, and the outcome is what it had told by then. Where no other worker
    comes for `arrival` seconds (60 unless given) there is no run. Raises EngineFailed, and OSError where the plan
    cannot be handed over.
    """
    with scratch() as folder:
        asked, result = Path(folder, "plan.json"), Path(folder, "result.json")
        _hand_over(plan, asked)
        arguments = [str(asked), str(result), "--attached"]
        arguments += [] if page is None else ["--ui", page]
        arguments += [] if listen is None else ["--master", listen]
        arguments += [] if arrival is None else ["--arrival", str(arrival)]
        async with _engine(arguments) as engine:
            guard = asyncio.create_task(engine.guard(silence))
            try:
                with _stopping(engine):
                    await engine.follow(watch)
            finally:
                guard.cancel()
        return _outcome(plan, result, engine)


async def work(leader: str) -> None:
    """Be a worker of the process that listens at `leader`, HOST:PORT, for one run. Raises EngineFailed."""
    async with _engine(["--worker", leader, "--attached"]) as engine:
        with _stopping(engine):
            await engine.follow(lambda progress: None)
    if engine.failure or engine.process.returncode:
        raise EngineFailed(engine.failure or engine.end())


class _Engine:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.outcome: Outcome | None = None
        self.failure = ""
        self.words: deque[str] = deque(maxlen=_LAST_WORDS)
        self.heard = False  # since the last look
        self._stops = 0
        self._why = ""  # we have killed it

    def stop(self) -> None:
        """Once for a drain, twice for at once: an engine that cannot, is killed."""
        self._stops += 1
        if self._stops == 2:
            asyncio.get_running_loop().call_later(_ABANDONED, self.kill, f"did not end within {_ABANDONED:g} s")
        if self.process.stdin is not None and not self.process.stdin.is_closing():
            self.process.stdin.write(b"stop\n")

    async def follow(self, watch: Watch) -> None:
        await asyncio.gather(self._progress(watch), self._stderr())
        await self.process.wait()

    def kill(self, why: str) -> None:
        if self.process.returncode is None:
            self._why = f"{why}, and was killed"
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()

    async def guard(self, silence: float) -> None:
        """Ends one that is stuck. Seconds are counted and not measured: this machine may have slept."""
        quiet, limit = 0, max(silence, _SILENCE)  # it may take its time to begin
        while quiet < limit:
            await asyncio.sleep(1.0)
            quiet += 1
            if self.heard:
                self.heard, quiet, limit = False, 0, silence
        self.kill(f"said nothing for {limit:g} s")

    async def _progress(self, watch: Watch) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.heard = True
            if line.startswith((b'{"error"', b'{"outcome"')):
                told = json.loads(line)
                self.failure = told.get("error", "")
                if "outcome" in told:
                    self.outcome = Outcome.from_json(json.dumps(told["outcome"]))
                continue
            try:
                progress = Progress.from_json(line)
            except ValidationError:
                self.words.append(line.decode(errors="replace").rstrip())  # somebody's print()
            else:
                watch(progress)

    async def _stderr(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.words.append(line.decode(errors="replace").rstrip())

    def end(self) -> str:
        """How it ended, for people."""
        code = self.process.returncode or 0
        how = self._why or (f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}")
        return f"the engine {how}" + (f": {self.words[-1]}" if self.words else "")


@asynccontextmanager
async def _engine(arguments: list[str]) -> AsyncIterator[_Engine]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "loadgen.engine",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LINE,
        start_new_session=True,  # ctrl-C in a terminal is ours to pass on
    )
    try:
        yield _Engine(process)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@contextlib.contextmanager
def _stopping(engine: _Engine) -> Iterator[None]:
    """Signals end the run and not us, as long as it lasts."""
    loop = asyncio.get_running_loop()
    try:
        for number in _SIGNALS:
            loop.add_signal_handler(number, engine.stop)
    except (RuntimeError, ValueError):  # not in the main thread: whoever is there decides
        yield
        return
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _hand_over(plan: Plan, path: Path) -> None:
    path.write_bytes(plan.to_json())


def _outcome(plan: Plan, result: Path, engine: _Engine) -> Outcome:
    if engine.outcome is not None:
        return engine.outcome
    if engine.failure:
        raise EngineFailed(engine.failure)
    if result.exists():
        return Outcome.from_json(result.read_bytes())
    return _recovered(plan, result.with_name(result.name + ".partial"), engine)


def _recovered(plan: Plan, kept: Path, engine: _Engine) -> Outcome:
    """What the engine had measured when it died."""
    collector = Collector(plan, 0.0)
    reports = 0
    with contextlib.suppress(OSError):
        started = kept.stat().st_mtime
        for report in journal.read(kept):
            collector.add(report)
            reports += 1
        collector.started = started
    if not reports:
        raise EngineFailed(f"{engine.end()}, before it had measured anything")
    outcome = collector.outcome()
    what = f"{engine.end()}; what it had measured until {outcome.duration:.0f} s is here"
    died = Fault("other", what, "run it again")
    return replace(outcome, started=outcome.started - outcome.duration, faults=(died, *outcome.faults))
