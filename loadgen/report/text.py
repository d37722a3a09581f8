"""A run as text for a terminal or a log: plain, without colours (loadgen/report/console.py adds them)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from loadgen.outcome import Fault, Sent
from loadgen.report.contents import Report
from loadgen.report.facts import Facts, Group, Row, codes_and_failures, headline, label, urgent_first, work_out
from loadgen.slo.measure import CONFIDENCE
from loadgen.slo.quantities import brief, digits, duration, quantity, share, span
from loadgen.slo.verdict import Verdict

MANY = 40  # rows of a table; of more versions the rest is counted


def render(report: Report) -> str:
    facts = work_out(report)
    blocks = [_head(report, facts), *(_group(report, each, len(facts.groups) > 1) for each in facts.groups)]
    blocks += [_errors(facts), _slos(report), _comparison(report), _validity(report, facts)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def table(rows: Iterable[Sequence[str]], left: int = 1, indent: str = "  ") -> list[str]:
    """Columns as wide as they need to be; the first `left` flush left, the others right."""
    kept = [[one_line(cell) for cell in row] for row in rows]
    if not kept:
        return []
    widths = [max(len(row[column]) for row in kept) for column in range(len(kept[0]))]
    lines = (
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in kept
    )
    return [f"{indent}{line}".rstrip() for line in lines]


def account(sent: Sent) -> str:
    """Where every request went, and at what rate."""
    words = []
    if sent.rate_asked is not None:
        words.append(f"asked {digits(sent.rate_asked)}/s, got {digits(sent.rate)}/s")
    else:
        words.append(f"{digits(sent.rate)}/s")
    words.append(f"{sent.sent:,} sent")
    for count, what in ((sent.in_flight, "in flight at the end"), (sent.dropped, "dropped"), (sent.warmup, "warm-up")):
        if count:
            words.append(f"{count:,} {what}")
    words.append(f"{sent.connections:,} connections opened")
    if sent.retried:
        words.append(f"{sent.retried:,} sent again as the server had closed an idle connection")
    return ", ".join(words)


def fault(each: Fault) -> str:
    return each.what + (f" ({each.hint})" if each.hint else "")


def when(started: float) -> str:
    return datetime.fromtimestamp(started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _head(report: Report, facts: Facts) -> str:
    outcome = report.outcome
    lines = [
        f"{report.title or outcome.name}: {duration(outcome.duration)}, {facts.ended:,} requests, "
        f"{_errors_of(facts)}, started {when(outcome.started)}"
    ]
    if outcome.interrupted:
        lines.append("Interrupted: the figures are those until then.")
    lines += [f"INVALID  {fault(each)}" for each in report.assessment.faults]
    return _block(lines)


def _errors_of(facts: Facts) -> str:
    if not facts.errors:
        return "no errors"
    if facts.errors == facts.ended:
        return "100 % errors"
    return f"{facts.errors:,} errors ({share(facts.errors / facts.ended)})"


def _group(report: Report, group: Group, named: bool) -> str:
    head = f"{group.name}: " if named else ""
    lines = [head + account(group.account)] if group.account is not None else [group.name] if named else []
    rows = (*group.rows, *([group.total] if group.total is not None else []))
    shown = rows if len(rows) <= MANY else (*rows[: MANY - 1], rows[-1])
    if any(each.ended for each in rows):
        lines += _latencies(report, shown)
    if len(rows) > len(shown):
        lines.append(f"  ... and {len(rows) - len(shown):,} more versions")
    if any(each.streams for each in rows):
        lines += _streams(shown)
    return _block(lines)


def _latencies(report: Report, rows: Iterable[Row]) -> list[str]:
    head = ["version", "", "requests", "rate", "errors", *(f"p{each:g}" for each in report.percentiles), "max"]
    found: list[list[str]] = [head]
    for row in rows:
        latency = row.histograms["latency"]
        count = [f"{row.ended:,}", f"{digits(row.rate)}/s", share(row.errors.value) if row.errors else "-"]
        latencies = [duration(each.value) for _, each in row.latency]
        blank = [""] * len(report.percentiles)
        greatest = duration(latency.greatest) if latency.count else "-"
        found.append([_short(row.label), "latency", *count, *(latencies or ["-"] * len(blank)), greatest])
        if row.latency:
            ends = [brief(each.low, each.high) for _, each in row.latency]
            found.append(["", "95 %", "", "", "", *ends, ""])
        service = row.histograms["service"]
        if row.service:
            served = [duration(each) for _, each in row.service]
            found.append(["", "service", "", "", "", *served, duration(service.greatest)])
    return table(found, left=2)


def _streams(rows: Iterable[Row]) -> list[str]:
    names = ("ttft", "itl", "tpot")
    head = ["version", *(f"{name} p{percent}" for name in names for percent in (50, 95, 99)), "tokens/s", "goodput"]
    found = [head]
    for row in rows:
        times = [value for name in names for value in row.histograms[name].percentiles(50, 95, 99)]
        tokens = "-" if row.tokens_per_second is None else digits(row.tokens_per_second)
        found.append([_short(row.label), *map(duration, times), tokens, share(row.goodput)])
    return table(found)


def _errors(facts: Facts) -> str:
    rows = [row for group in facts.groups for row in group.rows if row.failures][:MANY]
    if not rows:
        return ""
    several = len(facts.groups) > 1
    lines = []
    for row in rows:
        lines.append(f"  {f'{row.scenario}: ' if several else ''}{_short(row.label)}: {codes_and_failures(row)}")
        lines += [f"      {kind}: {one_line(message)[:160]}" for kind, _, message in row.failures[:3] if message]
    return _block(["Errors", *lines])


def _slos(report: Report) -> str:
    verdicts = report.assessment.verdicts
    if not verdicts:
        return f"Result: {report.assessment.outcome}. {headline(report)}" if report.assessment.exit_code else ""
    several = len({each.scenario for each in verdicts}) > 1
    ordered = urgent_first(verdicts)
    shown = ordered[: MANY * 2]
    rows = [(each.ruling, whose(each, several), each.slo.text, value(each), interval(each)) for each in shown]
    lines = [f"Objectives, with {share(report.assessment.confidence or CONFIDENCE)} intervals", *table(rows, left=5)]
    if len(ordered) > len(shown):
        lines.append(f"  ... and {len(ordered) - len(shown):,} more verdicts")
    told = [each for each in shown if each.ruling in ("INCONCLUSIVE", "NO_DATA") or ";" in each.why]
    lines += [f"  {whose(each, several)}: {each.slo.text}: {each.why}" for each in told[:MANY]]
    lines.append(f"Result: {report.assessment.outcome}. {headline(report)}")
    return _block(lines)


def whose(verdict: Verdict, several: bool) -> str:
    """Whom a verdict is about."""
    return f"{verdict.scenario}: {label(verdict.version)}" if several else label(verdict.version)


def value(verdict: Verdict) -> str:
    return quantity(verdict.value, verdict.scale)


def interval(verdict: Verdict) -> str:
    """Empty where the value is exact."""
    if verdict.interval is None:
        return ""
    return span(verdict.interval.low, verdict.interval.high, verdict.scale)


def _comparison(report: Report) -> str:
    comparison = report.comparison
    if comparison is None:
        return ""
    lines = [f"{comparison.candidate} against {comparison.primary}: {comparison.words}"]
    if comparison.split is not None:
        lines.append(f"  {comparison.split.words}")
    return _block(lines)


def _validity(report: Report, facts: Facts) -> str:
    parts = []
    if facts.lag.count:
        p50, p99 = facts.lag.percentiles(50, 99)
        parts.append(f"own lag p50 {duration(p50)}, p99 {duration(p99)}, at most {duration(facts.lag.greatest)}")
    workers = report.outcome.workers
    if workers:
        busiest = max(each.cpu for each in workers)
        lost = sum(each.lost for each in workers)
        used = f"{_processes(len(workers))}, the busiest used {share(busiest)} of a core"
        parts.append(used + (f", {lost} lost" if lost else ""))
    held = [each.sustainable for each in workers if each.sustainable is not None]
    if report.assessment.faults and held:
        parts.append(f"this machine can hold about {digits(sum(held))}/s")
    word = "invalid" if report.assessment.faults else "valid"
    return f"Generator: {word}" + (f"; {'; '.join(parts)}" if parts else "")


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _short(name: str, width: int = 28) -> str:
    name = one_line(name)
    return name if len(name) <= width else name[: width - 1] + "…"


def _block(lines: Iterable[str]) -> str:
    return "\n".join(map(one_line, lines))


def one_line(text: str) -> str:
    """Without what would move a terminal's cursor, or begin a line that we have not written."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)
