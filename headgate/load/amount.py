"""How much load, from its flags."""

from __future__ import annotations

import math
from typing import Literal

from headgate.load.flags import Flags
from loadgen.plan import MAX_DURATION, Arrivals, Load, Stage
from loadgen.schedules import seconds, stages, trace
from router.problem import Problem

DURATION = 30.0  # seconds, where nothing else ends it
CONNECTIONS = 16

_KINDS = {"rate": "--rate", "schedule": "--schedule", "trace": "--trace", "users": "--users", "max_": "--max"}


class Mistakes:
    """Collects problems while flags are read: a value that is wrong reads as one that is harmless."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def add(self, flag: str, what: str, hint: str = "") -> None:
        self.problems.append(Problem(flag, "", what, hint))

    def seconds(self, flag: str, text: str, positive: bool = True) -> float:
        try:
            value = seconds(text)
        except ValueError as error:
            self.add(flag, str(error))
            return 1.0
        if positive and value <= 0:
            self.add(flag, "must be longer than 0 s")
        if value > MAX_DURATION:
            self.add(flag, f"{text} is more than 7 days")
        return value


def load_of(given: Flags, mistakes: Mistakes) -> Load:
    """A load; of no use if there are mistakes."""
    duration = None if given.duration is None else mistakes.seconds("--duration", given.duration)
    warmup, warmup_requests = _warmup(given.warmup, mistakes)
    arrivals = _arrivals(given, duration, mistakes)
    closed = given.users is not None or given.max_
    if closed and given.requests is None and duration is None:
        duration = DURATION
    if given.think is not None and given.users is None:
        mistakes.add("--think", "is for users", "use it with --users")
    if given.poisson and given.rate is None and given.schedule is None:
        mistakes.add("--poisson", "is for arrivals by rate", "use it with --rate or --schedule")
    connections = _connections(given)
    return Load(
        executor="users" if given.users is not None else "max" if given.max_ else "arrivals",
        arrivals=None if closed else arrivals,
        users=given.users or 0,
        think_time=0.0 if given.think is None else mistakes.seconds("--think", given.think, positive=False),
        requests=given.requests,
        duration=duration if closed or given.trace is not None or given.schedule is not None else None,
        warmup=warmup,
        warmup_requests=warmup_requests,
        grace=mistakes.seconds("--grace", given.grace, positive=False),
        connections=connections,
        max_in_flight=given.max_in_flight,
        on_limit=given.on_limit,
        reuse="per-request" if given.new_connections else "reuse",
    )


def _connections(given: Flags) -> int:
    """Users each get their own if nothing is said: their number is what was asked for."""
    if given.connections is not None:
        return given.connections
    return max(CONNECTIONS, given.users or 0)


def _warmup(text: str | None, mistakes: Mistakes) -> tuple[float, int]:
    if text is None:
        return 0.0, 0
    if text.isdigit():
        return 0.0, int(text)
    return mistakes.seconds("--warmup", text, positive=False), 0


def _arrivals(given: Flags, duration: float | None, mistakes: Mistakes) -> Arrivals:
    chosen = [
        flag for name, flag in _KINDS.items() if getattr(given, name) is not None and getattr(given, name) is not False
    ]
    harmless = (Stage(1.0, 1.0, 1.0),)
    if len(chosen) != 1:
        all_ = ", ".join(_KINDS.values())
        if chosen:
            mistakes.add(" and ".join(chosen), "cannot go together", f"give one of {all_}")
        else:
            mistakes.add("--rate", "how much load is not said", f"give one of {all_}")
        return Arrivals(harmless)
    spacing: Literal["constant", "poisson"] = "poisson" if given.poisson else "constant"
    if given.trace is not None:
        times = trace(given.trace)
        if isinstance(times[0], Problem):
            mistakes.problems += [each for each in times if isinstance(each, Problem)]
            return Arrivals(harmless)
        return Arrivals(trace=tuple(each for each in times if isinstance(each, float)), seed=given.seed)
    if given.schedule is not None:
        made = stages(given.schedule)
        if any(isinstance(each, Problem) for each in made):
            mistakes.problems += [each for each in made if isinstance(each, Problem)]
            return Arrivals(harmless)
        return Arrivals(tuple(each for each in made if isinstance(each, Stage)), spacing, given.seed)
    if given.rate is None:
        return Arrivals(harmless)
    return Arrivals((_steady(given, given.rate, duration, mistakes),), spacing, given.seed)


def _steady(given: Flags, rate: float, duration: float | None, mistakes: Mistakes) -> Stage:
    if not 0 < rate < 10_000_000:
        mistakes.add("--rate", f"{rate:g} requests per second are not possible", "give a number above 0")
        rate = 1.0
    if duration is None:
        duration = DURATION if given.requests is None else given.requests / rate
        if given.requests is not None and given.poisson:
            duration += 6 * math.sqrt(given.requests) / rate  # by then all have come
    return Stage(min(duration, MAX_DURATION) or 1.0, rate, rate)
