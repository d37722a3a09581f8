"""A run as one HTML file that needs nothing else: charts are SVG, everything is readable without its script.

Whatever comes from servers or users passes jinja's escaping, and the page's own policy forbids it to load anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from loadgen.report import charts, pictures
from loadgen.report.contents import Report
from loadgen.report.facts import Facts, Group, Row, asked, headline, urgent_first, work_out
from loadgen.report.sheet import Sheet, sheet
from loadgen.report.text import account, fault, interval, value, when, whose
from loadgen.slo.measure import CONFIDENCE
from loadgen.slo.quantities import digits, duration, quantity, share
from loadgen.slo.verdict import Verdict

MARKS = {"PASS": "✓", "FAIL": "✗", "INCONCLUSIVE": "?", "NO_DATA": "–", "INVALID": "!", "NO_OBJECTIVES": "–"}
_OPERATORS = {"<=": "≤", "<": "<", ">=": "≥", ">": ">"}
_MANY_ROWS = 400  # of a table: a page of more is no use to anybody
_DRAWN_GROUPS = 8
_FULL_DETAIL = 12  # versions, over all the scenarios of a page, whose charts have all their points


@dataclass(frozen=True, slots=True)
class Objective:
    """A line of the table of SLOs."""

    verdict: Verdict
    mark: str
    whose: str
    value: str
    limit: str
    interval: str
    picture: Markup


@dataclass(frozen=True, slots=True)
class Picture:
    chart: charts.Chart
    svg: Markup


@dataclass(frozen=True, slots=True)
class Section:
    """A scenario, as the page shows it. `hidden` versions are in no chart, and `left` of them in no table."""

    group: Group
    account: str
    sheet: Sheet
    pictures: tuple[Picture, ...]
    legend: tuple[str, ...]
    hidden: int
    left: int
    errors: tuple[tuple[Row, str, int, str, Markup], ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One report, as the page shows it."""

    report: Report
    facts: Facts
    result: str
    mark: str
    headline: str
    objectives: tuple[Objective, ...]
    more_objectives: int
    sections: tuple[Section, ...]
    faults: tuple[str, ...]
    sure: str
    asked: tuple[tuple[str, str], ...]


def render(report: Report) -> str:
    return page(report.title or report.outcome.name, (report,))


def page(title: str, reports: Sequence[Report], experiment: object | None = None) -> str:
    """Several runs in one page, below what an experiment has to say (loadgen/report/experiment.py)."""
    worked = [(report, work_out(report)) for report in reports]
    versions = sum(len(pictures.drawn(group)) for _, facts in worked for group in facts.groups[:_DRAWN_GROUPS])
    detail = min(1.0, _FULL_DETAIL / max(1, versions))
    many = max(10, _MANY_ROWS // max(1, sum(len(facts.groups) for _, facts in worked)))
    runs = [_run(report, facts, f"r{place}", detail, many) for place, (report, facts) in enumerate(worked)]
    style, script = _text("page.css"), _text("page.js")
    made = _template().render(title=title, runs=runs, experiment=experiment, style=style, script=script)
    return f"{made}\n"


def _run(report: Report, facts: Facts, name: str, detail: float, many: int) -> Run:
    verdicts = report.assessment.verdicts
    several = len({each.scenario for each in verdicts}) > 1
    result = report.assessment.outcome
    return Run(
        report,
        facts,
        result,
        MARKS[result],
        headline(report),
        tuple(_objective(each, several) for each in urgent_first(verdicts)[:_MANY_ROWS]),
        max(0, len(verdicts) - _MANY_ROWS),
        tuple(
            _section(report, group, f"{name}-{place}", place, detail, many) for place, group in enumerate(facts.groups)
        ),
        tuple(fault(each) for each in report.assessment.faults),
        share(report.assessment.confidence or CONFIDENCE),
        tuple(asked(report)),
    )


def _objective(verdict: Verdict, several: bool) -> Objective:
    picture = Markup("")
    limit = quantity(verdict.limit, verdict.scale)
    if verdict.value is not None and verdict.limit is not None:
        low, high = verdict.value, verdict.value
        if verdict.interval is not None:
            low, high = verdict.interval.low, verdict.interval.high
        words = f"{value(verdict)}, interval {interval(verdict) or 'none'}, limit {limit}"
        picture = charts.bullet(verdict.value, low, high, verdict.limit, upper=verdict.slo.upper, words=words)
    limit = f"{_OPERATORS[verdict.slo.operator]} {limit}" if verdict.limit is not None else "-"
    mark = MARKS[verdict.ruling]
    return Objective(verdict, mark, whose(verdict, several), value(verdict), limit, interval(verdict), picture)


def _section(report: Report, group: Group, name: str, place: int, detail: float, many: int) -> Section:
    drawn = pictures.drawn(group)
    made = pictures.charts(report, group, detail) if place < _DRAWN_GROUPS else ()
    kept = group.rows[:many]
    return Section(
        group,
        account(group.account) if group.account is not None else "",
        sheet(report, kept, group.total),
        tuple(Picture(chart, charts.draw(chart, f"{name}-{number}")) for number, chart in enumerate(made)),
        tuple(row.label for row in drawn),
        sum(bool(row.ended) for row in group.rows) - len(drawn),
        len(group.rows) - len(kept),
        tuple(_errors(kept)[:many]),
    )


def _errors(rows: Sequence[Row]) -> list[tuple[Row, str, int, str, Markup]]:
    found = []
    for row in rows:
        for kind, count, message in row.failures:
            part = count / row.ended if row.ended else 0.0
            words = f"{share(part)} of {row.label}'s requests"
            found.append((row, kind, count, message[:300], charts.bar(part, words)))
    return found


@cache
def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        {"duration": duration, "share": share, "digits": digits, "when": when, "quantity": quantity}
    )
    return environment.from_string(str(_text("page.html.j2")))


def _text(name: str) -> Markup:
    """A file of ours beside this one; trusted."""
    return Markup(resources.files("loadgen.report").joinpath(name).read_text(encoding="utf-8"))
