"""Axes of charts: which ticks, and where a value lies. Numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` to `high`; `place` tells where, from 0 to 1. Ticks have their words."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        if self.logarithmic:
            value = max(value, self.low)
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)


def linear(high: float, words: Callable[[float], str], low: float = 0.0, about: int = 5) -> Axis:
    """A round number of round ticks from `low` to a bit above `high`."""
    if not math.isfinite(high) or high <= low:
        high = low + 1.0
    step = round_step((high - low) / about)
    top = low + math.ceil((high - low) / step - 1e-9) * step
    marks = [low + i * step for i in range(round((top - low) / step) + 1)]
    return Axis(low, top, tuple((mark, words(mark) if mark else "0") for mark in marks))


def logarithmic(low: float, high: float, words: Callable[[float], str]) -> Axis:
    """Ticks at 1, 2 and 5 of every power of ten, at fewer where there are many powers, and always two."""
    low = max(low, 1e-7)
    high = max(high, low * 1.1)
    decades = math.log10(high / low)
    factors = (1, 2, 5) if decades < 2.3 else (1, 3) if decades < 4 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [factor * 10.0**power for power in powers for factor in factors]
    ticks = [mark for mark in marks if low * 0.999 <= mark <= high * 1.001]
    if len(ticks) < 2:
        ticks = [low, high]
    return Axis(low, high, tuple((mark, words(mark)) for mark in ticks), logarithmic=True)


def percentiles(most: float) -> Axis:
    """HdrHistogram's axis: 1/(1 - share) on a logarithmic scale, from the least to `most` percent."""
    marks = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)
    ticks = tuple((rarity(mark), f"{mark:g} %") for mark in marks if mark <= most + 1e-9)
    return Axis(1.0, max(rarity(most), 2.0), ticks, logarithmic=True)


def rarity(percent: float) -> float:
    """One in how many lies beyond this percentile."""
    return 1 / (1 - min(percent, 99.999999) / 100)


def for_durations(values: Iterable[float], words: Callable[[float], str]) -> Axis:
    """Linear, unless the values lie so far apart that most of them would be drawn on the floor."""
    kept = sorted(value for value in values if math.isfinite(value) and value > 0)
    if not kept:
        return linear(1.0, words)
    middle = kept[len(kept) // 2]
    if kept[-1] > 12 * middle:
        return logarithmic(kept[0] * 0.8, kept[-1] * 1.15, words)
    return linear(kept[-1], words)


def round_step(step: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)
