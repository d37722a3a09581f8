"""A paused rollout's traffic, as it was when the pause began: kept as plain values, put in place of what is edited.

Kept are primary, strategy, weights, header routes and mirrors. Versions that came later wait without traffic.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from router.schema import MAX_WEIGHT, Match, Mirror, ModelRollout, Strategy, Version

_TRAFFIC = {"weight", "match", "mirror"}


def hold(rollout: ModelRollout) -> str:
    """The traffic part of a rollout as JSON, for RolloutState."""
    versions = {
        one.name: one.model_dump(mode="json", by_alias=True, exclude_none=True, include=_TRAFFIC)
        for one in rollout.spec.versions
    }
    kept = {"primary": rollout.primary.name, "strategy": rollout.spec.strategy.value, "versions": versions}
    return json.dumps(kept)


def held(rollout: ModelRollout, kept: str) -> ModelRollout:
    """The rollout with its traffic as it was kept; unchanged when what was kept cannot be read."""
    try:
        raw = json.loads(kept)
        strategy = Strategy(raw["strategy"])
        names = {one.name for one in rollout.spec.versions}
        primary = raw["primary"] if raw["primary"] in names else rollout.primary.name
        versions = tuple(
            _version(one, raw["versions"].get(one.name), one.name == primary)
            for one in sorted(rollout.spec.versions, key=_place(raw["versions"]))
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return rollout
    spec = rollout.spec.model_copy(update={"primary": primary, "strategy": strategy, "versions": versions})
    return rollout.model_copy(update={"spec": spec})


def _place(kept: dict[str, Any]) -> Callable[[Version], int]:
    """The order counts too: header routes are tried in it, and it decides who gets the odd basis point."""
    places = {name: place for place, name in enumerate(kept)}
    return lambda one: places.get(one.name, len(places))


def _version(version: Version, kept: Any, primary: bool) -> Version:
    if kept is None:
        return version.model_copy(update={"weight": 0, "match": None, "mirror": None})
    weight, match, mirror = kept.get("weight"), kept.get("match"), kept.get("mirror")
    if weight is not None and (type(weight) is not int or not 0 <= weight <= MAX_WEIGHT):
        raise ValueError(f"{weight!r} is no weight")
    return version.model_copy(
        update={
            "weight": weight,
            "match": tuple(Match.model_validate(one) for one in match) if match else None,
            "mirror": Mirror.model_validate(mirror) if mirror is not None and not primary else None,
        }
    )
