"""HdrHistogram's buckets (three digits, microseconds) as whole arrays: cheap to fill, to send and to add up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LOWEST, HIGHEST, DIGITS = 1, 24 * 3600 * 1_000_000, 3  # microseconds
MICROSECONDS = 1_000_000
_HALF = 1024  # sub-buckets that each power of two has of its own
_BITS = 11

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Part:
    """Some durations, as they travel: `indices` of buckets in ascending order and `counts` (int32, little-endian)."""

    indices: bytes
    counts: bytes
    count: int
    total: float
    squares: float
    least: float
    greatest: float

    @classmethod
    def of(cls, seconds: Floats) -> Part:
        """Raises ValueError for no durations at all. Negative ones are 0."""
        if not seconds.size:
            raise ValueError("there is nothing to count")
        seconds = np.maximum(seconds, 0.0)
        counts = np.bincount(indices_of(seconds))
        held = np.flatnonzero(counts)
        return cls(
            held.astype("<i4").tobytes(),
            counts[held].astype("<i4").tobytes(),
            int(seconds.size),
            float(seconds.sum()),
            float(np.square(seconds).sum()),
            float(seconds.min()),
            float(seconds.max()),
        )


def indices_of(seconds: Floats) -> Integers:
    """The bucket of each duration."""
    whole = np.clip(np.rint(seconds * MICROSECONDS), LOWEST, HIGHEST).astype(np.int64)
    bits = np.frexp(whole.astype(np.float64))[1]  # 2**(bits-1) <= value < 2**bits
    shift = np.maximum(bits - _BITS, 0)
    found: Integers = shift * _HALF + (whole >> shift)
    return found


def upper_ends(indices: Integers) -> Integers:
    """The greatest whole microsecond of each bucket."""
    shift = np.maximum(indices // _HALF - 1, 0)
    ends: Integers = ((indices - shift * _HALF + 1) << shift) - 1
    return ends
