"""An experiment's report in Iter8's sections (summary, SLOs, metrics), from plain data that the experiment fills in."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any
from xml.etree import ElementTree

from loadgen.report import document, html, junit, markdown, text
from loadgen.report.contents import Report
from loadgen.report.junit import clean, finish, say
from loadgen.report.sheet import Cell, Sheet

VERSION = "headgate.dev/experiment-report/v1"


@dataclass(frozen=True, slots=True)
class Condition:
    """An SLO of the `assess` task: `metric` up to `upper`, or from `lower` on; `satisfied` by version, in order.

    `states` say more than yes and no, where they are given: pass, fail, inconclusive, invalid, no data.
    """

    metric: str
    satisfied: tuple[bool, ...]
    upper: float | None = None
    lower: float | None = None
    units: str = ""
    states: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """For all versions, of which there is one at least."""
        return bool(self.satisfied) and all(self.satisfied)

    @property
    def told(self) -> tuple[str, ...]:
        """By version: what was found out, one of the states."""
        return self.states or tuple("pass" if each else "fail" for each in self.satisfied)

    @property
    def words(self) -> str:
        name = f"{self.metric} ({self.units})" if self.units else self.metric
        left = f"{self.lower:g} <= " if self.lower is not None else ""
        return f"{left}{name}" + (f" <= {self.upper:g}" if self.upper is not None else "")


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's value for each version, in order; None is "unavailable".

    `best`, of rewards: the index of the best version, or -1 where the data do not say.
    """

    name: str
    values: tuple[float | None, ...]
    units: str = ""
    description: str = ""
    best: int | None = None

    @property
    def words(self) -> str:
        return f"{self.name} ({self.units})" if self.units else self.name


@dataclass(frozen=True, slots=True)
class ExperimentReport:
    """`tasks`: how many there are. `versions`: as they are shown, "candidate (v2)". `runs`: one for each load task."""

    name: str
    namespace: str = ""
    completed: bool = False
    failed: bool = False
    tasks: int = 0
    completed_tasks: int = 0
    loops: int = 0
    versions: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    metrics: tuple[Metric, ...] = ()
    runs: tuple[Report, ...] = ()
    notes: tuple[str, ...] = ()  # why a task failed, and the like

    @property
    def satisfied(self) -> bool:
        return all(each.holds for each in self.conditions)

    @property
    def result(self) -> str:
        """PASS, FAIL, INVALID, or NO_DATA where it has not completed."""
        told = {each for condition in self.conditions for each in condition.told or ("fail",)}
        if "invalid" in told or any(run.assessment.faults for run in self.runs):
            return "INVALID"
        if self.failed or "fail" in told or any(run.assessment.outcome == "FAIL" for run in self.runs):
            return "FAIL"
        if not self.completed or "no data" in told or any(run.assessment.outcome == "NO_DATA" for run in self.runs):
            return "NO_DATA"
        unclear = "inconclusive" in told or any(run.assessment.outcome == "INCONCLUSIVE" for run in self.runs)
        return "INCONCLUSIVE" if unclear else "PASS"

    @property
    def words(self) -> str:
        """What came of it, in a sentence or two."""
        ran = f"{self.completed_tasks} of {self.tasks} tasks ran"
        done = "All tasks ran" if self.completed else ran
        trouble = ", and a task failed" if self.failed else ""
        broken = sum(not each.holds for each in self.conditions)
        invalid = " A load was invalid: its figures say nothing." if self.result == "INVALID" else ""
        unsatisfied = f" {broken} of {len(self.conditions)} SLOs are not satisfied." if broken else ""
        return f"{done}{trouble}.{unsatisfied}{invalid}"


def render(experiment: ExperimentReport, form: str) -> str:
    """`form`: one of FORMS. Raises ValueError for another."""
    if form not in _RENDERERS:
        raise ValueError(f"there is no report {form!r} of an experiment: there are {', '.join(FORMS)}")
    return _RENDERERS[form](experiment)


def _text(experiment: ExperimentReport) -> str:
    lines = ["Experiment summary:", ""]
    width = max(len(name) for name, _ in _summary(experiment))
    lines += [f"  {name.ljust(width)}  {text.one_line(words)}" for name, words in _summary(experiment)]
    lines += [f"  note: {text.one_line(each)}" for each in experiment.notes]
    for title, head, rows in _tables(experiment):
        lines += ["", f"{title}:", "", _ruled(head, rows)]
    if not experiment.metrics and not experiment.runs:
        lines += ["", "No metrics were collected."]
    for run in experiment.runs:
        lines += ["", text.render(run).rstrip()]
    return "\n".join(lines) + "\n"


def _summary(experiment: ExperimentReport) -> list[tuple[str, str]]:
    where = f" in {experiment.namespace}" if experiment.namespace else ""
    rows = [
        ("Experiment", f"{experiment.name}{where}"),
        ("Completed", _yes(experiment.completed)),
        ("No task failures", _yes(not experiment.failed)),
        ("Total tasks", str(experiment.tasks)),
        ("Completed tasks", str(experiment.completed_tasks)),
    ]
    return [*rows, ("Completed loops", str(experiment.loops))] if experiment.loops else rows


def _tables(experiment: ExperimentReport) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows of Iter8's two tables, those that there are."""
    several = len(experiment.versions) > 1
    found = []
    if experiment.conditions:
        head = ["SLO Conditions", *(experiment.versions if several else ("Satisfied",))]
        found.append(("SLOs", head, [[each.words, *map(_cell, each.told)] for each in experiment.conditions]))
    if experiment.metrics:
        best = any(each.best is not None for each in experiment.metrics)
        head = ["Metric", *(experiment.versions if several else ("value",)), *(["Best"] if best else [])]
        rows = [
            [each.words, *map(_figure, each.values), *([_best(experiment, each)] if best else [])]
            for each in sorted(experiment.metrics, key=lambda metric: metric.name)
        ]
        found.append(("Metrics", head, rows))
    return [(title, head, [_full(row, len(head)) for row in rows]) for title, head, rows in found]


