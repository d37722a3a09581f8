"""Readings of Envoy in, totals that never go back out: over restarts of Envoy, and over stats that it let go.

Envoy begins at zero after a restart, and after it evicted a stat that nobody counted for ten minutes. What a stat had
reached before is kept and added. What no longer exists in Envoy is told for `grace` seconds more, then forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.metrics.stats import UPTIME, Key, Outcome, Reading, Stat, stat

GRACE = 300.0
MOST_SERIES = 50_000
_TIMES = {"answered": "first_byte"}
"""Envoy's names of times, where they are not ours."""
_UPTIME_JITTER = 3.0
"""Envoy tells its uptime in whole seconds, brought up to date once a second."""


@dataclass(slots=True)
class _Line:
    """One of Envoy's names over time: `now` counts from the last break, `before` is all that came before it."""

    stat: Stat
    now: int | tuple[int, ...]
    bounds: tuple[float, ...] = ()
    before: int | tuple[int, ...] | None = None
    there: bool = True
    elsewhere: int = 0
    """How many a histogram had counted in other buckets, before those that it has now."""

    def step(self, value: int | tuple[int, ...], bounds: tuple[float, ...]) -> None:
        if bounds != self.bounds:  # an Envoy with other buckets: nothing can be added to the old ones
            self.elsewhere, self.before, self.bounds = self.count, None, bounds
        elif not self.there or _less(value, self.now):
            self.before = self.total
        self.now, self.there = value, True

    @property
    def total(self) -> int | tuple[int, ...]:
        if self.before is None:
            return self.now
        if isinstance(self.now, tuple) and isinstance(self.before, tuple):
            return tuple(a + b for a, b in zip(self.now, self.before, strict=True))
        assert isinstance(self.now, int)
        assert isinstance(self.before, int)
        return self.now + self.before

    @property
    def count(self) -> int:
        """Never goes back, whatever buckets there are."""
        total = self.total
        if isinstance(total, tuple):
            return self.elsewhere + (total[-1] if total else 0)
        return total


def _less(value: int | tuple[int, ...], than: int | tuple[int, ...]) -> bool:
    if isinstance(value, tuple) and isinstance(than, tuple):
        return any(a < b for a, b in zip(value, than, strict=True))
    return isinstance(value, int) and isinstance(than, int) and value < than


@dataclass(slots=True)
class Times:
    """A histogram: cumulative counts by upper bound in seconds. Requests beyond the last bound are in the count."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def count(self) -> int:
        return self.counts[-1] if self.counts else 0

    def plus(self, other: Times) -> Times:
        """Histograms of different buckets cannot be added: the one with more requests stays."""
        if other.bounds != self.bounds:
            return max(self, other, key=lambda one: one.count)
        return Times(self.bounds, tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)))

    def minus(self, earlier: Times | None) -> Times:
        if earlier is None or earlier.bounds != self.bounds:
            return self
        return Times(self.bounds, tuple(max(a - b, 0) for a, b in zip(self.counts, earlier.counts, strict=True)))

    def quantile(self, share: float) -> float | None:
        """Interpolated within its bucket, as Prometheus does; None without requests."""
        if not self.count:
            return None
        rank, low, below = share * self.count, 0.0, 0
        for bound, count in zip(self.bounds, self.counts, strict=True):
            if count >= rank and count > below:
                return low + (bound - low) * (rank - below) / (count - below)
            low, below = bound, count
        return self.bounds[-1]


@dataclass(frozen=True, slots=True)
class Figures:
    """All about one key, since the sidecar began."""

    requests: dict[Outcome, int]
    sums: dict[str, int]
    """`request_bytes`, `response_bytes`, `duration_us` and `first_byte_us`, exact. Copies have none of them."""
    times: dict[str, Times]
    """`duration` and `first_byte`."""

    @property
    def count(self) -> int:
        return sum(self.requests.values())

    @property
    def errors(self) -> int:
        return sum(count for outcome, count in self.requests.items() if outcome.failed)


class Totals:
    """Keeps the lines. `take` one reading after the other; `figures` tells all that is alive.

    A key's lines stay together: were one of them forgotten alone, a sum over several would go backwards.
    """

    def __init__(self, grace: float = GRACE, most: int = MOST_SERIES) -> None:
        self._grace, self._most = grace, most
        self._lines: dict[str, _Line] = {}
        self._seen: dict[Key, float] = {}
        self._taken: float | None = None
        self._began: float | None = None
        self.refused: set[str] = set()
        """Stats that there was no room for."""

    def __len__(self) -> int:
        return len(self._lines)

    def take(self, reading: Reading, at: float, refused: bool = False) -> None:
        """`at` is monotonic seconds. `refused`: since the last reading nobody was there to take a connection."""
        if self._restarted(reading, at, refused):
            for line in self._lines.values():
                line.there = False
        for name, line in self._lines.items():
            if name not in reading.counters and name not in reading.histograms:
                line.there = False
        for name, value in reading.counters.items():
            self._step(name, value, (), at)
        for name, counts in reading.histograms.items():
            self._step(name, counts, reading.bounds[name], at)
        self._forget(at)

    def _restarted(self, reading: Reading, at: float, refused: bool) -> bool:
        """A new Envoy may have counted further than the old one had, so that no figure shows it."""
        uptime, last, began = reading.counters.get(UPTIME), self._taken, self._began
        self._taken = at
        if uptime is None:
            return False
        self._began = at - uptime
        if last is None or began is None:
            return False
        return self._began > began + _UPTIME_JITTER or (refused and uptime <= at - last + 1.0)

    def _step(self, name: str, value: int | tuple[int, ...], bounds: tuple[float, ...], at: float) -> None:
        line = self._lines.get(name)
        if line is None:
            found = stat(name)
            if found is None:
                return
            if len(self._lines) >= self._most:
                if len(self.refused) < self._most:
                    self.refused.add(name)
                return
            line = self._lines[name] = _Line(found, value, bounds)
        else:
            line.step(value, bounds)
        self._seen[line.stat.key] = at

    def _forget(self, at: float) -> None:
        gone = {key for key, seen in self._seen.items() if at - seen > self._grace}
        if gone:
            self._lines = {name: line for name, line in self._lines.items() if line.stat.key not in gone}
            self._seen = {key: seen for key, seen in self._seen.items() if key not in gone}
            self.refused.clear()

    def figures(self) -> dict[Key, Figures]:
        """Return the totals by key. Several lines of one key, such as its header routes', are added up."""
        found: dict[Key, Figures] = {key: Figures({}, {}, {}) for key in self._seen}
        flagged: dict[tuple[Key, Outcome], int] = {}
        for line in self._lines.values():
            kind, key, outcome = line.stat
            figures, total = found[key], line.total
            if outcome is not None and kind == "flagged":
                flagged[key, outcome] = flagged.get((key, outcome), 0) + line.count
            elif outcome is not None:
                figures.requests[outcome] = figures.requests.get(outcome, 0) + line.count
            if isinstance(total, tuple):
                times, kind = Times(line.bounds, total), _TIMES.get(kind, kind)
                known = figures.times.get(kind)
                figures.times[kind] = times if known is None else known.plus(times)
            elif outcome is None:
                figures.sums[kind] = figures.sums.get(kind, 0) + total
        for (key, outcome), count in flagged.items():  # of which those with a time are there already
            requests = found[key].requests
            requests[outcome] = max(count, requests.get(outcome, 0))
        return found
