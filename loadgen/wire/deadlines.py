"""When calls have been waited for long enough. All of one client have the same timeout: the oldest one is the first."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, Generic, TypeVar

Key = TypeVar("Key")


class Deadlines(Generic[Key]):
    """Calls `expired(key)` in the hub once a key has been in here for `timeout` seconds.

    One timer of the loop waits for the oldest key. `discard` costs nothing but the removal: the timer may fire for
    nothing, at most once in each timeout.
    """

    def __init__(self, loop: Any, timeout: float, expired: Callable[[Key], None]) -> None:
        self._since: dict[Key, float] = {}  # in the order of arrival
        self._loop, self._timeout, self._expired = loop, timeout, expired
        self._timer = loop.timer(timeout)
        self._waiting = False

    def add(self, key: Key, since: float) -> None:
        """`since`: perf_counter(), not before that of the key added last."""
        self._since[key] = since
        if not self._waiting:
            self._wait(since)

    def discard(self, key: Key) -> None:
        self._since.pop(key, None)

    def close(self) -> None:
        self._since.clear()
        self._timer.close()

    def _wait(self, since: float) -> None:
        self._waiting = True
        self._timer = self._loop.timer(max(since + self._timeout - perf_counter(), 0.0))
        self._timer.start(self._fire)

    def _fire(self) -> None:
        self._timer.close()
        self._waiting = False
        passed = perf_counter() - self._timeout
        late = []
        for key, since in self._since.items():
            if since > passed:
                break
            late.append(key)
        for key in late:
            if self._since.pop(key, None) is not None:  # an earlier one's callback may have ended it
                self._expired(key)
        if self._since and not self._waiting:
            self._wait(next(iter(self._since.values())))
