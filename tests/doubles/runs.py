"""Outcomes of runs that never took place, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from loadgen.histogram import Histogram
from loadgen.outcome import Fault, Outcome, Second, Sent, Series


def lognormal(median: float, count: int, *, sigma: float = 0.5, seed: int = 1) -> Any:
    """Seconds."""
    return np.random.default_rng(seed).lognormal(np.log(median), sigma, count)


def series(
    version: str,
    latencies: Iterable[float],
    *,
    scenario: str = "default",
    failures: Mapping[str, int] | None = None,
    timed_out: int = 0,
    metrics: Mapping[str, Iterable[float]] | None = None,
    seconds: int = 10,
    **more: Any,
) -> Series:
    """What a version answered: `failures` of the latencies are failed requests, the rest went well."""
    values = np.asarray(latencies if isinstance(latencies, np.ndarray) else list(latencies), dtype=float)
    failures = failures or {}
    failed = sum(failures.values())
    ok = len(values) - failed - timed_out
    recorded = {"latency": values, "service": values * 0.9, **(metrics or {})}
    codes = {"200": ok, **{kind.removeprefix("status "): n for kind, n in failures.items() if "status" in kind}}
    return Series(
        scenario,
        version,
        ok=ok,
        failed=failed,
        timed_out=timed_out,
        codes={code: count for code, count in codes.items() if count},
        failures={**failures, **({"timeout": timed_out} if timed_out else {})},
        metrics={name: _kept(each) for name, each in recorded.items() if len(list(each))},
        timeline=_timeline(values, failed, seconds),
        **more,
    )


def outcome(*answered: Series, faults: tuple[Fault, ...] = (), **more: Any) -> Outcome:
    """A run of ten seconds in which these answered."""
    sent: dict[str, int] = {}
    for each in answered:
        sent[each.scenario] = sent.get(each.scenario, 0) + each.ended
    accounts = tuple(
        Sent(name, asked=n, sent=n, in_flight=0, connections=16, rate_asked=n / 10, rate=n / 10, duration=10.0)
        for name, n in sent.items()
    )
    given = {"accounts": accounts, "started": 1_700_000_000.0, "duration": 10.0, **more}
    return Outcome("a run", series=answered, faults=faults, **given)


def _kept(values: Iterable[float]) -> Any:
    histogram = Histogram()
    histogram.record(values)
    return histogram.rest()


def _timeline(values: Any, failed: int, seconds: int) -> tuple[Second, ...]:
    parts = np.array_split(values, seconds)
    found = []
    for at, part in enumerate(parts):
        wrong = failed * (at + 1) // seconds - failed * at // seconds
        times = np.percentile(part, (50, 90, 99, 100)).tolist() if len(part) else ()
        found.append(Second(at, len(part), wrong, *times))
    return tuple(found)
