"""What a task gets to work with, what it leaves behind, and what stops it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from loadgen.experiment.result import Insights, Result
from loadgen.experiment.routes import Before, Routes
from loadgen.experiment.spec import Experiment
from loadgen.outcome import Outcome, Progress
from loadgen.plan import Plan
from loadgen.slo.verdict import ExitCode

if TYPE_CHECKING:
    import aiohttp

    from router.kube.client import Client


class Engine(Protocol):
    """Runs a plan: loadgen/run.py, in a process of its own."""

    def __call__(self, plan: Plan, tell: Callable[[Progress], None]) -> Awaitable[Outcome]: ...


class TaskFailure(Exception):
    """A task did not do what it should. `code`: what the run exits with; `insights`: what was measured all the same."""

    def __init__(
        self,
        what: str,
        hint: str = "",
        *,
        code: int = ExitCode.TOOL_ERROR,
        output: str = "",
        insights: Insights | None = None,
    ) -> None:
        super().__init__(f"{what} ({hint})" if hint else what)
        self.what = what
        self.hint = hint
        self.code = int(code)
        self.output = output
        self.insights = insights


@dataclass(frozen=True, slots=True)
class Done:
    """`message` is a line for people, `output` what a script wrote; `soft`: it failed, which was not to matter."""

    message: str = ""
    insights: Insights | None = None
    output: str = ""
    soft: bool = False


@dataclass(slots=True)
class Context:
    """`result` is as it was before the task. `say` tells people a line while the task runs."""

    experiment: Experiment
    result: Result
    engine: Engine
    note: Callable[[Before], Awaitable[None]]
    """Write down how traffic was, before it is changed. Raises TaskFailure."""
    connect: Callable[[], Awaitable[Client]]
    """A client of the cluster. Raises NoCluster."""
    routes: Routes | None = None
    say: Callable[[str], None] = lambda line: None
    progress: Callable[[Progress], None] = lambda progress: None
    now: Callable[[], float] = field(default=lambda: 0.0)

    @property
    def insights(self) -> Insights:
        return self.result.insights

    @asynccontextmanager
    async def session(self, seconds: float) -> AsyncIterator[aiohttp.ClientSession]:
        import aiohttp

        limits = aiohttp.ClientTimeout(total=seconds)
        async with aiohttp.ClientSession(timeout=limits, trust_env=True) as session:
            yield session
