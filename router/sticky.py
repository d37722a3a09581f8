"""Who of the sticky users gets which version: the order of the arms, and Envoy's choice recomputed.

Envoy hashes the sticky header with xxHash64 (seed 0) and walks the cumulative weights, which total 10,000 for ever:

    0                                                        10,000
    | slot 0 -> | slot 2 -> |      primary      | <- slot 3 | <- slot 1 |

Arms grow from both ends into the primary in the middle. So a candidate that grows takes users from the primary only,
and with up to two candidates nobody is ever moved between candidates. From the third on, growing an outer arm pushes
the inner one along; slots are kept for the length of a run, so that at least no arm ever jumps.

A promotion makes a candidate the primary. At 10,000 (ramp it up first) that moves nobody: it has everybody already.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import xxhash

from router.schema import ModelRollout
from router.step import RolloutState
from xds.ir import WEIGHT_TOTAL, Target


def layout(rollout: ModelRollout, state: RolloutState) -> tuple[str, ...]:
    """All versions in the order of their arms; candidates without a slot come after those that have one."""
    slots = dict(state.slots)
    names = [one.name for one in rollout.candidates]
    spare = max(slots.values(), default=-1) + 1
    ranked = sorted(names, key=lambda name: slots.get(name, spare + names.index(name)))
    rank = {name: slots.get(name, spare + index) for index, name in enumerate(ranked)}
    left = [name for name in ranked if rank[name] % 2 == 0]
    right = [name for name in reversed(ranked) if rank[name] % 2 == 1]
    return (*left, rollout.primary.name, *right)


def arm(targets: Sequence[Target], key: str | bytes) -> str:
    """The version that Envoy gives to the user with this value of the sticky header."""
    return arm_of([(target.version, target.weight) for target in targets], key)


def arm_of(arms: Iterable[tuple[str, int]], key: str | bytes) -> str:
    """The same over (version, basis points) pairs."""
    point, reached = bucket(key), 0
    for version, weight in arms:
        reached += weight
        if point < reached:
            return version
    raise ValueError(f"the weights total {reached}, not {WEIGHT_TOTAL}")


def bucket(key: str | bytes) -> int:
    """Where Envoy's hash of the key falls among the 10,000 parts of the traffic."""
    return xxhash.xxh64_intdigest(key.encode() if isinstance(key, str) else key, seed=0) % WEIGHT_TOTAL
