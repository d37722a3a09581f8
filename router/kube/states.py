"""The rollouts' memory, kept in each object's status.state: the leader's engine writes it there, the others read along.

Every replica computes, but only one writes. A follower takes over whatever the leader has written, so that sticky users
are treated alike by all. The leader's own memory is newer than what the watch shows until the watch shows the same.
Models without a status, those of routemaps, are remembered in memory only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from router.step import RolloutState


class States:
    """A StateStore. `changed` is called with every model whose memory is to be written."""

    def __init__(self, changed: Callable[[str], None] = lambda model: None) -> None:
        self.changed = changed
        self.leading = False
        self._states: dict[str, RolloutState] = {}
        self._ahead: set[str] = set()  # of what the watch has shown

    def get(self, model: str) -> RolloutState | None:
        return self._states.get(model)

    def put(self, model: str, state: RolloutState) -> None:
        if self._states.get(model) != state:
            self._states[model] = state
            self._ahead.add(model)
            self.changed(model)

    def forget(self, model: str) -> None:
        self._states.pop(model, None)
        self._ahead.discard(model)

    def ahead(self, model: str) -> bool:
        """Whether the memory is newer than what the watch has shown."""
        return model in self._ahead

    def lead(self, leading: bool) -> None:
        """Tell when this replica begins or ceases to write. From then on the others' word counts, or no longer."""
        self.leading = leading

    def adopt(self, model: str, status: Any) -> bool:
        """Take in the status that the watch shows; whether the model must be computed anew for it."""
        saved = status.get("state") if isinstance(status, Mapping) else None
        if not isinstance(saved, Mapping):
            return False
        shown, ours = RolloutState.from_json(saved), self._states.get(model)
        if shown == ours:
            self._ahead.discard(model)
            return False
        if self.leading and model in self._ahead:
            return False  # an older one, on its way while we went on
        self._states[model] = shown
        self._ahead.discard(model)
        return True
