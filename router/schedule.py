"""When each endpoint is probed next and what its answers amount to: no sockets, no clock, chance as an argument.

One heap for all probes. An endpoint that several versions or models ask in the same way is asked once.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Literal

from router.health import Health
from router.schema import ModelRollout, Readiness
from router.store import HealthKey
from xds.ir import Endpoint

User = tuple[str, str, Endpoint]
"""Model, version and the endpoint that receives the traffic: what a Health is about."""

READY = "ready"


@dataclass(frozen=True, slots=True)
class Probe:
    """One question to one server. Equal probes are one probe."""

    kind: Literal["http", "grpc", "tcp"]
    address: str
    port: int
    interval: float
    timeout: float
    success_threshold: int = 1
    failure_threshold: int = 3
    path: str = "/"
    host: str | None = None
    service: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer; `reason` in plain words."""

    ok: bool
    reason: str = READY


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the answers so far amount to: None until there is something to say. `streak` counts those that disagree."""

    health: Health | None = None
    streak: int = 0


def wanted(rollout: ModelRollout) -> dict[HealthKey, Probe]:
    """Every probe that a rollout asks for. A version without readiness asks for none."""
    return {
        (version.name, endpoint): _probe(version.readiness, endpoint)
        for version in rollout.spec.versions
        if version.readiness is not None
        for endpoint in version.backend.servers(rollout.metadata.namespace)
    }


def _probe(readiness: Readiness, endpoint: Endpoint) -> Probe:
    kind: Literal["http", "grpc", "tcp"] = "tcp"
    port, path, host, service = None, "/", None, ""
    if readiness.http is not None:
        kind, port, path, host = "http", readiness.http.port, readiness.http.path, readiness.http.host
    elif readiness.grpc is not None:
        kind, port, service = "grpc", readiness.grpc.port, readiness.grpc.service
    elif readiness.tcp is not None:
        port = readiness.tcp.port
    return Probe(
        kind,
        endpoint.address,
        port or endpoint.port,
        readiness.interval,
        readiness.timeout,
        readiness.success_threshold,
        readiness.failure_threshold,
        path,
        host,
        service,
    )


def judge(verdict: Verdict, outcome: Outcome, probe: Probe, now: float) -> Verdict:
    """A single lost answer takes no traffic away; the first answer of all counts at once if it is bad.

    Good answers below the threshold leave an unknown endpoint unknown: after a restart it may be serving.
    """
    health = verdict.health
    streak = verdict.streak + 1
    if health is not None and health.ready:
        if outcome.ok:
            return Verdict(health)
        if streak < probe.failure_threshold:
            return Verdict(health, streak)
        return Verdict(Health(False, outcome.reason, now))
    since = health.since if health is not None else now
    if not outcome.ok:
        return Verdict(Health(False, outcome.reason, since))
    if streak >= probe.success_threshold:
        return Verdict(Health(True, READY, now))
    if health is None:
        return Verdict(None, streak)
    return Verdict(Health(False, f"answers again, {streak} of {probe.success_threshold} times", since), streak)


@dataclass(slots=True, eq=False)
class Target:
    """A probe on the schedule. `at` is when it is due, None while it is under way."""

    probe: Probe
    at: float | None
    verdict: Verdict = Verdict()
    users: dict[User, None] = field(default_factory=dict)


class Schedule:
    """All probes. `now` is any clock that only goes forward; `wall` is the time that people see."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._targets: dict[Probe, Target] = {}
        self._models: dict[str, dict[HealthKey, Probe]] = {}
        self._heap: list[tuple[float, int, Target]] = []
        self._order = count()

    def __len__(self) -> int:
        """How many different probes there are."""
        return len(self._targets)

    def follow(
        self, model: str, probes: Mapping[HealthKey, Probe], now: float
    ) -> tuple[list[tuple[User, Health]], list[User]]:
        """Probe this for `model` from now on; new probes are due at once.

        Returns what is known already, also of unchanged probes (the model may have been deleted and made again, its
        health forgotten), and which endpoints the model no longer has.
        """
        before = self._models.get(model, {})
        known: list[tuple[User, Health]] = []
        for key, probe in probes.items():
            target = self._targets.get(probe)
            if target is None:
                target = self._targets[probe] = Target(probe, now)
                if key in before:
                    # Asked in another way from now on: that alone is no reason to take its traffic away.
                    target.verdict = Verdict(self._targets[before[key]].verdict.health)
                self._push(target)
            target.users[model, *key] = None
            if target.verdict.health is not None:
                known.append(((model, *key), target.verdict.health))
        for key, probe in before.items():
            if probes.get(key) != probe:
                users = self._targets[probe].users
                users.pop((model, *key))
                if not users:
                    del self._targets[probe]
        if probes:
            self._models[model] = dict(probes)
        else:
            self._models.pop(model, None)
        return known, [(model, *key) for key in before if key not in probes]

    def take(self, now: float) -> Target | None:
        """The next target that is due, to be asked now and handed to `done`."""
        if (first := self._first()) is None or first[0] > now:
            return None
        target = heapq.heappop(self._heap)[2]
        target.at = None
        return target

    def next_at(self) -> float | None:
        """When the next target is due."""
        first = self._first()
        return first[0] if first else None

    def done(
        self, target: Target, outcome: Outcome, started: float, now: float, wall: float
    ) -> list[tuple[User, Health]]:
        """Take an answer, put the target back on the schedule, and return what is news to whom."""
        if self._targets.get(target.probe) is not target:
            return []  # nobody asks any more
        interval = target.probe.interval * self._random.uniform(0.95, 1.05)
        target.at = max(now, started + interval)
        self._push(target)
        before, target.verdict = target.verdict, judge(target.verdict, outcome, target.probe, wall)
        health = target.verdict.health
        if health is None or health == before.health:
            return []
        return [(user, health) for user in target.users]

    def _push(self, target: Target) -> None:
        assert target.at is not None
        heapq.heappush(self._heap, (target.at, next(self._order), target))

    def _first(self) -> tuple[float, int, Target] | None:
        while self._heap and self._targets.get(self._heap[0][2].probe) is not self._heap[0][2]:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def targets(self) -> Iterator[Target]:
        yield from self._targets.values()
