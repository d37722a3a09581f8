"""A web server with known answers, and a way to run an experiment from its text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from loadgen.experiment.read import read
from loadgen.experiment.result import Result
from loadgen.experiment.runner import Run, Services
from loadgen.experiment.spec import Experiment
from loadgen.experiment.store import SqliteStore
from loadgen.outcome import Outcome, Progress, Sent, Series
from loadgen.plan import Plan


@dataclass
class Asked:
    """One request that the server has seen."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class Web:
    """/ok, /status/N, /json (answers with `answer`), /flaky (503 `failures` times, then `answer`)."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answer: Callable[[Asked], Any] = lambda asked: {}
    failures: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    async def respond(self, request: web.Request) -> web.Response:
        body = await request.read()
        asked = Asked(request.method, request.path, dict(request.query), _low(request.headers), body)
        self.asked.append(asked)
        if request.path == "/flaky" and self.failures:
            self.failures -= 1
            return web.Response(status=503, text="later")
        if request.path in ("/json", "/flaky", "/metrics"):
            said = self.answer(asked)
            return web.Response(text=said if isinstance(said, str) else json.dumps(said))
        status = int(request.path.rpartition("/")[2]) if request.path.startswith("/status/") else 200
        return web.Response(status=status, text="answer", headers=self.headers)


def _low(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@asynccontextmanager
async def served() -> AsyncIterator[Web]:
    server = Web()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.respond)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


@dataclass
class Bench:
    """Where experiments of one test are run. `lines` is what was said."""

    folder: Path
    lines: list[str] = field(default_factory=list)
    reactions: list[tuple[str, Callable[[], object]]] = field(default_factory=list)

    def when(self, part: str, act: Callable[[], object]) -> None:
        """Do this once a line with `part` is said."""
        self.reactions.append((part, act))

    def say(self, line: str) -> None:
        self.lines.append(line)
        for part, act in self.reactions:
            if part in line:
                act()

    @property
    def store(self) -> SqliteStore:
        return SqliteStore(self.folder / "store.db")

    def experiment(self, text: str, name: str = "e") -> Experiment:
        found = read(text.encode(), "e.yaml", self.folder, name)
        assert found.experiment is not None, "\n".join(map(str, found.problems))
        return found.experiment

    def services(self, **more: Any) -> Services:
        async def no_cluster() -> Any:
            from router.kube.client import NoCluster

            raise NoCluster("there is no cluster")

        given = {"engine": answering(), "connect": no_cluster, "say": self.say, **more}
        return Services(**given)

    def prepared(self, text: str, **more: Any) -> Run:
        return Run(self.experiment(text), self.store, self.services(**more))

    async def run(self, text: str, *, resume: bool = False, **more: Any) -> Result:
        return await self.prepared(text, **more).run(resume=resume)


def answering(*series: Series, faults: tuple[Any, ...] = ()) -> Callable[[Plan, Callable[[Progress], None]], Any]:
    """An engine whose outcome is known; for what is not about loads."""

    async def engine(plan: Plan, tell: Callable[[Progress], None]) -> Outcome:
        found = series or tuple(Series(one.name, "unknown", ok=10, codes={"200": 10}) for one in plan.scenarios)
        accounts = tuple(Sent(one.name, 10, 10, 0, duration=1.0) for one in plan.scenarios)
        return Outcome(plan.name, 0.0, 1.0, accounts, found, faults=faults)

    return engine


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def go(work: Any) -> Any:
    return asyncio.run(work)
