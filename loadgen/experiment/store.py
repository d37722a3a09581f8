"""Results in a SQLite file, every run of every experiment; what traffic has to be put back; and who runs what now.

A result is written whole after each task, so that a run which is killed has lost at most the task that it was at.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from pydantic import ValidationError

from loadgen.experiment.result import Result
from loadgen.experiment.routes import Before

VERSION = 1
"""Of the tables; a file of a newer one is left alone."""

KEPT = 50
"""Runs of one experiment that are kept, the newest."""

_COLUMNS = "namespace, name, revision, started, updated, state, document"
_SCHEMA = f"""
create table if not exists results (
    namespace text not null, name text not null, revision integer not null,
    started real not null, updated real not null, state text not null, document blob not null,
    primary key (namespace, name, revision)
);
create table if not exists restorations (
    number integer primary key autoincrement, experiment text not null, noted real not null, document text not null
);
pragma user_version = {VERSION};
"""


class StoreFault(Exception):
    """Results cannot be kept or read; the message says why, `hint` what to do."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


class Busy(StoreFault):
    """The experiment runs already."""


@dataclass(frozen=True, slots=True)
class Row:
    """One run in the list. `state`: running, completed, failed, interrupted."""

    namespace: str
    name: str
    revision: int
    started: float
    updated: float
    state: str


class Store(Protocol):
    """Where results are kept. All raise StoreFault."""

    def running(self, namespace: str, name: str) -> contextlib.AbstractAsyncContextManager[None]:
        """While this lasts nobody else can run the experiment. Raises Busy."""

    async def put(self, result: Result) -> None: ...

    async def get(self, namespace: str, name: str, revision: int | None = None) -> Result | None:
        """The newest, unless a revision is asked for."""

    async def rows(self) -> tuple[Row, ...]:
        """All runs, the newest of each experiment first."""

    async def delete(self, namespace: str, name: str, revision: int | None = None) -> int:
        """How many runs are gone."""

    async def note(self, experiment: str, before: Before) -> int: ...

    async def strike(self, number: int) -> None: ...

    async def notes(self) -> tuple[tuple[int, str, Before], ...]:
        """(number, experiment, how it was), the newest first."""

    async def forget(self) -> int:
        """Strike all notes, readable or not, of experiments that do not run; how many there were."""


def state(result: Result) -> str:
    if result.ended is None:
        return "running"
    if result.interrupted:
        return "interrupted"
    return "failed" if result.failure or not result.completed() else "completed"


