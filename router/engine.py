"""Dirty model names in, traffic plans out: observe, step, plan, and apply what differs from before.

One model is one unit of work, so a change costs the same among ten thousand models as among ten. Whatever goes wrong
with one model becomes a Problem of that model; its last good plan stays, and the others go on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

from router.held import held
from router.hints import counted
from router.hosts import Claims
from router.manifests import Located
from router.observe import observe
from router.plan import Planned, VersionPlan, plan
from router.plugins import chosen
from router.problem import Problem
from router.schema import ModelRollout
from router.step import RolloutState, step
from router.store import Store
from xds.ir import Backend, Gateway, ModelPlan

log = logging.getLogger(__name__)

_SLICE = 0.002
"""Seconds of work after which others get a turn, so that a flood of changes holds up neither probes nor Envoys."""


PAUSED = "paused: primary, weights, header routes and mirrors stay as they were"


class Sink(Protocol):
    """Where plans go: translated into resources and on to the Envoys. Called only with what is new."""

    def apply(self, plan: ModelPlan) -> None: ...

    def remove(self, gateway: str, model: str) -> None: ...


class StateStore(Protocol):
    """The memory that outlives the process. No method may wait: saving happens elsewhere."""

    def get(self, model: str) -> RolloutState | None: ...

    def put(self, model: str, state: RolloutState) -> None: ...

    def forget(self, model: str) -> None: ...


class Forgetful:
    """A StateStore that survives nothing, for tests and offline use."""

    def __init__(self, states: Mapping[str, RolloutState] = MappingProxyType({})) -> None:
        self._states = dict(states)

    def get(self, model: str) -> RolloutState | None:
        return self._states.get(model)

    def put(self, model: str, state: RolloutState) -> None:
        self._states[model] = state

    def forget(self, model: str) -> None:
        self._states.pop(model, None)


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What is known of one model.

    `planned` is the latest computation; `plan` is what the gateway was last told, which stays when a computation
    fails. `since` tells when each version last became ready or unready. `generation` counts the plans applied.
    """

    rollout: ModelRollout
    where: str
    planned: Planned | None
    plan: ModelPlan | None
    problems: tuple[Problem, ...]
    generation: int
    updated_at: float
    since: Mapping[str, float]

    @property
    def versions(self) -> tuple[VersionPlan, ...]:
        return self.planned.versions if self.planned else ()

    @property
    def why(self) -> tuple[str, ...]:
        """Plain words for the traffic as it is."""
        return self.planned.why if self.planned else ()


