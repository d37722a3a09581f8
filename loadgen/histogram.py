"""How a figure is distributed: an HdrHistogram of three digits in microseconds, with exact sums beside it.

Percentiles are within 0.1 % of a recorded value; count, sum, least and greatest are exact. Histograms of several
processes add up to what one process would have recorded. Values are seconds on the outside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from hdrh.histogram import HdrHistogram

from loadgen.counts import DIGITS, HIGHEST, LOWEST, MICROSECONDS, Integers, Part, upper_ends


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram at rest, as it is kept and sent. `encoded` is HdrHistogram's V2 form in base64."""

    count: int
    total: float
    squares: float
    least: float | None
    greatest: float | None
    encoded: str

    def histogram(self) -> Histogram:
        return Histogram.of(self)


class Histogram:
    """A distribution that is being recorded or asked."""

    __slots__ = ("_counts", "count", "greatest", "least", "squares", "total")

    def __init__(self) -> None:
        self._counts: Integers = np.zeros(0, dtype=np.int64)
        self.count = 0
        self.total = 0.0
        self.squares = 0.0
        self.least = math.inf
        self.greatest = -math.inf

    @classmethod
    def of(cls, kept: Distribution) -> Histogram:
        self = cls()
        self._counts = np.frombuffer(HdrHistogram.decode(kept.encoded).counts, dtype=np.uint64).astype(np.int64)
        self.count, self.total, self.squares = kept.count, kept.total, kept.squares
        self.least = math.inf if kept.least is None else kept.least
        self.greatest = -math.inf if kept.greatest is None else kept.greatest
        return self

    def record(self, values: Iterable[float]) -> None:
        """Take seconds in. Negative ones are 0; one call with many is far cheaper than a call for each."""
        seconds = np.asarray(values if isinstance(values, np.ndarray) else list(values), dtype=np.float64)
        if seconds.size:
            self.add_part(Part.of(seconds))

    def add_part(self, part: Part) -> None:
        indices = np.frombuffer(part.indices, dtype="<i4")
        if not indices.size:
            return
        self._grow(int(indices[-1]) + 1)
        self._counts[indices] += np.frombuffer(part.counts, dtype="<i4")
        self._sum(part)

    def add(self, other: Histogram) -> None:
        self._grow(other._counts.size)
        self._counts[: other._counts.size] += other._counts
        self._sum(other)

    def _grow(self, size: int) -> None:
        if size > self._counts.size:
            self._counts = np.concatenate((self._counts, np.zeros(size - self._counts.size, dtype=np.int64)))

    def _sum(self, other: Histogram | Part) -> None:
        self.count += other.count
        self.total += other.total
        self.squares += other.squares
        self.least = min(self.least, other.least)
        self.greatest = max(self.greatest, other.greatest)

    def part(self) -> Part:
        """All of it, as it travels between processes. Raises OverflowError for a bucket of more than 2**31 - 1."""
        held = np.flatnonzero(self._counts)
        counts = self._counts[held]
        if counts.size and int(counts.max()) > np.iinfo(np.int32).max:
            raise OverflowError("a bucket holds more than travels in one part")
        indices, numbers = held.astype("<i4").tobytes(), counts.astype("<i4").tobytes()
        return Part(indices, numbers, self.count, self.total, self.squares, self.least, self.greatest)

    def rest(self) -> Distribution:
        """As it is kept and sent."""
        hdr = HdrHistogram(LOWEST, HIGHEST, DIGITS)
        held = np.flatnonzero(self._counts)
        if held.size:
            np.frombuffer(hdr.counts, dtype=np.uint64)[held] = self._counts[held]
            hdr.total_count = self.count
            ends = upper_ends(held)
            hdr.min_value, hdr.max_value = int(ends[0]), int(ends[-1])
        encoded = hdr.encode()
        return Distribution(
            count=self.count,
            total=self.total,
            squares=self.squares,
            least=self.least if self.count else None,
            greatest=self.greatest if self.count else None,
            encoded=encoded.decode() if isinstance(encoded, bytes) else encoded,
        )

    def percentile(self, percent: float) -> float:
        """Seconds at or below which `percent` of the values lie; NaN where there are none.

        It is the upper end of the bucket that holds the rank (rounded up, so that a percentile is never flattered).
        Raises ValueError outside 0 to 100.
        """
        return self.percentiles(percent)[0]

    def percentiles(self, *percents: float) -> list[float]:
        """Several at the cost of one."""
        for percent in percents:
            if not 0 <= percent <= 100:
                raise ValueError(f"there is no percentile {percent:g}: give 0 to 100")
        if not self.count:
            return [math.nan] * len(percents)
        return self._at([max(1, math.ceil(percent / 100 * self.count - 1e-6)) for percent in percents])

    def at_rank(self, rank: int) -> float:
        """The value of this rank, from 1 to count, in ascending order."""
        return self._at([min(max(rank, 1), self.count)])[0] if self.count else math.nan

    def _at(self, ranks: list[int]) -> list[float]:
        found = np.searchsorted(np.cumsum(self._counts), ranks)
        ends = (upper_ends(found.astype(np.int64)) / MICROSECONDS).tolist()
        values = [min(max(end, self.least), self.greatest) for end in ends]
        return [self.greatest if rank >= self.count else value for rank, value in zip(ranks, values, strict=True)]

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan

    @property
    def stddev(self) -> float:
        """Of the population."""
        return math.sqrt(max(0.0, self.squares / self.count - self.mean**2)) if self.count else math.nan

    def buckets(self) -> list[tuple[float, int]]:
        """(highest value in seconds, how many) of each bucket that holds any, in ascending order."""
        held = np.flatnonzero(self._counts)
        ends = (upper_ends(held) / MICROSECONDS).tolist()
        return list(zip(ends, self._counts[held].tolist(), strict=True))
