"""The rollout's memory: what one computation leaves for the next, and what must survive a restart.

Which slot of the sticky layout each candidate holds (see sticky.py), and the traffic of a paused rollout (held.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from router.held import held, hold
from router.observe import Observed
from router.schema import ModelRollout


@dataclass(frozen=True, slots=True)
class RolloutState:
    """`slots` holds (candidate, slot), by slot; `held` is empty unless the rollout is paused."""

    slots: tuple[tuple[str, int], ...] = ()
    held: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"slots": dict(self.slots), **({"held": self.held} if self.held else {})}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> RolloutState:
        """Read what `to_json` wrote; what makes no sense is forgotten, since slots can always be given anew."""
        slots, held = saved.get("slots"), saved.get("held")
        paused = held if isinstance(held, str) else ""
        if not isinstance(slots, Mapping):
            return cls((), paused)
        kept: dict[int, str] = {}
        for name, slot in slots.items():
            if isinstance(name, str) and isinstance(slot, int) and not isinstance(slot, bool) and slot >= 0:
                kept.setdefault(slot, name)
        return cls(tuple((name, slot) for slot, name in sorted(kept.items())), paused)


def step(rollout: ModelRollout, observed: Observed, state: RolloutState, now: float) -> RolloutState:
    """Keep the candidates' slots, give new ones the lowest free slot, forget those that are gone.

    The primary holds none: it fills the middle. When a candidate is promoted it leaves its slot, and the former
    primary, if it stays, takes a free one like any new candidate. While a rollout is paused, its traffic as it was at
    the first look is kept.
    """
    pause = (state.held or hold(rollout)) if rollout.spec.paused else ""
    names = [one.name for one in (held(rollout, pause) if pause else rollout).candidates]
    slots = {name: slot for name, slot in state.slots if name in names}
    taken = frozenset(slots.values())
    free = (slot for slot in count() if slot not in taken)
    for name in names:
        if name not in slots:
            slots[name] = next(free)
    return RolloutState(tuple(sorted(slots.items(), key=lambda item: item[1])), pause)