class Engine:
    """Recomputes models that the Store calls dirty. Run it as one task; or drive `update` by hand.

    At the start, models whose readiness is not known yet are held back: planned without it, they would lose the
    traffic that the Envoys still give them from before the restart. `settled` ends that.
    """

    def __init__(
        self,
        store: Store,
        sink: Sink,
        *,
        gateways: Mapping[str, Gateway],
        states: StateStore | None = None,
        clock: Callable[[], float] = time.time,
        hold: bool = False,
        logger: logging.Logger = log,
    ) -> None:
        self._store = store
        self._sink = sink
        self._gateways = gateways
        self._states: StateStore = states if states is not None else Forgetful()
        self._clock = clock
        self._log = logger
        self._claims = Claims()
        self._status: dict[str, ModelStatus] = {}
        self._orphans: dict[str, ModelStatus] = {}  # deleted, but the sink did not let go
        self._leaving: dict[str, ModelStatus] = {}  # deleted, but requests may still be in flight
        self._followers: list[Callable[[str], None]] = []
        self._holding = hold
        self._awaited: set[str] | None = None  # models that have not been planned since the start
        self._started = asyncio.Event()
        self._settled = asyncio.Event()

    async def run(self, loaded: asyncio.Event | None = None) -> None:
        """Work until cancelled, beginning when the source has `loaded`: hosts are claimed in the source's order."""
        if loaded is not None:
            await loaded.wait()
        for model in self._store.keys():  # noqa: SIM118
            self._claim(model)
        self._awaited = set(self._store.keys())
        self._started.set()
        self._check_settled()
        while True:
            slice_ends = 0.0
            for model in await self._store.next_dirty(1):
                slice_ends = time.perf_counter() + _SLICE
                self.update(model)
            while time.perf_counter() < slice_ends and (more := self._store.take_dirty(1)):
                self.update(more[0])
            await asyncio.sleep(0)

    async def settled(self, within: float) -> bool:
        """Wait until every loaded model is planned with known readiness, at most `within` seconds.

        After that time the rest is planned as unready; returns whether it was in time.
        """
        await self._started.wait()
        try:
            async with asyncio.timeout(within):
                await self._settled.wait()
        except TimeoutError:
            waiting = sorted(self._awaited or ())
            self._log.warning(
                "readiness of %s unknown after %g s, such as %s", counted(len(waiting), "model"), within, waiting[0]
            )
            self._holding = False
            for model in waiting:
                self._store.mark(model)
            await self._settled.wait()
            return False
        self._holding = False
        return True

    def models(self) -> Mapping[str, ModelStatus]:
        """A live, read-only view."""
        return MappingProxyType(self._status)

    def leaving(self) -> Mapping[str, ModelStatus]:
        """Models that are gone, but whose clusters stay while requests may be in flight. Live and read-only."""
        return MappingProxyType(self._leaving)

    def follow(self, changed: Callable[[str], None]) -> None:
        """Call `changed` from now on with every model that looks different from before, or is gone."""
        self._followers.append(changed)

    def problems(self) -> tuple[Problem, ...]:
        """Everything that somebody should mend, each once."""
        told = {problem: None for problems in self._store.problems().values() for problem in problems}
        for status in (*self._status.values(), *self._orphans.values()):
            told.update(dict.fromkeys(status.problems))
        return tuple(told)

    def update(self, model: str) -> None:
        """Bring one model up to date, synchronously. Never raises."""
        located = self._store.get(model)
        if located is None:
            self._delete(model)
            self._tell(model)
        elif self._holding and self._unknown(model, located.rollout):
            self._claim(model)
            return
        else:
            try:
                self._compute(model, located)
            except Exception as error:
                self._failed(model, located, error)
        if self._awaited is not None:
            self._awaited.discard(model)
            self._check_settled()

    def _check_settled(self) -> None:
        if not self._awaited and not self._settled.is_set():
            self._settled.set()

    def _unknown(self, model: str, rollout: ModelRollout) -> bool:
        health = self._store.health(model)
        return model not in self._status and any(
            (version.name, endpoint) not in health
            for version in rollout.spec.versions
            if version.readiness is not None
            for endpoint in version.backend.servers(rollout.metadata.namespace)
        )

    def _claim(self, model: str) -> None:
        located = self._store.get(model)
        if located is not None and located.rollout.spec.gateway in self._gateways:
            spec = located.rollout.spec
            for other in self._claims.claim(model, spec.gateway, spec.hosts):
                self._store.mark(other)

    def _compute(self, model: str, located: Located) -> None:
        rollout, now = located.rollout, self._clock()
        before = self._status.get(model)
        gateway = rollout.spec.gateway
        if gateway not in self._gateways:
            hint = f"known are {', '.join(sorted(self._gateways))}"
            self._keep(
                model, located, Problem(located.where, "spec.gateway", f"gateway {gateway!r} is not known", hint)
            )
            return
        plugins = chosen(rollout, self._gateways[gateway], located.where)
        if plugins.missing is not None:
            self._keep(model, located, plugins.missing)
            return
        observed = observe(rollout, self._store.health(model), self._store.sites(model))
        remembered = self._states.get(model) or RolloutState()
        state = step(rollout, observed, remembered, now)
        self._claim(model)
        shown = held(rollout, state.held) if state.held else rollout
        planned = plan(shown, observed, state, self._claims.held(model), where=located.where, plugins=plugins)
        if state.held:
            planned = replace(planned, why=(PAUSED, *planned.why))
        generation = before.generation if before else 0
        left = self._leaving.get(model)
        told = before.plan if before else left.plan if left else None
        planned = self._with_lingering(model, planned, told)
        tell = planned.plan or self._without_hosts(rollout, told)
        if tell != told:
            # A model that moves to another gateway is there before it leaves the old one.
            if tell is not None:
                self._sink.apply(tell)
            if told is not None and (tell is None or tell.gateway != told.gateway):
                self._sink.remove(told.gateway, model)
            generation += 1
        if state != remembered:
            self._states.put(model, state)
        problems = (*planned.problems, *self._claims.problems(model, located.where), *self._store.problems_of(model))
        since = _since(before, planned, now)
        self._record(model, ModelStatus(rollout, located.where, planned, tell, problems, generation, now, since))
        first_look = before is None and not self._settled.is_set()
        level = logging.DEBUG if first_look else logging.INFO
        if self._log.isEnabledFor(level) and (said := _told(before.planned if before else None, planned)):
            self._log.log(level, "%s: %s", model, said)

    def _record(self, model: str, status: ModelStatus, defect: Exception | None = None) -> None:
        before = self._status.get(model)
        self._orphans.pop(model, None)
        self._leaving.pop(model, None)
        if before is None or _differs(before, status):
            self._status[model] = status
            self._tell(model)
        told = {*self._store.problems_of(model), *(before.problems if before is not None else ())}
        for problem in status.problems:
            if problem not in told:  # whoever reports a problem to the Store logs it too
                level = logging.ERROR if problem.severity == "error" else logging.WARNING
                self._log.log(level, "%s: %s", model, problem, exc_info=defect)

    def _keep(self, model: str, located: Located, problem: Problem, defect: Exception | None = None) -> None:
        """Leave the traffic as it is and say why."""
        before = self._status.get(model)
        self._record(
            model,
            ModelStatus(
                rollout=located.rollout,
                where=located.where,
                planned=before.planned if before else None,
                plan=before.plan if before else None,
                problems=(problem, *self._store.problems_of(model)),
                generation=before.generation if before else 0,
                updated_at=self._clock(),
                since=before.since if before else {},
            ),
            defect,
        )

    def _failed(self, model: str, located: Located, error: Exception) -> None:
        what = f"cannot be planned: {type(error).__name__}: {error}"
        problem = Problem(located.where, "", what, "this is a defect of headgate; the last good traffic stays")
        self._keep(model, located, problem, error)

    def _tell(self, model: str) -> None:
        for changed in self._followers:
            changed(model)

    def _with_lingering(self, model: str, planned: Planned, told: ModelPlan | None) -> Planned:
        """Keep the clusters of versions that are gone while the store says that they linger."""
        lingering = self._store.lingering(model)
        if not lingering or told is None or planned.plan is None:
            return planned
        there = {one.name for one in planned.plan.backends}
        kept = tuple(one for one in _backends_of(told, lingering) if one.name not in there)
        return replace(planned, plan=replace(planned.plan, backends=planned.plan.backends + kept)) if kept else planned

    def _without_hosts(self, rollout: ModelRollout, told: ModelPlan | None) -> ModelPlan | None:
        """In a cluster, what is left of a model that has lost all its hosts: clusters whose requests can be counted,
        should somebody delete a version now. There are no routes to them."""
        if told is None or not self._store.sites(rollout.key):
            return None
        versions = {one.name for one in rollout.spec.versions} | self._store.lingering(rollout.key)
        return replace(told, hosts=(), routes=(), backends=tuple(_backends_of(told, frozenset(versions))))

    def _leave(self, model: str, status: ModelStatus, lingering: frozenset[str]) -> bool:
        """Withdraw the model's routes and keep the clusters that linger; False when there are none."""
        backends = tuple(_backends_of(status.plan, lingering)) if status.plan is not None else ()
        if status.plan is None or not backends:
            return False
        rest = replace(status.plan, hosts=(), routes=(), backends=backends)
        if rest != status.plan:
            self._sink.apply(rest)
            self._log.info("%s: deleted; its clusters stay while requests may be in flight", model)
        self._leaving[model] = replace(status, planned=None, plan=rest)
        return True

    def _delete(self, model: str) -> None:
        status = self._status.pop(model, None) or self._orphans.pop(model, None) or self._leaving.pop(model, None)
        lingering = self._store.lingering(model)
        if status is not None and lingering and self._leave(model, status, lingering):
            for other in self._claims.release(model):
                self._store.mark(other)
            self._states.forget(model)
            return
        if status is not None and status.plan is not None:
            try:
                self._sink.remove(status.plan.gateway, model)
            except Exception as error:
                self._log.exception("%s: cannot be removed", model)
                what = f"cannot be removed: {type(error).__name__}: {error}"
                problem = Problem(status.where, "", what, "this is a defect of headgate; its routes stay")
                self._orphans[model] = ModelStatus(
                    status.rollout, status.where, None, status.plan, (problem,), status.generation, self._clock(), {}
                )
                return  # its hosts are still served, so nobody else may have them
        for other in self._claims.release(model):
            self._store.mark(other)
        self._states.forget(model)
        if status is not None:
            self._log.info("%s: deleted", model)


