"""The leader's work on statuses: a model is marked, all replicas are asked about it, and what is new is written.

    mark ──► queue ──► ask the fleet ──► status_of ──► differs? ──► PATCH with the resourceVersion that was read
                ▲                                        │ Envoys still to come: again soon
                └─────── conflict: read anew ◄───────────┴ only numbers of Envoys: when it is its turn

A model whose Envoys have all of it is not looked at again before something changes: thousands of them cost nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from router.cluster.objects import part
from router.cluster.status import Known, happenings, merge_patch, only_counts, only_waits, status_of, unsettled
from router.engine import ModelStatus
from router.kube import queue
from router.kube.client import ApiFault, Client
from router.kube.elector import Term
from router.kube.events import Events, Subject
from router.kube.queue import Queue
from router.kube.road import Road
from router.kube.states import States
from router.kube.view import View
from router.problem import Problem
from router.replica import Fleet, Reports
from router.schema import API_VERSION, KIND
from router.step import RolloutState

log = logging.getLogger(__name__)

ROLLOUTS = f"/apis/{API_VERSION}/namespaces"

_LOOK_AGAIN = (0.1, 2.0)
"""Seconds until Envoys that were still to come are asked for again: at first, and at most."""
_LOOKS = 200.0
"""Such looks a second, over all models."""
_LAZY = 20.0
"""Writes a second that tell nothing but numbers of Envoys."""
_PATIENCE = 5.0
"""Seconds for which an Envoy that had everything may be away or behind before a status says so. A replica that is
replaced, or a new leader, would else have thousands of statuses written for a moment's sake."""
_TOGETHER = 64
"""Models in one question to the fleet: they become part of a URL."""
_PULSE = 5.0
"""Seconds between two looks at how many Envoys are connected."""
_ROUTEMAP = "ConfigMap"
_QUESTIONS = 4
_WRITERS = 8
_TRIES = 5
"""Of a write that others overtake, one after the other; then it waits, longer each time."""


@dataclass(frozen=True, slots=True)
class Counters:
    """`unsettled` models wait for Envoys; `conflicts` are writes that came too late and were made again."""

    queue: queue.Counters
    writes: int
    conflicts: int
    failures: int
    unsettled: int


