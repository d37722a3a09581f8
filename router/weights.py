"""How much traffic each version gets, in basis points that always total 10,000.

Integers are relative, as in Iter8. The shares are those of all versions, ready or not: what an unready version would
get falls to one heir, so that the other arms keep their width and their sticky users.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from xds.ir import WEIGHT_TOTAL


def share(wanted: Mapping[str, int], ready: Collection[str], primary: str) -> dict[str, int]:
    """Basis points of every version that gets traffic, in the order of `wanted`.

    The part of unready versions goes to the primary, or to the heaviest ready version when the primary is not ready
    either. With no ready version of positive weight, the primary or else the first ready version serves everything;
    with none ready at all the primary keeps its route, because a model never vanishes for a flap.
    """
    kept = {name: points for name, points in scaled(wanted).items() if name in ready and points > 0}
    missing = WEIGHT_TOTAL - sum(kept.values())
    if missing:
        to = heir(wanted, ready, primary)
        kept[to] = kept.get(to, 0) + missing
    return {name: kept[name] for name in wanted if name in kept}


def heir(wanted: Mapping[str, int], ready: Collection[str], primary: str) -> str:
    """Who gets what unready versions cannot serve: the primary, else the heaviest ready, else the first ready."""
    able = [name for name in wanted if name in ready]
    if primary in able or not able:
        return primary
    return max(able, key=lambda name: wanted[name])  # the first of equals


def scaled(wanted: Mapping[str, int]) -> dict[str, int]:
    """Relative weights as basis points, by largest remainder; no positive weight rounds to nothing.

    The result is empty when all weights are 0.
    """
    total = sum(wanted.values())
    if total == 0:
        return {}
    points = {name: weight * WEIGHT_TOTAL // total for name, weight in wanted.items()}
    left = WEIGHT_TOTAL - sum(points.values())
    by_remainder = sorted(wanted, key=lambda name: -(wanted[name] * WEIGHT_TOTAL % total))  # stable: first of equals
    for name in by_remainder[:left]:
        points[name] += 1
    for name, weight in wanted.items():
        if weight > 0 and points[name] == 0:
            points[max(points, key=lambda other: points[other])] -= 1
            points[name] = 1
    return points
