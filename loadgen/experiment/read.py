"""From the bytes of a file to an Experiment, or to everything that is wrong with it, each with its line.

Four forms are read: Iter8's experiment (metadata and spec), ours (apiVersion, kind Experiment), the values of Iter8's
chart for performance tests (tasks, and a section for each), and a bare list of tasks as in Iter8 0.8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from loadgen.experiment import chart, condition
from loadgen.experiment.check import contradictions
from loadgen.experiment.spec import API_VERSION, KIND, KINDS, RUN, Experiment, Task
from loadgen.experiment.tasks.settings import RunSettings
from loadgen.experiment.values import seconds
from router.documents import Document, Place, decode, documents
from router.hints import nearest, path_text, unknown_field
from router.problem import Problem
from router.schema import Part
from router.values import shown
from router.words import in_our_words

TASK_FIELDS = ("task", RUN, "if", "with", "continueOnFailure")
_OLD_NAMES = {
    "gen-load-and-collect-metrics": "http",
    "gen-load-and-collect-metrics-http": "http",
    "gen-load-and-collect-metrics-grpc": "grpc",
    "assess-app-versions": "assess",
    "notification": "notify",
}
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Read:
    """`experiment` is None where a problem is an error; warnings may come with one."""

    experiment: Experiment | None
    problems: tuple[Problem, ...] = ()


@dataclass(slots=True)
class _Found:
    """What is collected while a document is read."""

    where: str
    document: Document
    problems: list[Problem] = field(default_factory=list)

    def add(self, place: Place, what: str, hint: str = "", *, warning: bool = False) -> None:
        at = f"{self.where}:{self.document.line(place)}"
        self.problems.append(Problem(at, path_text(place), what, hint, "warning" if warning else "error"))


def read_file(path: Path) -> Read:
    """Raises OSError."""
    return read(path.read_bytes(), str(path), path.parent, path.stem)


def read(data: bytes, where: str, folder: Path, name: str) -> Read:
    """`name` is for an experiment that names itself not."""
    text = decode(data, where)
    if isinstance(text, Problem):
        return Read(None, (text,))
    found = list(documents(text, where))
    if broken := [one for one in found if isinstance(one, Problem)]:
        return Read(None, tuple(broken))
    whole = [(one, *one.build()) for one in found if isinstance(one, Document)]
    whole = [one for one in whole if one[1] is not None or one[2]]
    if len(whole) != 1:
        what = "there is more than one document" if whole else "there is no experiment"
        return Read(None, (Problem(where, "", what, "give one experiment a file"),))
    document, raw, faults = whole[0]
    state = _Found(where, document)
    state.problems += [Problem(f"{where}:{line}", place, what, hint) for line, place, what, hint in faults]
    experiment = _experiment(raw, state, folder, name) if raw is not None else None
    failed = experiment is None or any(one.severity == "error" for one in state.problems)
    return Read(None if failed else experiment, tuple(sorted(state.problems, key=_by_line)))


def _by_line(problem: Problem) -> tuple[int, str, str]:
    last = problem.where.rpartition(":")[2]
    return int(last) if last.isdecimal() else 0, problem.field, problem.what


def _experiment(raw: Any, found: _Found, folder: Path, name: str) -> Experiment | None:
    base: Place = ("spec",)
    if isinstance(raw, list):
        raw, base = {"spec": raw}, ()
    elif not isinstance(raw, dict):
        found.add((), "the document is not an experiment", f"start with apiVersion: {API_VERSION} and kind: {KIND}")
        return None
    if chart.is_values(raw):
        return _from_values(raw, found, folder, name)
    known = ("apiVersion", "kind", "metadata", "spec", "result")
    for key in raw:
        if key not in known:
            found.add((key,), *unknown_field(key, known))
    _kind(raw, found)
    given = _metadata(raw.get("metadata"), found)
    spec = raw.get("spec")
    loops, every, cron = 1, 0.0, ""
    if isinstance(spec, dict):
        base = ("spec", "tasks")
        loops, every, cron = _repetition(spec, found)
        spec = spec.get("tasks")
    if not isinstance(spec, list) or not spec:
        found.add(base if spec is not None else base[:1], "there are no tasks", "write spec: and a list of tasks")
        return None
    tasks = _tasks([((*base, index), task) for index, task in enumerate(spec)], found)
    return Experiment(
        given.get("name", _name_of(name)),
        given.get("namespace", "default"),
        tasks,
        found.where,
        folder,
        tuple(one for one in spec if isinstance(one, dict)),
        loops,
        every,
        cron,
    )


def _from_values(raw: dict[str, Any], found: _Found, folder: Path, name: str) -> Experiment | None:
    asked, problems = chart.tasks(raw)
    for place, what, hint in problems:
        found.add(place, what, hint)
    cron = str(raw.get("cronjobSchedule", "")) if raw.get("runner") == "cronjob" else ""
    if cron and (complaint := cron_complaint(cron)):
        found.add(("cronjobSchedule",), complaint, "write for example */15 * * * *")
    given = _metadata({"namespace": raw.get("namespace")}, found)
    tasks = _tasks([(one.place, one.task) for one in asked], found, bare=True)
    if not tasks:
        return None
    return Experiment(
        _name_of(name),
        given.get("namespace", "default"),
        tasks,
        found.where,
        folder,
        tuple(one.task for one in asked),
        cron=cron,
    )


def _name_of(text: str) -> str:
    made = re.sub(r"[^a-z0-9.-]+", "-", text.lower()).strip("-.")[:63].strip("-.")
    return made or "experiment"


def _kind(raw: dict[str, Any], found: _Found) -> None:
    kind, version = raw.get("kind"), raw.get("apiVersion")
    if kind not in (None, KIND):
        found.add(("kind",), f"kind {shown(kind)} is not an experiment", f"write kind: {KIND}")
    if version not in (None, API_VERSION):
        hint = f"write apiVersion: {API_VERSION}, or leave it out for an experiment of Iter8's command line"
        found.add(("apiVersion",), f"apiVersion {shown(version)} is not known for an {KIND}", hint)


def _metadata(raw: Any, found: _Found) -> dict[str, str]:
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        found.add(("metadata",), f"must be a mapping, not {shown(raw)}", "write name: value")
        return {}
    given = {}
    for key in ("name", "namespace"):
        value = raw.get(key)
        if value is None:
            continue
        if isinstance(value, str) and _NAME.fullmatch(value):
            given[key] = value
        else:
            hint = "use lower-case letters, digits, '-' and '.', with a letter or digit at both ends"
            found.add(("metadata", key), f"{shown(value)} is not a valid name", hint)
    return given


def _repetition(spec: dict[str, Any], found: _Found) -> tuple[int, float, str]:
    known = ("tasks", "loops", "every", "cron")
    for key in spec:
        if key not in known:
            found.add(("spec", key), *unknown_field(key, known))
    loops, every, cron = spec.get("loops", 1), 0.0, spec.get("cron", "")
    if isinstance(loops, bool) or not isinstance(loops, int) or not 1 <= loops <= 1_000_000:
        found.add(("spec", "loops"), f"must be a whole number of at least 1, not {shown(loops)}", "write for example 5")
        loops = 1
    if "every" in spec:
        try:
            every = seconds(spec["every"])
        except Exception as error:
            found.add(("spec", "every"), str(error), "write for example 30s")
    if cron and (complaint := cron_complaint(cron)):
        found.add(("spec", "cron"), complaint, "write for example */15 * * * *")
        cron = ""
    return loops, every, cron


def cron_complaint(text: object) -> str:
    """What is wrong with a schedule; empty when nothing is."""
    from datetime import UTC, datetime

    from cronsim import CronSim, CronSimError

    if not isinstance(text, str):
        return f"{shown(text)} is not a schedule"
    try:
        next(CronSim(text, datetime.now(UTC)))
    except CronSimError as error:
        return f"{shown(text)} is not a schedule: {str(error).lower()}"
    except StopIteration:
        return f"{shown(text)} never comes"
    return ""


def _tasks(raws: list[tuple[Place, Any]], found: _Found, *, bare: bool = False) -> tuple[Task, ...]:
    """`bare`: what is at a place is the parameters themselves, as in a chart's values."""
    made: list[Task] = []
    unread: set[str] = set()
    for place, raw in raws:
        inner = place if bare else (*place, "with")
        if (task := _task(raw, place, inner, found)) is not None:
            made.append(task)
            for loc, what, hint, warning in contradictions(made, frozenset(unread)):
                found.add((*inner, *loc), what, hint, warning=warning)
        elif isinstance(raw, dict):
            unread.add(str(raw.get("task")))
    return tuple(made)


