"""Counters, gauges and histograms by name, as plugins make them: bounded, and read out as families for Prometheus."""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Literal, TypeVar, get_args

Kind = Literal["counter", "gauge", "histogram"]
Joined = Literal["sum", "mean"]
"""What becomes of a gauge that several processes tell: of a ratio the sum would be nonsense."""
Labels = tuple[tuple[str, str], ...]

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}\Z")
_ENDINGS = ("_total", "_bucket", "_sum", "_count", "_created", "_info")
_MOST_LABELS = 16
_LONGEST_VALUE, _LONGEST_HELP = 200, 1000


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A single request that stands for many. The id has letters, digits and `_.:/+=@-`, at most 64.

    `value` is in the metric's unit, `at` in seconds since 1970.
    """

    request_id: str
    value: float
    at: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a family: `suffix` is "", "_total", "_bucket", "_sum" or "_count"."""

    suffix: str
    labels: Labels
    value: float
    exemplar: Exemplar | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """A metric with its samples. The name has no `_total`. `joined` matters for gauges only."""

    name: str
    kind: Kind
    help: str
    samples: tuple[Sample, ...]
    joined: Joined = "sum"


_MOST_SAMPLES = 20_000


def added(families: Iterable[Family]) -> tuple[Family, ...]:
    """One family of each name, samples of the same labels added up, or their mean where a gauge wants that.

    One of another kind than the first of its name is left out.
    """
    first: dict[str, Family] = {}
    found: dict[str, dict[tuple[str, Labels], list[float]]] = {}
    for family in families:
        if first.setdefault(family.name, family).kind != family.kind:
            continue
        into = found.setdefault(family.name, {})
        for one in family.samples:
            key = (one.suffix, one.labels)
            if key in into or len(into) < _MOST_SAMPLES:
                into.setdefault(key, []).append(one.value)
    return tuple(
        replace(one, samples=tuple(Sample(*key, _joined(one, values)) for key, values in found[name].items()))
        for name, one in first.items()
    )


def _joined(family: Family, values: Sequence[float]) -> float:
    total = sum(values)
    return total / len(values) if family.kind == "gauge" and family.joined == "mean" else total


@dataclass(slots=True)
class _Series:
    value: float = 0.0
    counts: list[int] = field(default_factory=list)


class Instrument:
    """What the three kinds have in common: a series for each set of label values."""

    kind: Kind

    def __init__(self, owner: Instruments, name: str, help: str, labels: tuple[str, ...]) -> None:
        self.name = name
        self.help = help
        self.labels = labels
        self._owner = owner
        self._series: dict[tuple[str, ...], _Series] = {}

    def _at(self, labels: dict[str, str]) -> _Series | None:
        """The series of these labels, or None when there is no room for another."""
        if len(labels) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {list(self.labels)}, not {sorted(labels)}")
        try:
            key = tuple([str(labels[name]) for name in self.labels])
        except KeyError:
            raise ValueError(f"{self.name} has the labels {list(self.labels)}, not {sorted(labels)}") from None
        series = self._series.get(key)
        if series is None:
            if any(len(value) > _LONGEST_VALUE for value in key):
                key = tuple([value[:_LONGEST_VALUE] for value in key])
                series = self._series.get(key)
            if series is None and self._owner._room():
                series = self._series[key] = self._new()
        return series

    def _new(self) -> _Series:
        return _Series()

    def family(self, prefix: str) -> Family:
        """What Prometheus is to be told."""
        suffix = "_total" if self.kind == "counter" else ""
        return Family(
            prefix + self.name,
            self.kind,
            self.help or self.name.replace("_", " "),
            tuple(Sample(suffix, tuple(zip(self.labels, key, strict=True)), one.value) for key, one in self._read()),
        )

    def _read(self) -> list[tuple[tuple[str, ...], _Series]]:
        return list(self._series.items())


class Counter(Instrument):
    """Grows only."""

    kind: Kind = "counter"

    def add(self, amount: float = 1, **labels: str) -> None:
        if not amount >= 0:
            raise ValueError(f"{self.name} is a counter: it cannot be changed by {amount}")
        with self._owner._lock:
            series = self._at(labels)
            if series is not None:
                series.value += amount


class Gauge(Instrument):
    """Goes up and down."""

    kind: Kind = "gauge"

    def __init__(self, owner: Instruments, name: str, help: str, labels: tuple[str, ...], joined: Joined) -> None:
        super().__init__(owner, name, help, labels)
        self.joined = joined

    def family(self, prefix: str) -> Family:
        return replace(super().family(prefix), joined=self.joined)

    def set(self, value: float, **labels: str) -> None:
        with self._owner._lock:
            series = self._at(labels)
            if series is not None:
                series.value = float(value)


