"""A run as CSV: a line for each version of each scenario; times in milliseconds."""

from __future__ import annotations

import csv
import io
import math

from loadgen.report.contents import Report
from loadgen.report.facts import Row, work_out

_STREAM_PERCENTILES = (50, 95, 99)


def render(report: Report) -> str:
    facts = work_out(report)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_columns(report))
    for group in facts.groups:
        for row in (*group.rows, *([group.total] if group.total is not None else [])):
            writer.writerow(_cells(report, row))
    return out.getvalue()


def _columns(report: Report) -> list[str]:
    names = ["scenario", "version", "requests", "ok", "failed", "timed_out", "error_rate", "rate_per_s"]
    names += ["latency_mean_ms", "latency_min_ms", "latency_max_ms"]
    for percent in report.percentiles:
        names += [f"latency_p{percent:g}{end}_ms" for end in ("", "_low", "_high")]
    names += [f"service_p{percent:g}_ms" for percent in report.percentiles]
    names += [f"{name}_p{percent}_ms" for name in ("ttft", "itl", "tpot") for percent in _STREAM_PERCENTILES]
    return [*names, "tokens_per_s", "goodput", "failures"]


def _cells(report: Report, row: Row) -> list[str]:
    latency = row.histograms["latency"]
    cells = [_safe(row.scenario), _safe(row.version), *map(str, (row.ended, row.ok, row.failed, row.timed_out))]
    cells += [_plain(row.errors.value if row.errors else None), _plain(row.rate)]
    cells += [_ms(latency.mean), _ms(latency.least), _ms(latency.greatest)]
    for _, each in row.latency:
        cells += [_ms(each.value), _ms(each.low), _ms(each.high)]
    cells += [""] * 3 * (len(report.percentiles) - len(row.latency))
    cells += [_ms(each) for _, each in row.service]
    cells += [""] * (len(report.percentiles) - len(row.service))
    for name in ("ttft", "itl", "tpot"):
        cells += [_ms(each) for each in row.histograms[name].percentiles(*_STREAM_PERCENTILES)]
    failures = "; ".join(f"{count} {kind}" for kind, count, _ in row.failures)
    return [*cells, _plain(row.tokens_per_second), _plain(row.goodput), _safe(failures)]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.6g}" if math.isfinite(seconds) else ""


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _safe(text: str) -> str:
    """Names come from servers: a spreadsheet takes what begins so for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