def _task(raw: Any, place: Place, inner: Place, found: _Found) -> Task | None:
    if not isinstance(raw, dict):
        found.add(place, f"a task must be a mapping, not {shown(raw)}", "write task: NAME, or run: SCRIPT")
        return None
    for key in raw:
        if key not in TASK_FIELDS:
            what, hint = unknown_field(key, TASK_FIELDS)
            found.add((*place, key), what, hint if key not in KINDS else f"write task: {key}")
    kind = _kind_of(raw, place, found)
    parsed = _condition(raw.get("if"), (*place, "if"), found)
    go_on = raw.get("continueOnFailure", False)
    if not isinstance(go_on, bool):
        found.add((*place, "continueOnFailure"), f"must be true or false, not {shown(go_on)}", "write true or false")
    if kind is None:
        return None
    model = RunSettings if kind == RUN else KINDS[kind]
    settings = _settings(model, raw.get("with", {}), inner, found)
    if settings is None:
        return None
    at = f"{found.where}:{found.document.line(place)}"
    return Task(kind, settings, at, parsed, go_on is True, str(raw.get(RUN, "")))


def _kind_of(raw: Mapping[str, Any], place: Place, found: _Found) -> str | None:
    if "task" in raw and RUN in raw:
        found.add(place, "task and run are given together", "make two tasks of it")
        return None
    if RUN in raw:
        if not isinstance(raw[RUN], str) or not raw[RUN].strip():
            found.add((*place, RUN), f"must be a script, not {shown(raw[RUN])}", "write the commands, as for bash -c")
            return None
        return RUN
    name = raw.get("task")
    if name is None:
        what = "invalid task found without a task name or a run command"
        found.add(place, what, f"write task: and one of {', '.join(KINDS)}; or run: and a script")
        return None
    if isinstance(name, str) and name in KINDS:
        return name
    new = _OLD_NAMES.get(str(name))
    near = nearest(str(name), list(KINDS)) if isinstance(name, str) else None
    if new:
        hint = f"it is called {new} now, and its parameters are different"
    elif name == "abnmetrics":
        hint = "headgate has no A/B/n store; custommetrics asks Prometheus or any other database"
    else:
        hint = f"did you mean {near!r}?" if near else f"known: {', '.join(KINDS)}"
    found.add((*place, "task"), f"unknown task: {name if isinstance(name, str) else shown(name)}", hint)
    return None


def _condition(raw: Any, place: Place, found: _Found) -> condition.Condition | None:
    if raw is None:
        return None
    if isinstance(raw, bool):
        return condition.parse("true" if raw else "false")
    if not isinstance(raw, str):
        found.add(place, f"must be an expression, not {shown(raw)}", "write for example SLOs()")
        return None
    try:
        return condition.parse(raw)
    except condition.ConditionFault as error:
        found.add(place, f"{shown(raw)}: {error.what}", error.hint)
        return None


def _settings(model: type[Part], raw: Any, place: Place, found: _Found) -> Part | None:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        for loc, what, hint in _complaints(model, error):
            found.add((*place, *loc), what, hint)
        return None


def _complaints(model: type[Part], error: ValidationError) -> Iterator[tuple[Place, str, str]]:
    for detail in in_our_words(model, error, ()).errors(include_url=False):
        yield detail["loc"], detail["ctx"]["what"], detail["ctx"]["hint"]
