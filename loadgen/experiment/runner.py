"""Runs an experiment: its tasks in order, the result kept after each, the traffic put back whatever happens.

A task that fails fails the run and ends it, unless `continueOnFailure: true`. That is not what Iter8 does, which goes
on, and ends as if all were well.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from loadgen.experiment import summary
from loadgen.experiment.condition import ConditionFault
from loadgen.experiment.context import Context, Done, Engine, TaskFailure
from loadgen.experiment.put_back import put_back
from loadgen.experiment.result import Insights, Result, TaskResult
from loadgen.experiment.routes import Before, Routes
from loadgen.experiment.secrets import masked, redacted, secrets
from loadgen.experiment.spec import Experiment, Task
from loadgen.experiment.store import Store, StoreFault
from loadgen.experiment.tasks.perform import perform
from loadgen.outcome import Outcome, Progress
from loadgen.plan import Plan
from loadgen.slo.verdict import ExitCode
from router.kube.client import Client

INTERRUPTED = 130
_PATIENCE = 60.0
"""Seconds that a load may take to end after an interrupt."""
_LOOK = 30.0
"""Seconds after which the clock is looked at again, as it may have been set."""


@dataclass(slots=True)
class Services:
    """All that is not pure: who runs loads, who changes routes, who tells people."""

    engine: Engine
    connect: Callable[[], Awaitable[Client]]
    routes: Routes | None = None
    say: Callable[[str], None] = lambda line: None
    progress: Callable[[Progress], None] = lambda progress: None
    now: Callable[[], float] = time.time


class NotResumable(Exception):
    """There is nothing to go on with; the message says why."""


class Run:
    """One run. `stop()` ends it at the next opportunity; what was measured is kept."""

    def __init__(self, experiment: Experiment, store: Store, services: Services) -> None:
        self._experiment = experiment
        self._store = store
        self._services = services
        self._stopping = asyncio.Event()
        self._impatient = asyncio.Event()
        self._loading = False
        self._unkept = ""
        self._secrets = secrets(experiment.document)
        spec = redacted(experiment.document)
        self.result = Result(experiment.name, experiment.namespace, 1, services.now(), spec)

    @property
    def stopping(self) -> asyncio.Event:
        """Set once the user wants an end; the engine looks at it."""
        return self._stopping

    def stop(self) -> None:
        """A second time: at once."""
        if self._stopping.is_set():
            self._impatient.set()
        self._stopping.set()

    async def run(self, *, resume: bool = False) -> Result:
        """Raises Busy, StoreFault where nothing can be kept from the start, NotResumable."""
        experiment = self._experiment
        async with self._store.running(experiment.namespace, experiment.name):
            said, _ = await put_back(self._store, self._services, f"{experiment.namespace}/{experiment.name}")
            for line in said:
                self._services.say(line)
            await self._begin(resume)
            try:
                await self._loops()
            finally:
                await self._end()
        if self._unkept:
            raise StoreFault(self._unkept, "the results above are all there is")
        return self.result

    async def _begin(self, resume: bool) -> None:
        experiment, now = self._experiment, self._services.now()
        try:
            last = await self._store.get(experiment.namespace, experiment.name)
            revision = last.revision + 1 if last is not None else 1
        except StoreFault:
            if resume:
                raise
            revision = 1 + max(await self._revisions(), default=0)
        if resume:
            if last is None:
                raise NotResumable(f"{experiment.namespace}/{experiment.name} has not been run")
            if [dict(one) for one in last.spec] != [dict(one) for one in self.result.spec]:
                raise NotResumable("the experiment was changed since: its results would not go together")
            if last.completed() and last.loops >= experiment.loops and not last.failure:
                raise NotResumable("it is complete")
            done = tuple(one for one in last.tasks if one.state in ("completed", "skipped", "tolerated"))
            failure = any(one.state == "tolerated" for one in done)
            self.result = replace(last, tasks=done, failure=failure, interrupted=False, ended=None, updated=now)
            self.result = replace(self.result, troubles=())
        else:
            self.result = replace(self.result, revision=revision, started=now, updated=now)
        self.result = replace(self.result, version=summary.own_version())
        await self._store.put(self.result)

    async def _revisions(self) -> list[int]:
        """Of runs that need not be readable."""
        experiment = self._experiment
        rows = await self._store.rows()
        return [row.revision for row in rows if (row.namespace, row.name) == (experiment.namespace, experiment.name)]

    async def _loops(self) -> None:
        experiment = self._experiment
        endless = bool(experiment.cron) and experiment.loops == 1
        clock = asyncio.get_running_loop().time  # does not jump
        again = False
        while True:
            if experiment.cron and (again or not self.result.tasks) and not await self._until_due():
                return
            if again:
                await self._keep(replace(self.result, loops=self.result.loops + 1, tasks=(), ended=None))
            again, began = True, clock()
            went_on = await self._tasks()
            if self._stopping.is_set() or (not went_on and not experiment.cron):
                return
            if not endless and self.result.loops >= experiment.loops:
                return
            if experiment.cron:
                await self._keep(replace(self.result, ended=self._services.now()))
            elif not await self._sleep(began + experiment.every - clock()):
                return

    async def _until_due(self) -> bool:
        from cronsim import CronSim

        def after(now: float) -> float:
            return next(CronSim(self._experiment.cron, datetime.fromtimestamp(now, UTC).astimezone())).timestamp()

        now, due = self._services.now(), 0.0
        while not due or now < due:
            if not due or after(now) < due:  # at first, and when the clock was set back
                due = after(now)
                self._services.say(f"next loop at {datetime.fromtimestamp(due).astimezone():%Y-%m-%d %H:%M:%S %Z}")
            if not await self._sleep(min(due - now, _LOOK)):
                return False
            now = self._services.now()
        return True

    async def _sleep(self, seconds: float) -> bool:
        """False when it was interrupted."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)
        return not self._stopping.is_set()

    async def _tasks(self) -> bool:
        """False when a task ended the run."""
        await self._routes_again()
        for index in range(len(self.result.tasks), len(self._experiment.tasks)):
            task = self._experiment.tasks[index]
            if self._stopping.is_set():
                await self._keep(replace(self.result, interrupted=True))
                return False
            self._services.say(f"task {index + 1} of {len(self._experiment.tasks)}: {task.kind}")
            done = await self._task(task)
            ended, insights = done
            failed = ended.state in ("failed", "tolerated")
            result = replace(self.result, tasks=(*self.result.tasks, ended), updated=self._services.now())
            result = replace(result, failure=result.failure or failed, insights=insights or result.insights)
            await self._keep(replace(result, interrupted=result.interrupted or ended.state == "interrupted"))
            if ended.message:
                self._services.say(f"  {ended.state}: {ended.message}")
            if ended.state in ("failed", "interrupted"):
                return False
        return True

    async def _routes_again(self) -> None:
        """A run that is resumed: what the tasks `route` before its place did was put back when it ended."""
        for index, done in enumerate(self.result.tasks):
            task = self._experiment.tasks[index]
            if task.kind == "route" and done.state == "completed":
                self._services.say(f"task {index + 1} of {len(self._experiment.tasks)}: route, once more")
                ended, _ = await self._task(task)
                if ended.state != "completed":
                    kept = (*self.result.tasks[:index], ended)
                    await self._keep(replace(self.result, tasks=kept, failure=True))
                    raise NotResumable(ended.message)

    async def _task(self, task: Task) -> tuple[TaskResult, Insights | None]:
        began = self._services.now()

        def ended(state: str, message: str = "", output: str = "", code: int = 0) -> TaskResult:
            now = self._services.now()
            message, output = masked(message, self._secrets), masked(output, self._secrets)
            return TaskResult(task.kind, state, began, now, message, output, code)  # type: ignore[arg-type]

        try:
            if task.condition is not None and not self._holds(task):
                return ended("skipped", f"if: {task.condition.text}"), None
            done = await self._performed(task)
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise
            return ended("interrupted"), None
        except TaskFailure as failure:
            if failure.code == INTERRUPTED or self._stopping.is_set():
                return ended("interrupted", str(failure), failure.output, INTERRUPTED), failure.insights
            state = "tolerated" if task.continue_on_failure else "failed"
            return ended(state, str(failure), failure.output, failure.code), failure.insights
        except Exception as error:  # what was measured before is worth more than a traceback
            place = traceback.extract_tb(error.__traceback__)[-1]
            what = f"this is a fault of headgate's own: {type(error).__name__}: {error}"
            where = f"{Path(place.filename).name}, line {place.lineno}"
            return ended("failed", f"{what} ({where})", code=ExitCode.TOOL_ERROR), None
        return ended("completed", done.message, done.output), done.insights

    def _holds(self, task: Task) -> bool:
        """Raises TaskFailure: an expression without a value aborts the run, as in Iter8."""
        assert task.condition is not None
        functions = {
            "Completed": self.result.completed,
            "NoFailure": self.result.no_failure,
            "SLOs": self.result.slos_hold,
        }
        try:
            return task.condition.holds(summary.document(self._experiment, self.result), functions)
        except ConditionFault as fault:
            raise TaskFailure(f"if: {fault.what}", fault.hint, code=ExitCode.BAD_SPEC) from None

    async def _performed(self, task: Task) -> Done:
        """The task, unless the user wants an end: then a load ends by itself, and everything else is cut off."""
        services = self._services
        context = Context(
            experiment=self._experiment,
            result=self.result,
            engine=self._engine,
            note=self._note,
            connect=services.connect,
            routes=services.routes,
            say=lambda line: services.say(masked(line, self._secrets)),
            progress=services.progress,
            now=services.now,
        )
        work = asyncio.ensure_future(perform(task, context))
        stop = asyncio.ensure_future(self._stopping.wait())
        at_once = asyncio.ensure_future(self._impatient.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and self._loading:
                await asyncio.wait({work, at_once}, timeout=_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
            return await work
        finally:
            for one in (work, stop, at_once):
                one.cancel()
            await asyncio.gather(work, stop, at_once, return_exceptions=True)

    async def _engine(self, plan: Plan, tell: Callable[[Progress], None]) -> Outcome:
        self._loading = True
        try:
            return await self._services.engine(plan, tell)
        finally:
            self._loading = False

    async def _note(self, before: Before) -> None:
        """Raises TaskFailure, too, where another experiment has changed the same traffic: each would undo the other."""
        own = f"{self._experiment.namespace}/{self._experiment.name}"
        try:
            for _, owner, known in await self._store.notes():
                if owner != own and (known.model, known.where) == (before.model, before.where):
                    what = f"traffic of {before.model} is changed by experiment {owner}"
                    raise TaskFailure(what, "wait for its end; if it was killed: headgate experiment restore")
            await self._store.note(own, before)
        except StoreFault as fault:
            raise TaskFailure(f"what has to be put back cannot be noted, so nothing is changed: {fault}") from None

    async def _keep(self, result: Result) -> None:
        """A full disk does not end the measuring; it is told at the end."""
        self.result = result
        try:
            await self._store.put(result)
        except StoreFault as fault:
            if not self._unkept:
                self._services.say(f"results cannot be kept: {fault}")
            self._unkept = f"results could not be kept: {fault}"
        else:
            self._unkept = ""

    async def _end(self) -> None:
        experiment = f"{self._experiment.namespace}/{self._experiment.name}"
        said, troubles = await put_back(self._store, self._services, experiment)
        for line in said:
            self._services.say(line)
        interrupted = self.result.interrupted or self._stopping.is_set()
        now = self._services.now()
        await self._keep(
            replace(self.result, interrupted=interrupted, ended=now, updated=now, troubles=tuple(troubles))
        )


def exit_code(result: Result) -> int:
    """Of a run, in the order of what matters most: interrupted, a task failed, verdicts."""
    from loadgen.experiment.tasks.assess import exit_code as of_verdicts

    if result.interrupted:
        return INTERRUPTED
    for one in result.tasks:
        if one.state == "failed":
            return one.code or ExitCode.TOOL_ERROR
    if result.troubles:
        return ExitCode.TOOL_ERROR
    states: list[str] = [one.state for slo in result.insights.slos for one in slo.verdicts]
    states += [str(rule["state"]) for rule in result.insights.rules]
    if any(load.outcome.faults for load in result.insights.loads):
        states.append("invalid")
    return int(of_verdicts(states))