class StatusWriter:
    """`mark` at any time and from anywhere; only `run` does anything, and only while the term lasts.

    `model` and `problems` say what this replica knows of a model; `drains` gives lines about traffic being drained.
    """

    def __init__(
        self,
        client: Client,
        view: View,
        fleet: Fleet,
        *,
        identity: str,
        model: Callable[[str], ModelStatus | None],
        problems: Callable[[str], Iterable[Problem]] = lambda model: (),
        drains: Callable[[str], Iterable[str]] = lambda model: (),
        states: States | None = None,
        events: Events | None = None,
        road: Road | None = None,
        clock: Callable[[], float] = time.time,
        pulse: float = _PULSE,
        lazy: float = _LAZY,
        patience: float = _PATIENCE,
    ) -> None:
        self._client = client
        self._view = view
        self._questions = _Questions(fleet)
        self._fleet = fleet
        self._identity = identity
        self._model = model
        self._problems = problems
        self._drains = drains
        self._states = states
        self._events = events
        self._road = road or Road()
        self._clock = clock
        self._pulse_every = pulse
        self._queue = Queue(hands=_TOGETHER)
        self._writing = asyncio.Semaphore(_WRITERS)
        self._turns = _Turns(lazy)
        self._known: set[str] = set()
        self._own: dict[str, tuple[str, Mapping[str, Any]]] = {}  # newer than what the view has, by what it had
        self._waits: dict[str, float] = {}  # of the unsettled
        self._patience = patience
        self._behind: dict[str, float] = {}  # since when Envoys that had everything are not there, or behind
        self._writes = self._conflicts = self._failures = 0
        self._routemaps: dict[str, Mapping[str, Any]] = {}  # the status that they would have
        self._leading = False
        self._ill = False
        view.follow_rollouts(self._followed)

    @property
    def counters(self) -> Counters:
        return Counters(self._queue.counters, self._writes, self._conflicts, self._failures, len(self._waits))

    def mark(self, model: str, *, urgent: bool = False) -> None:
        """Something of this model may be different. A routemap has no status, but its changes become Events."""
        if model not in self._known and self._view.routemap(model) is not None:
            self._known.add(model)
        if self._leading and model in self._known:
            self._waits.pop(model, None)
            self._queue.add(model, urgent)

    async def run(self, term: Term) -> None:
        """Keep all statuses true until cancelled."""
        self._leading = True
        if self._states is not None:
            self._states.lead(True)
        for model in self._known:  # those of routemaps too
            self._queue.add(model)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._questions.run())
                group.create_task(self._pulse())
                group.create_task(self._queue.run(lambda model: self._see_to(model, term)))
        finally:
            self._leading = False
            if self._states is not None:
                self._states.lead(False)
            self._queue.clear()
            self._turns.clear()
            self._own.clear()
            self._waits.clear()
            self._behind.clear()
            self._routemaps.clear()

    def _followed(self, model: str) -> None:
        """The view has something new of the model; what we wrote ourselves is nothing new."""
        seen = self._view.rollout(model)
        if seen is None:
            if self._view.routemap(model) is None:
                self._forget(model)
            return
        self._known.add(model)
        own = self._own.get(model)
        if own is not None and _revision(own[1]) == _revision(seen):
            del self._own[model]
            return
        self.mark(model)

    def _forget(self, model: str) -> None:
        self._known.discard(model)
        self._routemaps.pop(model, None)
        self._queue.drop(model)
        self._own.pop(model, None)
        self._waits.pop(model, None)
        self._behind.pop(model, None)
        self._turns.give_back(model)

    async def _see_to(self, model: str, term: Term) -> None:
        """Bring one status up to date."""
        seen = self._model(model)
        rollout = self._latest(model) or self._routemap(model, seen)
        if rollout is None:
            self._forget(model)
            return
        reports = await self._questions.ask(model)
        if self._model(model) is not seen:
            self._queue.add(model)  # what the replicas said may be about what was there before
            return
        known = Known(
            rollout=rollout,
            model=seen,
            reports=reports,
            identity=self._identity,
            problems=tuple(self._problems(model)),
            state=self._state(model, rollout),
            drains=tuple(self._drains(model)),
        )
        status = status_of(known, self._clock())
        if status is None:
            self._look_again(model)
            return
        before = known.previous
        if self._may_pass(model, before, status):
            self._look_again(model)
            return
        if rollout.get("kind") == _ROUTEMAP:
            if model in self._routemaps:  # the first look is no news
                self._tell(rollout, before, status)
            self._routemaps[model] = status
        elif status != before:
            if before and only_counts(before, status) and (wait := self._turns.wait(model)) > 0:
                # Everybody else goes first; what is true by then is written.
                self._queue.add(model, after=wait)
                if unsettled(status):
                    self._look_again(model)
                return
            self._turns.give_back(model)
            if not await self._write(model, rollout, before, status, term):
                return
            self._tell(rollout, before, status)
        if unsettled(status):
            self._look_again(model)
        else:
            self._waits.pop(model, None)

    def _may_pass(self, model: str, before: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
        """Whether only Envoys are missing that may be back in a moment."""
        if not only_waits(before, status):
            self._behind.pop(model, None)
            return False
        now = time.monotonic()
        return now - self._behind.setdefault(model, now) < self._patience

    def _look_again(self, model: str) -> None:
        """Soon, then less and less often; and not too many at once."""
        first, most = _LOOK_AGAIN
        wait = self._waits[model] = min(most, self._waits.get(model, first / 2) * 2)
        self._queue.add(model, after=max(wait, len(self._waits) / _LOOKS))

    def _latest(self, model: str) -> Mapping[str, Any] | None:
        """The object as the view has it, or newer: as our own write, or a GET, returned it."""
        seen = self._view.rollout(model)
        own = self._own.get(model)
        if seen is not None and own is not None and own[0] == _revision(seen):
            return own[1]
        self._own.pop(model, None)
        return seen

    async def _write(
        self, model: str, rollout: Mapping[str, Any], before: Mapping[str, Any], status: Mapping[str, Any], term: Term
    ) -> bool:
        path, shown = _path(model), self._view.rollout(model)
        for left in reversed(range(_TRIES)):
            change = {
                "metadata": {"resourceVersion": _revision(rollout)},
                "status": merge_patch(before, status),
            }
            try:
                async with self._writing, self._road.turn():
                    if not term.valid():
                        return False
                    written = await self._client.patch(f"{path}/status", change)
                break
            except ApiFault as fault:
                fresh = await self._refused(model, path, fault)
                if fresh is None:
                    return False
                if not left or not _as_good(rollout, fresh):
                    self._remember(model, shown, fresh)
                    raise
                # Somebody who writes all the time, such as another controller's annotation, must not starve us.
                rollout = fresh
        self._writes += 1
        self._ill = False
        self._remember(model, shown, written)
        return True

    async def _refused(self, model: str, path: str, fault: ApiFault) -> Mapping[str, Any] | None:
        """The object as it is now when somebody else was faster, None when it is gone. Raises what is to wait."""
        if fault.status == 404:
            self._forget(model)
            return None
        if fault.status == 409:
            self._conflicts += 1
            # The view will have it sooner or later, but that may take as long as a silent connection lasts.
            found: Mapping[str, Any] = await self._client.get(path)
            return found
        self._failures += 1
        if not self._ill or not fault.of_the_server:
            log.warning("%s: its status cannot be written: %s", model, fault)
        self._ill = fault.of_the_server
        raise fault

    def _remember(self, model: str, shown: Mapping[str, Any] | None, rollout: Mapping[str, Any]) -> None:
        """Keep what the server answered for as long as the view shows what it `shown` before."""
        self._own.pop(model, None)
        seen = self._view.rollout(model)
        if seen is not None and shown is not None and _revision(seen) == _revision(shown) != _revision(rollout):
            self._own[model] = _revision(shown), rollout

    def _routemap(self, model: str, seen: ModelStatus | None) -> Mapping[str, Any] | None:
        """A routemap in the shape of a rollout, with the status that it would have."""
        found = self._view.routemap(model)
        if found is None or seen is None:
            return None
        metadata = {**found["metadata"], "generation": seen.rollout.metadata.generation}
        return {"kind": _ROUTEMAP, "metadata": metadata, "status": self._routemaps.get(model, {})}

    def _state(self, model: str, rollout: Mapping[str, Any]) -> RolloutState | None:
        """What the object shall remember: ours only when it is newer. The watch brings what other leaders wrote."""
        if self._states is None:
            return None
        saved = part(rollout, "status", "state")
        if self._states.ahead(model) or not isinstance(saved, Mapping):
            return self._states.get(model)
        return RolloutState.from_json(saved)

    def _tell(self, rollout: Mapping[str, Any], before: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        if self._events is None:
            return
        subject = subject_of(rollout)
        for one in happenings(before, status):
            self._events.tell(subject, one.reason, one.message, warning=one.warning)

    async def _pulse(self) -> None:
        """See Envoys come and go: their numbers are part of the status of every model of their gateway."""
        before: dict[tuple[str, str], int] | None = None
        while True:
            told = await self._fleet.ask((), ())
            now = {(one.identity, name): n for one in told.reports for name, n in one.gateways.items() if n}
            # A replica that does not answer is not asked for its Envoys model by model: it answers again, or is gone.
            now |= {key: n for key, n in (before or {}).items() if key[0] in told.unreachable}
            if before is not None and now != before:
                self._mark_gateways({name for _, name in dict(now.items() ^ before.items())})
            before = now
            await asyncio.sleep(self._pulse_every)

    def _mark_gateways(self, names: set[str]) -> None:
        for model in self._known:
            seen = self._model(model)
            if seen is not None and seen.rollout.spec.gateway in names:
                self._queue.add(model)


class _Questions:
    """Questions about single models, put to the fleet together: while one is under way, the next ones gather."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._open: dict[str, asyncio.Future[Reports]] = {}
        self._some = asyncio.Event()

    async def ask(self, model: str) -> Reports:
        answer = self._open.get(model)
        if answer is None:
            answer = self._open[model] = asyncio.get_running_loop().create_future()
            self._some.set()
        return await answer

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_QUESTIONS):
                    group.create_task(self._put())
        finally:
            for answer in self._open.values():
                answer.cancel()
            self._open.clear()
            self._some.clear()

    async def _put(self) -> None:
        while True:
            await self._some.wait()
            await asyncio.sleep(0)  # whoever is about to ask, too
            models = list(self._open)[:_TOGETHER]
            answers = [self._open.pop(model) for model in models]
            if not self._open:
                self._some.clear()
            if not models:
                continue
            try:
                reports = await self._fleet.ask(models, ())
            except Exception as error:
                for answer in answers:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for answer in answers:
                if not answer.done():
                    answer.set_result(reports)


class _Turns:
    """Who may write next of those that have time: each is given a place in a row of so many a second."""

    def __init__(self, a_second: float) -> None:
        self._a_second = a_second
        self._free_at = 0.0
        self._given: dict[str, float] = {}

    def wait(self, model: str) -> float:
        """Seconds until its turn; it keeps its place until it gives it back."""
        now = time.monotonic()
        if model not in self._given:
            self._given[model] = at = max(now, self._free_at)
            self._free_at = at + 1 / self._a_second
        return self._given[model] - now

    def give_back(self, model: str) -> None:
        self._given.pop(model, None)

    def clear(self) -> None:
        self._given.clear()
        self._free_at = 0.0


def subject_of(rollout: Mapping[str, Any]) -> Subject:
    """A ModelRollout, or the ConfigMap of a routemap, as Events name it."""
    metadata = rollout["metadata"]
    kind = ("v1", _ROUTEMAP) if rollout.get("kind") == _ROUTEMAP else (API_VERSION, KIND)
    return Subject(*kind, metadata["namespace"], metadata["name"], metadata.get("uid", ""))


def _as_good(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether what was found out about one object is as true of the other: somebody changed what does not matter."""

    def matters(rollout: Mapping[str, Any]) -> tuple[Any, ...]:
        meta = rollout.get("metadata", {})
        named = (meta.get(one) for one in ("uid", "generation", "deletionTimestamp"))
        return (*named, rollout.get("status") or {})

    return matters(before) == matters(now)


def _path(model: str) -> str:
    namespace, _, name = model.partition("/")
    return f"{ROLLOUTS}/{namespace}/modelrollouts/{name}"


def _revision(rollout: Mapping[str, Any]) -> str:
    return str(rollout["metadata"].get("resourceVersion", ""))
