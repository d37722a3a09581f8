"""Names that need work, each worked on by one at a time: added any number of times, done once, again when it failed.

    add ──► due later ──► ready (urgent ones first) ──► working ──┬──► done
                ▲                                       │ added   ├──► failed: later, twice as late each time
                └───────────────────────────────────────┴─────────┘

What happened is not kept, only that there is something to see to: whoever works on a name looks at what is true then.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from router.kube.backoff import Backoff
from router.kube.client import ApiFault

log = logging.getLogger(__name__)

Work = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Counters:
    """`waiting` are due later, `ready` wait for a free hand. `done` and `retries` only grow."""

    ready: int
    waiting: int
    working: int
    done: int
    retries: int

    @property
    def depth(self) -> int:
        return self.ready + self.waiting + self.working


class Queue:
    """`hands` names are worked on at the same time. Work that raises is tried again, after what a server asked for."""

    def __init__(
        self,
        *,
        hands: int = 8,
        first: float = 0.1,
        most: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._hands = hands
        self._first, self._most = first, most
        self._clock = clock
        self._dice = dice
        self._ready: dict[bool, dict[str, None]] = {True: {}, False: {}}  # by urgency, in the order of adding
        self._due: dict[str, tuple[float, bool]] = {}
        self._order: list[tuple[float, int, str]] = []  # what is in _due, and remains of what was
        self._number = itertools.count()
        self._working: set[str] = set()
        self._again: dict[str, tuple[float, bool]] = {}  # added while being worked on
        self._failing: dict[str, Backoff] = {}
        self._changed = asyncio.Event()
        self._done = self._retries = 0

    def __contains__(self, key: object) -> bool:
        return self._is_ready(key) or key in self._due or key in self._working

    @property
    def counters(self) -> Counters:
        ready = len(self._ready[True]) + len(self._ready[False])
        return Counters(ready, len(self._due), len(self._working), self._done, self._retries)

    def add(self, key: str, urgent: bool = False, after: float = 0.0) -> None:
        """Have it worked on in `after` seconds, or sooner if it was to be; not before a failure's wait is over."""
        at = self._clock() + after
        if key in self._working:
            self._again[key] = _sooner(self._again.get(key), at, urgent)
        else:
            self._place(key, at, urgent)

    def drop(self, key: str) -> None:
        """Nothing is to be done any more, and its failures are forgotten. Work that is under way goes on."""
        for names in self._ready.values():
            names.pop(key, None)
        self._due.pop(key, None)
        self._again.pop(key, None)
        self._failing.pop(key, None)

    def clear(self) -> None:
        """Forget everything that is not under way."""
        for key in [*self._ready[True], *self._ready[False], *self._due, *self._again, *self._failing]:
            self.drop(key)

    async def run(self, work: Work) -> None:
        """Work until cancelled. Work that is cut off then stays in the queue."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                next_due = self._take_due()
                while len(self._working) < self._hands and (key := self._next()) is not None:
                    self._working.add(key)
                    group.create_task(self._do(key, work))
                try:
                    async with asyncio.timeout(None if next_due is None else max(0.0, next_due - self._clock())):
                        await self._changed.wait()
                except TimeoutError:
                    pass

    async def _do(self, key: str, work: Work) -> None:
        try:
            await work(key)
        except ApiFault as fault:
            self._failed(key, fault.retry_after)
        except Exception:
            if key not in self._failing:
                log.exception("%s: a defect of headgate; tried again later", key)
            self._failed(key)
        except BaseException:
            self._again.setdefault(key, (self._clock(), False))
            raise
        else:
            self._failing.pop(key, None)
            self._done += 1
        finally:
            self._working.discard(key)
            again = self._again.pop(key, None)
            if again is not None:
                self._place(key, *again)
            self._changed.set()

    def _failed(self, key: str, at_least: float = 0.0) -> None:
        self._retries += 1
        backoff = self._failing.setdefault(key, Backoff(first=self._first, most=self._most))
        at = backoff.failed(self._clock(), self._dice(), at_least)
        self._again[key] = _sooner(self._again.get(key), at, False)

    def _place(self, key: str, at: float, urgent: bool) -> None:
        if key in self._failing:
            at = max(at, self._failing[key].until)
        if self._is_ready(key) or at <= self._clock():
            _, was_urgent = self._due.pop(key, (0.0, False))
            self._make_ready(key, urgent or was_urgent)
        else:
            before = self._due.get(key)
            self._due[key] = _sooner(before, at, urgent)
            if before is None or at < before[0]:
                heapq.heappush(self._order, (at, next(self._number), key))
        self._changed.set()

    def _take_due(self) -> float | None:
        """Make ready what is due; when the next one will be."""
        now = self._clock()
        while self._order:
            at, _, key = self._order[0]
            due = self._due.get(key)
            if due is None or due[0] != at:  # it was moved, or dropped
                heapq.heappop(self._order)
                continue
            if at > now:
                return at
            heapq.heappop(self._order)
            del self._due[key]
            self._make_ready(key, due[1])
        return None

    def _is_ready(self, key: object) -> bool:
        return any(key in names for names in self._ready.values())

    def _make_ready(self, key: str, urgent: bool) -> None:
        if urgent:
            self._ready[False].pop(key, None)
        if urgent or key not in self._ready[True]:
            self._ready[urgent][key] = None

    def _next(self) -> str | None:
        for names in self._ready.values():
            if names:
                key = next(iter(names))
                del names[key]
                return key
        return None


def _sooner(before: tuple[float, bool] | None, at: float, urgent: bool) -> tuple[float, bool]:
    return (at, urgent) if before is None else (min(before[0], at), before[1] or urgent)