def default_path() -> Path:
    """Under the user's state directory."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "headgate" / "experiments.db"


class SqliteStore:
    """Opened at once; raises StoreFault."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot(path, error) from None
        if path.exists():
            self._look()
            return
        with contextlib.suppress(OSError):  # where it cannot be made, SQLite says why
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # scripts may have printed what is nobody's business
        with self._open() as db:
            db.executescript(_SCHEMA)

    def _look(self) -> None:
        with self._open() as db:
            (version,) = db.execute("pragma user_version").fetchone()
            if version > VERSION:
                raise StoreFault(
                    f"{self.path} is of a newer headgate", "use that one, or give another place with --store"
                )
            if version < VERSION:
                db.executescript(_SCHEMA)

    @asynccontextmanager
    async def running(self, namespace: str, name: str) -> AsyncIterator[None]:
        """A lock of the kernel's on a file beside the store: whoever is killed lets it go."""
        with self._held(namespace, name):
            yield

    def is_running(self, namespace: str, name: str) -> bool:
        try:
            with self._held(namespace, name):
                return False
        except Busy:
            return True

    async def put(self, result: Result) -> None:
        await asyncio.to_thread(self._put, result)

    async def get(self, namespace: str, name: str, revision: int | None = None) -> Result | None:
        return await asyncio.to_thread(self._get, namespace, name, revision)

    async def rows(self) -> tuple[Row, ...]:
        with self._open() as db:
            found = db.execute(
                "select namespace, name, revision, started, updated, state from results"
                " order by namespace, name, revision desc"
            ).fetchall()
        return tuple(self._row(Row(*one)) for one in found)

    async def delete(self, namespace: str, name: str, revision: int | None = None) -> int:
        with self._open() as db:
            return db.execute(
                "delete from results where namespace = ? and name = ? and (? is null or revision = ?)",
                (namespace, name, _number(revision), _number(revision)),
            ).rowcount

    async def note(self, experiment: str, before: Before) -> int:
        with self._open() as db:
            made = db.execute(
                "insert into restorations (experiment, noted, document) values (?, ?, ?)",
                (experiment, time.time(), json.dumps(asdict(before))),
            )
            return int(made.lastrowid or 0)

    async def strike(self, number: int) -> None:
        with self._open() as db:
            db.execute("delete from restorations where number = ?", (number,))

    async def forget(self) -> int:
        with self._open() as db:
            owners = {owner for (owner,) in db.execute("select experiment from restorations")}
            idle = [one for one in owners if not self.is_running(*one.split("/", 1))]
            return sum(db.execute("delete from restorations where experiment = ?", (one,)).rowcount for one in idle)

    async def notes(self) -> tuple[tuple[int, str, Before], ...]:
        with self._open() as db:
            found = db.execute("select number, experiment, document from restorations order by number desc").fetchall()
        return tuple((number, experiment, before_of(raw, str(self.path))) for number, experiment, raw in found)

    def _row(self, row: Row) -> Row:
        """A run that was killed still says that it runs."""
        if row.state != "running" or self.is_running(row.namespace, row.name):
            return row
        return Row(row.namespace, row.name, row.revision, row.started, row.updated, "interrupted")

    def _put(self, result: Result) -> None:
        with self._open() as db:
            db.execute(
                f"insert or replace into results ({_COLUMNS}) values (?, ?, ?, ?, ?, ?, ?)",
                (
                    result.namespace,
                    result.name,
                    result.revision,
                    result.started,
                    result.updated,
                    state(result),
                    result.to_json(),
                ),
            )
            db.execute(
                "delete from results where namespace = ? and name = ? and revision <= ?",
                (result.namespace, result.name, result.revision - KEPT),
            )

    def _get(self, namespace: str, name: str, revision: int | None) -> Result | None:
        with self._open() as db:
            found = db.execute(
                "select document from results where namespace = ? and name = ? and (? is null or revision = ?)"
                " order by revision desc limit 1",
                (namespace, name, _number(revision), _number(revision)),
            ).fetchone()
        return read_result(found[0], str(self.path)) if found else None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            db = sqlite3.connect(self.path, timeout=30.0)
            try:
                with db:
                    yield db
            finally:
                db.close()
        except (sqlite3.Error, OSError) as error:
            raise _cannot(self.path, error) from None

    @contextmanager
    def _held(self, namespace: str, name: str) -> Iterator[None]:
        locks = self.path.with_name(self.path.name + ".locks")
        file = locks / f"{quote(namespace, safe='')}--{quote(name, safe='')}"
        try:
            locks.mkdir(exist_ok=True)
            lock = file.open("a+")
        except OSError as error:
            raise _cannot(file, error) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                holder = lock.read().strip()
                who = f" by process {holder}" if holder else ""
                what = f"experiment {namespace}/{name} is being run{who}"
                raise Busy(what, "wait for its end, or give this one another name") from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield


def before_of(raw: str | Mapping[str, Any], where: str) -> Before:
    try:
        found = json.loads(raw) if isinstance(raw, str) else raw
        return Before(found["model"], found["where"], found["versions"], found["after"], found["context"])
    except (ValueError, KeyError, TypeError):
        what = f"{where} notes traffic that has to be put back, in a way that this version cannot read"
        hint = "use the version that wrote it; or headgate experiment restore --forget, and look after the traffic"
        raise StoreFault(what, hint) from None


def read_result(raw: bytes | str, where: str) -> Result:
    try:
        return Result.from_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        what = f"{where} holds a result that this version cannot read: {place}: {first['msg'].lower()}"
        raise StoreFault(what, "delete it, or read it with the version that wrote it") from None


def _number(revision: int | None) -> int | None:
    """As SQLite can hold it: no run has a greater one."""
    return None if revision is None else min(revision, 2**63 - 1)


def _cannot(path: Path, error: Exception) -> StoreFault:
    words = " ".join(str(getattr(error, "strerror", None) or error).split()).lower()
    if "not a database" in words:
        return StoreFault(f"{path} is no SQLite file", "give another one with --store")
    if "malformed" in words:
        return StoreFault(f"{path} is damaged: {words}", "move it away, or give another one with --store")
    return StoreFault(f"{path}: {words}", "give another place with --store")
