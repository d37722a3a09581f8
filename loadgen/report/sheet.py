"""The figures of all versions side by side: facts in, a table of words out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadgen.report.contents import Report
from loadgen.report.facts import STREAM, Row
from loadgen.slo.quantities import brief, digits, duration, share

SIDE_BY_SIDE = 6  # versions that stand in columns; of more each gets a line

_STREAM_WORDS = {"ttft": "Time to first token", "itl": "Time between tokens", "tpot": "Time per output token"}


@dataclass(frozen=True, slots=True)
class Cell:
    """`small` is said beside it; `bad` draws the eye."""

    main: str
    small: str = ""
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Sheet:
    """`head` and the first of each line are names."""

    head: tuple[str, ...]
    lines: tuple[tuple[str, tuple[Cell, ...]], ...]


def sheet(report: Report, rows: Sequence[Row], total: Row | None) -> Sheet:
    everybody = [*rows, *([total] if total is not None else [])]
    streams = [name for name in STREAM if any(row.histograms[name].count for row in everybody)]
    columns = [dict(_cells(report, row, streams)) for row in everybody]
    if not columns:
        return Sheet((), ())
    names = list(columns[0])
    labels = [row.label for row in everybody]
    if len(labels) <= SIDE_BY_SIDE:
        return Sheet(tuple(labels), tuple((name, tuple(column[name] for column in columns)) for name in names))
    lines = ((label, tuple(column.values())) for label, column in zip(labels, columns, strict=True))
    return Sheet(tuple(names), tuple(lines))


def _cells(report: Report, row: Row, streams: Sequence[str]) -> list[tuple[str, Cell]]:
    latency, service = row.histograms["latency"], row.histograms["service"]
    errors = row.errors
    cells = [
        ("Requests", Cell(f"{row.ended:,}", share(row.share))),
        ("Rate", Cell(f"{digits(row.rate)}/s")),
        ("Errors", _errors(row) if errors is not None else Cell("-")),
    ]
    latencies, served = dict(row.latency), dict(row.service)
    for percent in report.percentiles:
        cell = Cell("-")
        if percent in latencies:
            each = latencies[percent]
            small = brief(each.low, each.high)
            if percent in served:
                small += f" · service {duration(served[percent])}"
            cell = Cell(duration(each.value), small)
        cells.append((f"p{percent:g}", cell))
    if latency.count:
        small = f"service {duration(service.greatest)}" if service.count else ""
        cells += [("Greatest", Cell(duration(latency.greatest), small)), ("Mean", Cell(duration(latency.mean)))]
    else:
        cells += [("Greatest", Cell("-")), ("Mean", Cell("-"))]
    for name in streams:
        histogram = row.histograms[name]
        p50, p95, p99 = histogram.percentiles(50, 95, 99)
        small = f"p95 {duration(p95)} · p99 {duration(p99)}" if histogram.count else ""
        cells.append((_STREAM_WORDS[name], Cell(duration(p50), small)))
    if streams:
        cells.append(("Tokens", Cell("-" if row.tokens_per_second is None else f"{digits(row.tokens_per_second)}/s")))
        cells.append(("Goodput", Cell(share(row.goodput))))
    return cells


def _errors(row: Row) -> Cell:
    count = row.failed + row.timed_out
    assert row.errors is not None
    if not count:
        return Cell("none", f"at most {share(row.errors.high)}")
    return Cell(share(row.errors.value), f"{count:,}: {share(row.errors.low)} to {share(row.errors.high)}", bad=True)
