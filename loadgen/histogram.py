"""How a figure is distributed: an HdrHistogram of three digits in microseconds, with exact sums beside it.

Percentiles are within 0.1 % of a recorded value; count, sum, least and greatest are exact. Histograms of several
processes add up to what one process would have recorded. Values are seconds on the outside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from hdrh.histogram import HdrHistogram

LOWEST, HIGHEST, DIGITS = 1, 24 * 3600 * 1_000_000, 3  # microseconds
_MICROSECONDS = 1_000_000


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

    __slots__ = ("_hdr", "count", "greatest", "least", "squares", "total")

    def __init__(self) -> None:
        self._hdr = HdrHistogram(LOWEST, HIGHEST, DIGITS)
        self.count = 0
        self.total = 0.0
        self.squares = 0.0
        self.least = math.inf
        self.greatest = -math.inf

    @classmethod
    def of(cls, kept: Distribution) -> Histogram:
        self = cls()
        self._hdr = HdrHistogram.decode(kept.encoded)
        self.count, self.total, self.squares = kept.count, kept.total, kept.squares
        self.least = math.inf if kept.least is None else kept.least
        self.greatest = -math.inf if kept.greatest is None else kept.greatest
        return self

    def record(self, values: Iterable[float]) -> None:
        """Take seconds in. Negative ones are 0; one call with many is about ten times cheaper than a call for each."""
        seconds = np.asarray(values if isinstance(values, np.ndarray) else list(values), dtype=np.float64)
        if not seconds.size:
            return
        seconds = np.maximum(seconds, 0.0)
        self.count += int(seconds.size)
        self.total += float(seconds.sum())
        self.squares += float(np.square(seconds).sum())
        self.least = min(self.least, float(seconds.min()))
        self.greatest = max(self.greatest, float(seconds.max()))
        whole = np.clip(np.rint(seconds * _MICROSECONDS), LOWEST, HIGHEST).astype(np.int64)
        values_, counts = np.unique(_coarse(whole), return_counts=True)
        for value, count in zip(values_.tolist(), counts.tolist(), strict=True):
            self._hdr.record_value(value, count)

    def add(self, other: Histogram) -> None:
        self._hdr.add(other._hdr)
        self.count += other.count
        self.total += other.total
        self.squares += other.squares
        self.least = min(self.least, other.least)
        self.greatest = max(self.greatest, other.greatest)

    def rest(self) -> Distribution:
        """As it is kept and sent."""
        encoded = self._hdr.encode()
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

        Raises ValueError outside 0 to 100.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"there is no percentile {percent:g}: give 0 to 100")
        if not self.count:
            return math.nan
        if percent == 100:
            return self.greatest
        value = float(self._hdr.get_value_at_percentile(percent)) / _MICROSECONDS
        return min(max(value, self.least), self.greatest)

    def at_rank(self, rank: int) -> float:
        """The value of this rank, from 1 to count, in ascending order."""
        return self.percentile(100.0 * min(max(rank, 1), self.count) / self.count) if self.count else math.nan

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan

    @property
    def stddev(self) -> float:
        """Of the population."""
        return math.sqrt(max(0.0, self.squares / self.count - self.mean**2)) if self.count else math.nan

    def buckets(self) -> list[tuple[float, int]]:
        """(highest value in seconds, how many) of each bucket that holds any, in ascending order."""
        return [
            (item.value_iterated_to / _MICROSECONDS, item.count_added_in_this_iter_step)
            for item in self._hdr.get_recorded_iterator()
        ]


def _coarse(whole: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Microseconds that share a bucket become one value, so that a bucket is one call."""
    bits = np.frexp(whole.astype(np.float64))[1]  # 2**(bits-1) <= value < 2**bits
    shift = np.maximum(bits - 11, 0)  # 2,048 sub-buckets hold three digits
    kept: npt.NDArray[np.int64] = (whole >> shift) << shift
    return kept
