"""Entries in; counts, clients, figures and the last requests out. All of it is bounded, whatever clients send."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sidecar.metrics.bounds import BOUNDS
from sidecar.metrics.llm import Llms, Version
from sidecar.metrics.stats import Key, Outcome
from sidecar.stream.layout import (
    AFTER_COUNTED,
    ALONG,
    BETWEEN,
    NOTHING,
    WITHIN,
    Malformed,
    labels,
    metadata,
    names,
    whose,
)

KEPT = 10_000
WINDOW = 60.0
MOST_GROUPS = 20_000
MOST_VERSIONS = 2_000
MOST_VALUES = 100
MOST_CLIENTS = 100_000
LONGEST = 8_192
OTHER = "other"
_BOUNDS_US = tuple(round(bound * 1e6) for bound in BOUNDS)
_LONGEST_NUMBER = 12
_LAST = len(BOUNDS) - 1

Pair = tuple[str, str]
"""A layout and an entry of it."""
Watcher = Callable[[list[Pair]], None]


@dataclass(slots=True)
class Durations:
    """How long requests took, in the buckets that Envoy counts in, and the last entry of each."""

    counts: list[int] = field(default_factory=lambda: [0] * len(BOUNDS))
    total_us: int = 0
    last: list[str] = field(default_factory=lambda: [""] * len(BOUNDS))


@dataclass(slots=True)
class _Group:
    """Requests that Envoy counts as one: of the same version, with the same outcome."""

    names: tuple[str, ...]
    key: Key
    outcome: Outcome
    clients: set[int]
    durations: Durations
    counts: dict[str, int] = field(default_factory=dict)
    """By what was said of labels."""
    last: str = ""

    @property
    def version(self) -> Version:
        return Version(self.key.namespace, self.key.model, self.key.version)


class Requests:
    """`take` entries as they come; everything else may be asked at any time. Not for several threads."""

    def __init__(self, kept: int = KEPT, window: float = WINDOW, clock: Callable[[], float] = time.monotonic) -> None:
        self._last: deque[Pair] = deque(maxlen=kept)
        self._window, self._clock, self._ends = window, clock, clock() + window
        self._groups: dict[str, dict[str, _Group]] = {}
        self._clients: dict[Version, set[int]] = {}
        self._values: dict[str, set[str]] = {}
        self._room = MOST_GROUPS
        self.clients: dict[Version, int] = {}
        """How many different ones there were in the last whole window."""
        self.llms = Llms(clock)
        self.durations: dict[Key, Durations] = {}
        self.entries = 0
        self.refused: Counter[str] = Counter()
        """By why: `malformed`, `too-large`, `no-room`, `metadata`; of the last, the entry itself is taken."""
        self.watchers: set[Watcher] = set()

    def take(self, entries: Iterable[Any]) -> None:
        """What one message holds: pairs of a time and a map with one key."""
        self.turn()
        taken: list[Pair] = []
        for entry in entries:
            try:
                pair = entry[1].popitem()
                layout, text = pair
                by, client, extra, rest = text.split(BETWEEN, 3)
                groups = self._groups.get(layout)
                group = None if groups is None else groups.get(by)
                if group is None or len(text) > LONGEST:
                    group = self._new_group(layout, by, len(text))
                    if group is None:
                        continue
                took = rest.split(ALONG, 2)[1]
                took_us = -1 if took == NOTHING else _whole(took)
                counts = group.counts
                said = rest.split(BETWEEN, AFTER_COUNTED)[AFTER_COUNTED] if group.names else ""
                if said in counts:
                    counts[said] += 1
                else:
                    self._count_new(group, said)
            except (Malformed, TypeError, ValueError, AttributeError, KeyError, IndexError):
                self.refused["malformed"] += 1
                continue
            group.last = text
            if took_us >= 0:
                durations, index = group.durations, min(bisect_left(_BOUNDS_US, took_us), _LAST)
                durations.counts[index] += 1
                durations.total_us += took_us
                durations.last[index] = text
            if client != NOTHING and len(group.clients) < MOST_CLIENTS:
                group.clients.add(hash(client))
            if extra[0:1] == "{":
                self._say(group.version, extra)
            taken.append(pair)
        self.entries += len(taken)
        self._last.extend(taken)
        for watcher in tuple(self.watchers):
            watcher(taken)

    def _new_group(self, layout: str, by: str, length: int) -> _Group | None:
        """Off the beaten track: a version or an outcome for the first time, or too much text."""
        if length > LONGEST:
            self.refused["too-large"] += 1
            return None
        key, outcome = whose(by)
        known = names(layout)
        version = Version(key.namespace, key.model, key.version)
        if not self._room or (version not in self._clients and len(self._clients) >= MOST_VERSIONS):
            self.refused["no-room"] += 1
            return None
        self._room -= 1
        clients = self._clients.setdefault(version, set())
        group = _Group(known, key, outcome, clients, self.durations.setdefault(key, Durations()))
        self._groups.setdefault(layout, {})[by] = group
        return group

    def _count_new(self, group: _Group, said: str) -> None:
        """Values beyond the hundredth of a label are told as one, so that no client can make up ever more of them."""
        admitted = []
        for name, value in labels(group.names, said).items():
            values = self._values.setdefault(name, set())
            if value not in values and len(values) >= MOST_VALUES:
                value = OTHER
            values.add(value)
            admitted.append(value or NOTHING)
        said = WITHIN.join(admitted)
        if said not in group.counts:
            if self._room:
                self._room -= 1
            else:
                said = WITHIN.join([OTHER] * len(group.names))
        group.counts[said] = group.counts.get(said, 0) + 1

    def _say(self, version: Version, extra: str) -> None:
        try:
            said = metadata(extra)
        except Malformed:
            self.refused["metadata"] += 1
            return
        self.llms.say(version, said)

    def turn(self) -> None:
        """Begin a new window when it is time to."""
        now = self._clock()
        if now < self._ends:
            return
        late = now >= self._ends + self._window
        self._ends = now + self._window if late else self._ends + self._window
        self.clients = {version: 0 if late else len(found) for version, found in self._clients.items()}
        for found in self._clients.values():
            found.clear()

    def counts(self) -> dict[tuple[tuple[str, str], ...], int]:
        """How many requests there were, by all labels."""
        found: Counter[tuple[tuple[str, str], ...]] = Counter()
        for group in (group for groups in self._groups.values() for group in groups.values()):
            shared = (*group.key._asdict().items(), ("code", group.outcome.code))
            for said, count in group.counts.items():
                found[(*shared, *labels(group.names, said).items())] += count
        return found

    def last_of_each(self) -> Iterator[tuple[Key, Outcome, str]]:
        """The last entry of each outcome of each version."""
        for groups in self._groups.values():
            for group in groups.values():
                yield group.key, group.outcome, group.last

    def last(self) -> Iterator[Pair]:
        """The last entries, newest first."""
        return reversed(self._last)

    def __len__(self) -> int:
        return len(self._last)


def _whole(text: str) -> int:
    """Microseconds; a peer that is no Envoy may write anything."""
    if len(text) > _LONGEST_NUMBER or not text.isdecimal():
        raise Malformed("an entry has no duration")
    return int(text)
