"""A run as Markdown, short enough for a pull request's comment."""

from __future__ import annotations

import re
from collections.abc import Sequence

from loadgen.report.contents import Report
from loadgen.report.facts import Facts, Row, codes_and_failures, headline, urgent_first, work_out
from loadgen.report.text import account, fault, interval, value, when, whose
from loadgen.slo.quantities import brief, digits, duration, share
from loadgen.slo.verdict import Ruling

MARKS: dict[Ruling, str] = {"PASS": "✅", "FAIL": "❌", "INCONCLUSIVE": "❔", "NO_DATA": "⚠️"}
RESULTS: dict[str, str] = {
    **{str(ruling): mark for ruling, mark in MARKS.items()},
    "INVALID": "⛔",
    "NO_OBJECTIVES": "➖",
}
MANY = 30


def render(report: Report, *, part: bool = False) -> str:
    """`part`: of an experiment, which is judged as a whole; nothing is said of a run that nothing was asked of."""
    facts = work_out(report)
    result = report.assessment.outcome
    silent = part and result == "NO_OBJECTIVES"
    name = escape(report.title or report.outcome.name)
    said = "" if silent else f"**{escape(headline(report))}** "
    blocks = [
        f"### {name}" if silent else f"### {RESULTS[result]} {name}: {result}",
        f"{said}{duration(report.outcome.duration)}, {facts.ended:,} requests, "
        f"{facts.errors:,} errors, started {when(report.outcome.started)}.",
        "\n".join(f"- ⛔ {escape(fault(each))}" for each in report.assessment.faults),
        _slos(report),
        _versions(report, facts),
        escape(report.comparison.words) if report.comparison is not None else "",
        escape(report.comparison.split.words) if report.comparison is not None and report.comparison.split else "",
        "\n".join(
            f"- {escape(group.name)}: {escape(account(group.account))}" for group in facts.groups if group.account
        ),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Cells are escaped here."""
    rule = ["---" if column < left else "---:" for column in range(len(head))]
    lines = [[escape(cell) for cell in head], rule, *([escape(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def escape(text: str) -> str:
    """Nothing that a server says becomes markup."""
    flat = " ".join(text.split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]#|~@])", r"\\\1", flat)


def _slos(report: Report) -> str:
    verdicts = report.assessment.verdicts
    if not verdicts:
        return ""
    several = len({each.scenario for each in verdicts}) > 1
    rows = [
        (f"{MARKS[each.ruling]} {each.ruling}", whose(each, several), each.slo.text, value(each), interval(each))
        for each in urgent_first(verdicts)[:MANY]
    ]
    made = table(("verdict", "version", "objective", "measured", "interval"), rows, left=3)
    unclear = [each for each in verdicts if each.ruling in ("INCONCLUSIVE", "NO_DATA")][:MANY]
    notes = [f"- {escape(f'{whose(each, several)}: {each.slo.text}: {each.why}')}" for each in unclear]
    more = f"\n\n... and {len(verdicts) - MANY:,} more objectives." if len(verdicts) > MANY else ""
    return made + more + ("\n\n" + "\n".join(notes) if notes else "")


def _versions(report: Report, facts: Facts) -> str:
    rows = [row for group in facts.groups for row in (*group.rows, *([group.total] if group.total else []))]
    if not any(row.ended for row in rows):
        return ""
    several = len(facts.groups) > 1
    head = ["version", "requests", "rate", "errors", *(f"p{percent:g}" for percent in report.percentiles), "max"]
    made = table(head, [_cells(report, row, several) for row in rows[:MANY]])
    more = f"\n\n... and {len(rows) - MANY:,} more versions." if len(rows) > MANY else ""
    return made + more


def _cells(report: Report, row: Row, several: bool) -> list[str]:
    errors = share(row.errors.value) if row.errors else "-"
    if row.failures:
        errors += f" ({codes_and_failures(row)})"
    name = f"{row.scenario}: {row.label}" if several else row.label
    latencies = [f"{duration(each.value)} ({brief(each.low, each.high)})" for _, each in row.latency]
    latencies += ["-"] * (len(report.percentiles) - len(latencies))
    histogram = row.histograms["latency"]
    greatest = duration(histogram.greatest) if histogram.count else "-"
    return [name, f"{row.ended:,}", f"{digits(row.rate)}/s", errors, *latencies, greatest]
