"""What each version asks for: its own words first, then what the strategy says for a version that is silent."""

from __future__ import annotations

from dataclasses import dataclass

from router.schema import DEFAULT_CANARY_MATCH, Match, Mirror, ModelRollout, Strategy, Version


@dataclass(frozen=True, slots=True)
class Wish:
    """`weight` is relative."""

    version: Version
    primary: bool
    weight: int
    match: tuple[Match, ...]
    mirror: Mirror | None

    @property
    def name(self) -> str:
        return self.version.name


def wishes(rollout: ModelRollout) -> tuple[Wish, ...]:
    """One wish per version, in the rollout's order."""
    primary = rollout.primary
    return tuple(_wish(one, rollout.spec.strategy, one is primary) for one in rollout.spec.versions)


def _wish(version: Version, strategy: Strategy, primary: bool) -> Wish:
    weight, match, mirror = version.weight, version.match or (), version.mirror
    silent = weight is None and not match and mirror is None
    if silent and not primary and strategy is Strategy.CANARY:
        match = (DEFAULT_CANARY_MATCH,)
    if silent and not primary and strategy is Strategy.MIRROR:
        mirror = Mirror()
    if weight is None:
        equal = strategy is Strategy.BLUE_GREEN and mirror is None
        weight = 1 if primary or equal else 0
    return Wish(version, primary, weight, match, mirror)


def mirrors(wish: Wish, ready: frozenset[str], points: dict[str, int]) -> bool:
    """Whether its mirror is on: not while it stands in for others, or it would get every request twice."""
    stands_in = wish.weight == 0 and points.get(wish.name, 0) > 0
    return wish.mirror is not None and wish.name in ready and not stands_in
