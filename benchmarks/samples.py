"""The little statistics that the benchmarks need: percentiles, ratios of interleaved rounds, binomial intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` % of the values do not exceed (nearest rank); NaN of nothing."""
    if not values:
        return math.nan
    if not 0 <= percent <= 100:
        raise ValueError(f"a percentile lies between 0 and 100, got {percent}")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle one, or the mean of the two middle ones; NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def paired_ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    """The median of the ratios of rounds run side by side: what a noisy neighbour does to both cancels out."""
    if len(slower) != len(faster):
        raise ValueError(f"rounds must come in pairs, got {len(slower)} and {len(faster)}")
    return median([a / b for a, b in zip(slower, faster, strict=True)])


def binomial_interval(trials: int, probability: float, confidence: float = 0.999) -> tuple[int, int]:
    """The counts (low, high) between which a fair binomial count falls with at least `confidence`.

    Exact: each tail beyond the interval holds at most half of what is left, summed outwards in logarithms.
    """
    if trials < 0 or not 0 <= probability <= 1:
        raise ValueError(f"need trials >= 0 and a probability, got {trials} and {probability}")
    if trials == 0 or probability in (0.0, 1.0):
        return (int(trials * probability),) * 2
    tail = (1 - confidence) / 2
    return _lower(trials, probability, tail), trials - _lower(trials, 1 - probability, tail)


def _lower(trials: int, probability: float, tail: float) -> int:
    """The largest k with P(X < k) <= tail: walk up from where the mass begins to matter."""
    spread = math.sqrt(trials * probability * (1 - probability))
    k = max(0, int(trials * probability - 12 * spread - 12))
    below = 0.0
    while k < trials:
        mass = math.exp(
            math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
            + k * math.log(probability) + (trials - k) * math.log1p(-probability)
        )  # fmt: skip
        if below + mass > tail:
            return k
        below += mass
        k += 1
    return trials
