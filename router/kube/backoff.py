"""How long to wait before trying again: twice as long each time, by chance a little less; forgotten in good times."""

from __future__ import annotations


class Backoff:
    """Pure: `now` is monotonic seconds, `dice` a random number in [0, 1).

    Failures while a wait is already running are the same trouble seen by others, and do not lengthen it.
    """

    def __init__(self, *, first: float = 0.2, most: float = 10.0, forget: float = 10.0) -> None:
        self.first = first
        self.most = most
        self.forget = forget
        self.until = float("-inf")
        self._failures = 0
        self._well_since: float | None = None

    def failed(self, now: float, dice: float, at_least: float = 0.0) -> float:
        """When to try again. `at_least` is what the server asked for (Retry-After)."""
        if self._well_since is not None and now - self._well_since >= self.forget:
            self._failures = 0
        self._well_since = None
        if now >= self.until:
            wait = min(self.most, self.first * 2 ** min(self._failures, 30)) * (1.0 - dice / 2)
            self._failures += 1
            self.until = now + wait
        self.until = max(self.until, now + at_least)
        return self.until

    def worked(self, now: float) -> None:
        """A success. Only `forget` seconds of them make the next wait short again: many servers fail on and off."""
        if self._well_since is None:
            self._well_since = now