def _full(row: list[str], columns: int) -> list[str]:
    """An experiment that has measured no version yet has no values either."""
    return [*row, *["unavailable"] * (columns - len(row))][:columns]


def _ruled(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[text.one_line(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [cells[0], ["-" * len(name) for name in cells[0]], *cells[1:]]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  " + " | ".join(line).rstrip() for line in padded)


def _html(experiment: ExperimentReport) -> str:
    return html.page(experiment.name, experiment.runs, _view(experiment))


@dataclass(frozen=True, slots=True)
class _View:
    """What the page's head shows of an experiment."""

    result: str
    mark: str
    words: str
    summary: list[tuple[str, str]]
    notes: tuple[str, ...]
    sheets: list[tuple[str, Sheet]]


def _view(experiment: ExperimentReport) -> _View:
    sheets = []
    for title, head, rows in _tables(experiment):
        marked = title == "SLOs"
        lines = [(row[0], tuple(Cell(cell, bad=marked and cell == "no") for cell in row[1:])) for row in rows]
        sheets.append((title, Sheet(tuple(head[1:]), tuple(lines))))
    result = experiment.result
    summary = _summary(experiment)[1:]
    return _View(result, html.MARKS[result], experiment.words, summary, experiment.notes, sheets)


def _json(experiment: ExperimentReport) -> str:
    found = {
        "version": VERSION,
        "name": experiment.name,
        "namespace": experiment.namespace,
        "result": experiment.result,
        "summary": experiment.words,
        "completed": experiment.completed,
        "failure": experiment.failed,
        "tasks": experiment.tasks,
        "completedTasks": experiment.completed_tasks,
        "loops": experiment.loops,
        "versions": list(experiment.versions),
        "slos": [
            {
                "metric": each.metric,
                "units": each.units,
                "upper": each.upper,
                "lower": each.lower,
                "satisfied": list(each.satisfied),
                "states": list(each.told),
            }
            for each in experiment.conditions
        ],
        "metrics": [
            {
                "name": each.name,
                "units": each.units,
                "description": each.description,
                "values": list(each.values),
                "best": each.best,
            }
            for each in experiment.metrics
        ],
        "runs": [document.document(run) for run in experiment.runs],
        "notes": list(experiment.notes),
    }
    return json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def schema() -> dict[str, Any]:
    """The JSON schema of documents. Their runs refer to that of reports of loads, by its address."""
    text = resources.files("loadgen.report").joinpath("experiment_schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _markdown(experiment: ExperimentReport) -> str:
    blocks = [
        f"### {markdown.RESULTS[experiment.result]} {markdown.escape(experiment.name)}: {experiment.result}",
        f"**{markdown.escape(experiment.words)}**",
        "\n".join(f"- {markdown.escape(each)}" for each in experiment.notes),
        *(markdown.table(head, rows) for _, head, rows in _tables(experiment)),
        *(markdown.render(run, part=True).rstrip() for run in experiment.runs),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _junit(experiment: ExperimentReport) -> str:
    """A suite for the tasks, one for each version with a case for each SLO, and those of the runs' own SLOs."""
    name = clean(experiment.name)
    suites = ElementTree.Element("testsuites", name=name)
    tasks = ElementTree.SubElement(suites, "testsuite", name=f"{name}: tasks")
    case = ElementTree.SubElement(tasks, "testcase", name="all tasks ran and none failed", classname=name)
    if experiment.failed:
        say(case, "failure", "a task failed", "\n".join((experiment.words, *experiment.notes)))
    elif not experiment.completed:
        say(case, "error", "not completed", experiment.words)
    for index, version in enumerate(experiment.versions):
        suite = ElementTree.SubElement(suites, "testsuite", name=clean(version))
        for each in experiment.conditions:
            case = ElementTree.SubElement(suite, "testcase", name=clean(each.words), classname=clean(version))
            state, value = each.told[index], f"{each.metric} is {_value_of(experiment, each.metric, index)}"
            if state == "fail":
                say(case, "failure", "not satisfied", value)
            elif state == "inconclusive":
                say(case, "skipped", "inconclusive: too few samples", value)
            elif state != "pass":
                say(case, "error", state, value)
    for run in experiment.runs:
        suites.extend(junit.suites(run))
    return finish(suites)


def _value_of(experiment: ExperimentReport, metric: str, index: int) -> str:
    return next((_figure(each.values[index]) for each in experiment.metrics if each.name == metric), "unavailable")


def _cell(state: str) -> str:
    return {"pass": "yes", "fail": "no"}.get(state, state)


def _best(experiment: ExperimentReport, metric: Metric) -> str:
    if metric.best is None:
        return "n/a"
    return experiment.versions[metric.best] if metric.best >= 0 else "insufficient data"


def _figure(value: float | None) -> str:
    """As Iter8 writes them, but for what would be lost, or fill the page."""
    if value is None:
        return "unavailable"
    return f"{value:.2f}" if value == 0 or 0.1 <= abs(value) < 1e12 else f"{value:.3g}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


_RENDERERS: dict[str, Callable[[ExperimentReport], str]] = {
    "text": _text,
    "html": _html,
    "json": _json,
    "markdown": _markdown,
    "junit": _junit,
}
FORMS = tuple(_RENDERERS)
