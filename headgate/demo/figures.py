"""What came back, per version: every answer of the traffic in, counts, shares and latencies out."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

KEPT = 200_000
"""Answers remembered for windows and phases; totals are counted for ever."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's fate. `sent` is when it was due (monotonic): a late start counts as latency, not as idleness.

    `version` is empty and `error` says what happened when there was no good answer. `group` is who asked.
    """

    sent: float
    seconds: float
    protocol: str
    version: str = ""
    error: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Figures:
    """One version's part of some answers; `share` of all that succeeded; latencies in seconds, NaN when none."""

    version: str
    count: int
    share: float
    p50: float
    p99: float
    errors: int


class Ledger:
    """Every request of one run: sent = ok + failed + in flight, at any moment."""

    def __init__(self) -> None:
        self.sent = 0
        self.ok = 0
        self.failed = 0
        self.errors: Counter[str] = Counter()
        self.versions: Counter[str] = Counter()
        self.protocols: Counter[str] = Counter()
        self._answers: deque[Answer] = deque(maxlen=KEPT)
        self._pending: Counter[float] = Counter()

    @property
    def in_flight(self) -> int:
        return self.sent - self.ok - self.failed

    def send(self, due: float) -> None:
        """A request that was due then is on its way; `record` ends it."""
        self.sent += 1
        self._pending[due] += 1

    def pending(self, before: float) -> int:
        """How many that were due before this moment have not come back yet."""
        return sum(number for due, number in self._pending.items() if due < before)

    def record(self, answer: Answer) -> None:
        self._pending[answer.sent] -= 1
        if self._pending[answer.sent] <= 0:
            del self._pending[answer.sent]
        if answer.error:
            self.failed += 1
            self.errors[answer.error] += 1
        else:
            self.ok += 1
            self.versions[answer.version] += 1
        self.protocols[answer.protocol] += 1
        self._answers.append(answer)

    def answers(self, since: float, until: float = math.inf, *, group: str | None = None) -> list[Answer]:
        """Those sent in [since, until), in the order in which they were answered; of one group if it is given."""
        return [
            answer
            for answer in self._answers
            if since <= answer.sent < until and (group is None or answer.group == group)
        ]

    def figures(self, since: float, until: float = math.inf, *, group: str | None = None) -> dict[str, Figures]:
        return figures(self.answers(since, until, group=group))


def figures(answers: Iterable[Answer]) -> dict[str, Figures]:
    """Per version, in order of name; failures without a version are under ''."""
    seconds: dict[str, list[float]] = {}
    errors: Counter[str] = Counter()
    for answer in answers:
        if answer.error:
            errors[answer.version] += 1
        else:
            seconds.setdefault(answer.version, []).append(answer.seconds)
    total = sum(map(len, seconds.values()))
    found = {}
    for version in sorted({*seconds, *errors}):
        taken = sorted(seconds.get(version, ()))
        share = len(taken) / total if total else 0.0
        found[version] = Figures(
            version, len(taken), share, quantile(taken, 0.5), quantile(taken, 0.99), errors[version]
        )
    return found


def quantile(ordered: Sequence[float], part: float) -> float:
    """The nearest-rank quantile of values in rising order; NaN of none."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def plausible(count: int, total: int, asked: float, *, deviations: float = 3.2905) -> bool:
    """Whether `count` of `total` could come from the share `asked` by chance alone; the default is 99.9 % sure.

    Exactly 0 or 1 leaves no room for chance. Otherwise the normal approximation with a continuity correction, and a
    floor of three answers where it is too coarse.
    """
    if asked <= 0 or asked >= 1:
        return count == round(asked) * total
    spread = deviations * math.sqrt(total * asked * (1 - asked)) + 0.5
    return abs(count - total * asked) <= max(spread, 3.0)
