"""When each request is meant to start: arrivals in, seconds since the start out, in order and a chunk at a time.

The k-th arrival comes when the area under the rate reaches k (constant spacing), or the sum of k exponential gaps
(poisson). Worker i of N takes the arrivals whose number leaves the remainder i, so that the workers' sum is what one
process would send, evenly spaced.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from loadgen.counts import Floats
from loadgen.plan import Arrivals, Load, Stage

CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Share:
    """Which worker's part: `index` of `count`."""

    index: int = 0
    count: int = 1

    def of(self, total: int) -> int:
        """How many of `total` numbers, counted from 0, are this share's."""
        return max(0, -(-(total - self.index) // self.count))


WHOLE = Share()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Arrivals number first, first + step, ... and their seconds since the start."""

    first: int
    step: int
    times: list[float]
    recorded: bool


class Schedule:
    """All arrivals of a load: its warm-up at the opening rate first, then what was asked for."""

    def __init__(self, load: Load) -> None:
        """Raises ValueError for a load without arrivals."""
        if load.arrivals is None:
            raise ValueError("this load has no arrivals")
        self._arrivals = load.arrivals
        self._requests = load.requests
        whole = load.arrivals.trace[-1] if load.arrivals.trace else sum(each.duration for each in load.arrivals.stages)
        self.duration = min(whole, math.inf if load.duration is None else load.duration)
        self._opening = opening = opening_rate(load.arrivals)
        self.warmup = load.warmup + (load.warmup_requests / opening if opening > 0 else 0.0)

    def chunks(self, share: Share = WHOLE) -> Iterator[Chunk]:
        """In order. Recorded arrivals are numbered on from those of the warm-up."""
        first = 0
        if self.warmup > 0:
            warmup = (Stage(self.warmup, self._opening, self._opening),)
            for number, times in _staged(warmup, "constant", 0, share, 0):
                yield Chunk(number, share.count, times.tolist(), recorded=False)
            first = math.ceil(_area(warmup) - 1e-9)
        source = (
            _traced(self._arrivals.trace, share, first)
            if self._arrivals.trace
            else _staged(self._arrivals.stages, self._arrivals.spacing, self._arrivals.seed, share, first)
        )
        last = math.inf if self._requests is None else first + self._requests
        for number, times in source:
            if self.duration < math.inf:
                times = times[: int(np.searchsorted(times, self.duration, "right" if self._arrivals.trace else "left"))]
            if last < math.inf:
                times = times[: max(0, math.ceil((last - number) / share.count))]
            if not times.size:
                return
            yield Chunk(number, share.count, (times + self.warmup).tolist(), recorded=True)

    def rate_at(self, seconds: float) -> float | None:
        """What is asked for at this moment, per second; None for a trace."""
        if seconds < self.warmup:
            return self._opening
        if self._arrivals.trace:
            return None
        seconds -= self.warmup
        if seconds >= self.duration:
            return 0.0
        for stage in self._arrivals.stages:
            if seconds < stage.duration:
                return stage.start + (stage.end - stage.start) * seconds / stage.duration
            seconds -= stage.duration
        return 0.0

    def expected(self) -> float:
        """How many recorded arrivals there are; for poisson their mean."""
        if self._arrivals.trace:
            total = float(sum(1 for each in self._arrivals.trace if each <= self.duration))
        else:
            total = _area(_until(self._arrivals.stages, self.duration))
        return min(total, math.inf if self._requests is None else float(self._requests))


def opening_rate(arrivals: Arrivals) -> float:
    """The rate to warm up with: the first one above zero, or a trace's mean."""
    if arrivals.trace:
        return len(arrivals.trace) / max(arrivals.trace[-1], 1.0)
    return next((rate for each in arrivals.stages for rate in (each.start, each.end) if rate > 0), 0.0)


def greatest_rate(arrivals: Arrivals) -> float:
    """Per second; of a trace its busiest second's."""
    if arrivals.trace:
        return float(np.bincount(np.floor(np.array(arrivals.trace)).astype(np.int64)).max())
    return max(max(each.start, each.end) for each in arrivals.stages)


def _area(stages: tuple[Stage, ...]) -> float:
    return sum((each.start + each.end) / 2 * each.duration for each in stages)


def _until(stages: tuple[Stage, ...], seconds: float) -> tuple[Stage, ...]:
    kept = []
    for each in stages:
        if seconds <= 0:
            break
        if seconds < each.duration:
            end = each.start + (each.end - each.start) * seconds / each.duration
            each = Stage(seconds, each.start, end)
        kept.append(each)
        seconds -= each.duration
    return tuple(kept)


def _staged(
    stages: tuple[Stage, ...], spacing: str, seed: int, share: Share, first: int
) -> Iterator[tuple[int, Floats]]:
    """(number of the first, seconds) chunk by chunk; numbers begin at `first`."""
    areas = _areas(stages, seed) if spacing == "poisson" else _even(_area(stages))
    number = first
    for area in areas:
        mine = (share.index - number) % share.count
        if (chosen := area[mine :: share.count]).size:
            yield number + mine, _seconds_at(stages, chosen)
        number += area.size


def _even(total: float) -> Iterator[Floats]:
    count = math.ceil(total - 1e-9)
    for start in range(0, count, CHUNK):
        yield np.arange(start, min(start + CHUNK, count), dtype=np.float64)


def _areas(stages: tuple[Stage, ...], seed: int) -> Iterator[Floats]:
    """A Poisson process of rate one over the area: stretched by the inverse it has the rate of the stages."""
    chance = np.random.default_rng(seed)
    total, reached = _area(stages), 0.0
    while reached < total:
        sums = reached + np.cumsum(chance.exponential(size=CHUNK))
        reached = float(sums[-1])
        yield sums[: int(np.searchsorted(sums, total))]


def _seconds_at(stages: tuple[Stage, ...], areas: Floats) -> Floats:
    """When the area under the rate reaches each of `areas`: the stages' integral, inverted exactly."""
    widths = np.array([(each.start + each.end) / 2 * each.duration for each in stages])
    ends = np.cumsum(widths)
    stage = np.minimum(np.searchsorted(ends, areas, side="right"), len(stages) - 1)
    begin = np.cumsum([each.duration for each in stages]) - np.array([each.duration for each in stages])
    start = np.array([each.start for each in stages])[stage]
    slope = np.array([(each.end - each.start) / each.duration for each in stages])[stage]
    inside = np.maximum(areas - (ends - widths)[stage], 0.0)
    below = start + np.sqrt(np.maximum(start * start + 2 * slope * inside, 0.0))
    # start*x + slope*x*x/2 = inside, in the form that neither a slope of 0 nor a start of 0 breaks
    x = np.divide(2 * inside, below, out=np.zeros_like(inside), where=below > 0)
    seconds: Floats = begin[stage] + x
    return seconds


def _traced(trace: tuple[float, ...], share: Share, first: int) -> Iterator[tuple[int, Floats]]:
    mine = (share.index - first) % share.count
    times = np.array(trace[mine :: share.count], dtype=np.float64)
    for start in range(0, times.size, CHUNK):
        yield first + mine + start * share.count, times[start : start + CHUNK]
