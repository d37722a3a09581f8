"""Whether versions got the share of the requests that they should have got."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loadgen.slo.intervals import binomial_cdf
from loadgen.slo.quantities import share

LEVEL = 0.001  # a split that is off is a broken experiment; it takes strong evidence to say so


@dataclass(frozen=True, slots=True)
class Part:
    """One version's share of the requests, as counted and as it should have been. `p` is Holm-corrected."""

    version: str
    count: int
    share: float
    intended: float
    p: float


@dataclass(frozen=True, slots=True)
class Split:
    """`fair`: nothing says that the split is not as intended, at the level 0.001."""

    parts: tuple[Part, ...]
    fair: bool
    words: str


def check_split(counts: Mapping[str, int], weights: Mapping[str, float]) -> Split:
    """Requests counted by version against weights of any scale; an exact binomial test for each version.

    It takes every request for a draw of its own: not so where users are sticky and send many. Versions that have no
    weight should get nothing. Raises ValueError where no weight is above 0.
    """
    total, whole = sum(counts.values()), sum(weights.values())
    if whole <= 0 or min(weights.values()) < 0:
        raise ValueError("weights have to be 0 or more, and one above 0")
    names = sorted({*counts, *weights})
    chances = [_two_sided(counts.get(name, 0), total, weights.get(name, 0) / whole) for name in names]
    parts = tuple(
        Part(name, counts.get(name, 0), counts.get(name, 0) / total if total else 0.0, weights.get(name, 0) / whole, p)
        for name, p in zip(names, holm(chances), strict=True)
    )
    off = [each for each in parts if each.p < LEVEL]
    if not total:
        return Split(parts, True, "No requests were counted")
    if not off:
        told = ", ".join(f"{each.version} {share(each.share)}" for each in parts)
        return Split(parts, True, f"The split is as intended: {told}")
    told = ", ".join(f"{each.version} got {share(each.share)} instead of {share(each.intended)}" for each in off)
    return Split(parts, False, f"The split is not as intended: {told}")


def holm(chances: list[float]) -> list[float]:
    """p values, corrected for their number (Holm 1979): below a level all of them are, with that level's error."""
    corrected = [0.0] * len(chances)
    reached = 0.0
    for place, index in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        reached = max(reached, min(1.0, chances[index] * (len(chances) - place)))
        corrected[index] = reached
    return corrected


def _two_sided(k: int, n: int, p: float) -> float:
    """The chance of a count as far out as k, doubled for both sides."""
    if not n:
        return 1.0
    if p <= 0 or p >= 1:
        return 1.0 if k == n * p else 0.0
    below = binomial_cdf(k, n, p)
    above = 1.0 - binomial_cdf(k - 1, n, p)
    return min(1.0, 2 * min(below, above))
