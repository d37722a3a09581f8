"""A run as JSON: figures to read, verdicts, and the whole outcome with its histograms, so that it can be judged again.

loadgen/report/schema.json describes it; within a `version` fields are only ever added.
"""

from __future__ import annotations

import json
import math
from importlib import resources
from typing import Any

from loadgen.outcome import Outcome
from loadgen.report.contents import Report
from loadgen.report.facts import STREAM, Group, Row, headline, work_out
from loadgen.slo.compare import Comparison
from loadgen.slo.measure import Estimate
from loadgen.slo.verdict import Interval, Verdict

VERSION = "headgate.dev/load-report/v1"


def render(report: Report) -> str:
    return json.dumps(document(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def document(report: Report) -> dict[str, Any]:
    """Values that travel as JSON; times in seconds, what is not known or not bounded is null."""
    facts = work_out(report)
    assessment, outcome = report.assessment, report.outcome
    return {
        "version": VERSION,
        "name": outcome.name,
        "title": report.title or outcome.name,
        "command": report.command,
        "started": outcome.started,
        "duration": outcome.duration,
        "interrupted": outcome.interrupted,
        "result": assessment.outcome,
        "exitCode": int(assessment.exit_code),
        "summary": headline(report),
        "valid": not assessment.faults,
        "faults": [{"kind": each.kind, "what": each.what, "hint": each.hint} for each in assessment.faults],
        "requests": facts.ended,
        "errors": facts.errors,
        "scenarios": [_scenario(each) for each in facts.groups],
        "slos": [_verdict(each) for each in assessment.verdicts],
        "comparison": _comparison(report.comparison),
        "lag": {f"p{percent}": _number(facts.lag.percentile(percent)) for percent in (50, 99)},
        "outcome": json.loads(outcome.to_json()),
    }


def outcome_of(text: str) -> Outcome:
    """The outcome inside a document, to be judged anew. Raises ValueError for what is no such document."""
    found = json.loads(text)
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise ValueError(f"this is no report of a load: its version is not {VERSION!r}")
    return Outcome.from_json(json.dumps(found["outcome"]))


def schema() -> dict[str, Any]:
    """The JSON schema of documents."""
    text = resources.files("loadgen.report").joinpath("schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _scenario(group: Group) -> dict[str, Any]:
    sent = group.account
    rows = (*group.rows, *([group.total] if group.total is not None else []))
    return {
        "name": group.name,
        "asked": sent and sent.asked,
        "sent": sent and sent.sent,
        "inFlight": sent and sent.in_flight,
        "dropped": sent and sent.dropped,
        "warmup": sent and sent.warmup,
        "connections": sent and sent.connections,
        "retried": sent and sent.retried,
        "rateAsked": sent and sent.rate_asked,
        "rate": sent and sent.rate,
        "duration": sent and sent.duration,
        "versions": [_row(each) for each in rows],
    }


def _row(row: Row) -> dict[str, Any]:
    latency, service = row.histograms["latency"], row.histograms["service"]
    found: dict[str, Any] = {
        "version": row.version,
        "requests": row.ended,
        "ok": row.ok,
        "failed": row.failed,
        "timedOut": row.timed_out,
        "rate": row.rate,
        "share": row.share,
        "errorRate": _estimate(row.errors),
        "codes": dict(row.codes),
        "failures": {kind: count for kind, count, _ in row.failures},
        "latency": {
            "mean": _number(latency.mean),
            "stddev": _number(latency.stddev),
            "min": _number(latency.least),
            "max": _number(latency.greatest),
            "percentiles": {f"{percent:g}": _estimate(each) for percent, each in row.latency},
        },
        "service": {
            "mean": _number(service.mean),
            "max": _number(service.greatest),
            "percentiles": {f"{percent:g}": _number(each) for percent, each in row.service},
        },
        "goodput": row.goodput,
        "tokensPerSecond": row.tokens_per_second,
    }
    for name in ("connect", "queue", "lag", *STREAM):
        histogram = row.histograms[name]
        if histogram.count:
            values = histogram.percentiles(50, 90, 95, 99)
            found[name] = {f"p{percent}": value for percent, value in zip((50, 90, 95, 99), values, strict=True)}
    return found


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {"value": _number(estimate.value), "low": _number(estimate.low), "high": _number(estimate.high)}


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "slo": verdict.slo.text,
        "scenario": verdict.scenario,
        "version": verdict.version,
        "ruling": verdict.ruling,
        "value": _number(verdict.value),
        "limit": _number(verdict.limit),
        "margin": _number(verdict.margin),
        "scale": verdict.scale,
        "interval": _interval(verdict.interval),
        "samples": verdict.samples,
        "needed": verdict.needed,
        "why": verdict.why,
    }


def _interval(interval: Interval | None) -> dict[str, Any] | None:
    if interval is None:
        return None
    return {"low": _number(interval.low), "high": _number(interval.high), "confidence": interval.confidence}


def _comparison(comparison: Comparison | None) -> dict[str, Any] | None:
    if comparison is None:
        return None
    split = comparison.split
    return {
        "scenario": comparison.scenario,
        "primary": comparison.primary,
        "candidate": comparison.candidate,
        "meaning": comparison.meaning,
        "words": comparison.words,
        "differences": [
            {
                "figure": each.figure.name,
                "primary": _number(each.primary),
                "candidate": _number(each.candidate),
                "change": _number(each.change),
                "interval": _interval(each.interval),
                "p": each.adjusted,
                "meaning": each.meaning,
                "words": each.words,
            }
            for each in comparison.differences
        ],
        "split": split
        and {
            "fair": split.fair,
            "words": split.words,
            "versions": [
                {
                    "version": each.version,
                    "count": each.count,
                    "share": each.share,
                    "intended": each.intended,
                    "p": each.p,
                }
                for each in split.parts
            ],
        },
    }


def _number(value: float | None) -> float | None:
    """JSON has neither NaN nor infinity."""
    return value if value is not None and math.isfinite(value) else None