def _backends_of(plan: ModelPlan, versions: frozenset[str]) -> Iterator[Backend]:
    """The clusters of these versions, copies' included."""
    names = {f"{plan.name}/{one}" for one in versions}
    return (one for one in plan.backends if one.name.partition("~")[0] in names)


def _differs(before: ModelStatus, after: ModelStatus) -> bool:
    """Whether anything but the time of computation changed."""
    return (before.rollout, before.where, before.planned, before.plan, before.problems, before.generation) != (
        after.rollout,
        after.where,
        after.planned,
        after.plan,
        after.problems,
        after.generation,
    )


def _since(before: ModelStatus | None, planned: Planned, now: float) -> Mapping[str, float]:
    was = {one.name: one.ready for one in before.versions} if before else {}
    return {
        one.name: before.since.get(one.name, now) if before is not None and was.get(one.name) == one.ready else now
        for one in planned.versions
    }


def _told(before: Planned | None, after: Planned) -> str:
    """What changed, with the names in it."""
    if after.plan is None:
        return "serves none of its hosts any more" if before is not None and before.plan is not None else ""
    if before is not None and before.plan is None:
        before = None  # it begins to serve only now
    if before is not None and before.versions == after.versions:
        return ""
    was = {one.name: one for one in before.versions} if before else {}
    changes = [sentence for one in after.versions if (sentence := ", ".join(_changes(was.pop(one.name, None), one)))]
    return "; ".join([*changes, *(f"{name} gone" for name in was)])


def _changes(was: VersionPlan | None, now: VersionPlan) -> Iterator[str]:
    if was is None or was.ready != now.ready:
        yield f"{now.name} ready" if now.ready else f"{now.name} not ready ({now.reason})"
    old_weight = was.weight_bp if was else 0
    old_mirror = was.mirror_percent if was else 0.0
    name = "" if was is None or was.ready != now.ready else f"{now.name} "
    if old_weight != now.weight_bp:
        yield f"{name}weight {old_weight / 100:g} → {now.weight_bp / 100:g}"
        name = ""
    if old_mirror != now.mirror_percent:
        yield f"{name}mirror {old_mirror:g} → {now.mirror_percent:g}"
        name = ""
    if was is not None and was.role != now.role:
        yield f"{name}now {now.role}"