class Histogram(Instrument):
    """How often a value was at most so much."""

    kind: Kind = "histogram"

    def __init__(
        self, owner: Instruments, name: str, help: str, labels: tuple[str, ...], buckets: Sequence[float]
    ) -> None:
        super().__init__(owner, name, help, labels)
        self.buckets = tuple(sorted(float(one) for one in buckets))

    def observe(self, value: float, **labels: str) -> None:
        with self._owner._lock:
            series = self._at(labels)
            if series is not None:
                series.value += value
                series.counts[bisect_left(self.buckets, value)] += 1

    def _new(self) -> _Series:
        return _Series(counts=[0] * (len(self.buckets) + 1))

    def family(self, prefix: str) -> Family:
        samples: list[Sample] = []
        for key, series in self._read():
            labels = tuple(zip(self.labels, key, strict=True))
            total = 0
            for limit, count in zip((*self.buckets, float("inf")), series.counts, strict=True):
                total += count
                le = "+Inf" if limit == float("inf") else f"{limit:g}"
                samples.append(Sample("_bucket", (*labels, ("le", le)), total))
            samples += (Sample("_sum", labels, series.value), Sample("_count", labels, total))
        return Family(prefix + self.name, self.kind, self.help or self.name.replace("_", " "), tuple(samples))


def _check(made: Instrument) -> None:
    """ValueError tells what Prometheus would not take, and what it would."""
    if not _NAME.match(made.name) or made.name.endswith(_ENDINGS):
        raise ValueError(
            f"{made.name!r} cannot be the name of a metric: use [a-z][a-z0-9_]*, at most 100, and none of the endings "
            + ", ".join(_ENDINGS)
        )
    if len(made.help) > _LONGEST_HELP:
        raise ValueError(f"the help of {made.name} is longer than {_LONGEST_HELP} characters")
    wrong = [one for one in made.labels if not _NAME.match(one) or (one == "le" and isinstance(made, Histogram))]
    if wrong or len(set(made.labels)) != len(made.labels) or len(made.labels) > _MOST_LABELS:
        raise ValueError(
            f"{made.name} cannot have the labels {list(made.labels)}: use [a-z][a-z0-9_]*, each once, at most "
            f"{_MOST_LABELS}; le is taken in histograms"
        )
    if isinstance(made, Histogram):
        bounds = made.buckets
        if not bounds or not all(map(isfinite, bounds)) or len(set(bounds)) != len(bounds) or len(bounds) > 100:
            raise ValueError(f"{made.name} cannot have the buckets {list(bounds)[:5]}: 1 to 100 finite ones, each once")


_Instrument = TypeVar("_Instrument", bound=Instrument)


class Instruments:
    """The metrics of one plugin. Beyond `limit` series new ones are dropped, and `dropped` counts how often; a label's
    value is cut after 200 characters."""

    def __init__(self, limit: int = 1000) -> None:
        self.limit = limit
        self.dropped = 0
        self._series = 0
        self._by_name: dict[str, Instrument] = {}
        self._lock = threading.Lock()

    def counter(self, name: str, help: str = "", labels: Sequence[str] = ()) -> Counter:
        """The counter of this name, made at the first call. Leave out `_total`."""
        return self._named(Counter(self, name, help, tuple(labels)))

    def gauge(self, name: str, help: str = "", labels: Sequence[str] = (), joined: Joined = "sum") -> Gauge:
        """The gauge of this name, made at the first call. Of a ratio that several processes tell take the "mean"."""
        if joined not in get_args(Joined):
            raise ValueError(f"a gauge is joined by sum or mean, not {joined!r}")
        return self._named(Gauge(self, name, help, tuple(labels), joined))

    def histogram(
        self, name: str, help: str = "", labels: Sequence[str] = (), buckets: Sequence[float] = SECONDS
    ) -> Histogram:
        """The histogram of this name, made at the first call."""
        return self._named(Histogram(self, name, help, tuple(labels), buckets))

    def families(self, prefix: str = "") -> tuple[Family, ...]:
        """All metrics as they are now."""
        with self._lock:
            return tuple(one.family(prefix) for one in self._by_name.values())

    def _named(self, made: _Instrument) -> _Instrument:
        with self._lock:
            there = self._by_name.get(made.name)
            if there is None:
                _check(made)
                if len(self._by_name) >= self.limit:
                    raise ValueError(f"no room for the metric {made.name!r}: there are {self.limit}")
                self._by_name[made.name] = made
                return made
        if type(there) is not type(made) or there.labels != made.labels:
            raise ValueError(f"{made.name!r} is a {there.kind} with the labels {list(there.labels)} already")
        return there

    def _room(self) -> bool:
        if self._series >= self.limit:
            self.dropped += 1
            return False
        self._series += 1
        return True
