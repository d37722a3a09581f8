"""The latest of everything the control plane has been told: rollouts by key, health by endpoint, problems by origin.

Sources and probes put in; the engine and the prober are told *which models* changed, never what happened. A reader
that is busy finds all later changes collapsed into one set of names, and an equal value wakes nobody.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from router.health import Health
from router.manifests import Located
from router.problem import Problem
from router.site import Site
from xds.ir import Endpoint

HealthKey = tuple[str, Endpoint]
"""A version's name and the endpoint that receives its traffic."""

_NOWHERE: Mapping[str, Site] = MappingProxyType({})
_NO_HEALTH: Mapping[HealthKey, Health] = MappingProxyType({})


class Dirty:
    """Names that need another look: level-triggered, each at most once, one reader.

    Readiness changes go ahead of everything else, so that a folder of 10,000 changed files delays none of them.
    """

    def __init__(self) -> None:
        self._urgent: OrderedDict[str, None] = OrderedDict()
        self._other: OrderedDict[str, None] = OrderedDict()
        self._waiter: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._urgent) + len(self._other)

    def __contains__(self, name: object) -> bool:
        return name in self._urgent or name in self._other

    def mark(self, name: str, *, urgent: bool = False) -> None:
        if urgent:
            self._other.pop(name, None)
            self._urgent[name] = None
        elif name not in self._urgent:
            self._other[name] = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take(self, limit: int | None = None) -> tuple[str, ...]:
        """Hand over the names marked so far, at most `limit`, the urgent ones first, then in the order of marking."""
        taken: list[str] = []
        for names in (self._urgent, self._other):
            while names and (limit is None or len(taken) < limit):
                taken.append(names.popitem(last=False)[0])
        return tuple(taken)

    async def next(self, limit: int | None = None) -> tuple[str, ...]:
        """Return at once when something is marked, otherwise wait for the first mark. No timer is involved."""
        while not len(self):
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self.take(limit)


class Store:
    """What is known now. Everything is done on the event loop's thread; no method waits except `next_dirty`."""

    def __init__(self) -> None:
        self._objects: dict[str, Located] = {}
        self._sites: dict[str, Mapping[str, Site]] = {}
        self._lingering: dict[str, frozenset[str]] = {}
        self._health: dict[str, dict[HealthKey, Health]] = {}
        self._problems: dict[str, tuple[Problem, ...]] = {}
        self._about: dict[str, frozenset[str]] = {}
        self._by_model: dict[str, dict[str, None]] = {}
        self._dirty = Dirty()
        self._followers: list[Dirty] = []

    # What sources put in

    def put(self, key: str, located: Located) -> bool:
        """Keep the latest object; return whether it differs from what was there."""
        before = self._objects.get(key)
        if before == located:
            return False
        self._objects[key] = located
        self._dirty.mark(key)
        if before is None or before.rollout != located.rollout:
            for follower in self._followers:
                follower.mark(key)
        return True

    def place(self, key: str, sites: Mapping[str, Site], lingering: frozenset[str] = frozenset()) -> bool:
        """Keep where the versions are served; `lingering` ones are no longer of the rollout, but their clusters stay.

        While a model that was dropped has lingering versions, their clusters are all that is left of it.
        """
        if self._sites.get(key, _NOWHERE) == sites and self._lingering.get(key, frozenset()) == lingering:
            return False
        self._set_sites(key, sites, lingering)
        self._dirty.mark(key, urgent=True)
        return True

    def _set_sites(self, key: str, sites: Mapping[str, Site], lingering: frozenset[str]) -> None:
        self._sites.pop(key, None)
        self._lingering.pop(key, None)
        if sites:
            self._sites[key] = sites
        if lingering:
            self._lingering[key] = lingering

    def drop(self, key: str) -> bool:
        """Forget an object and the health of its endpoints."""
        if self._objects.pop(key, None) is None:
            return False
        self._health.pop(key, None)
        self._sites.pop(key, None)
        self._dirty.mark(key)
        for follower in self._followers:
            follower.mark(key)
        return True

    def report(self, origin: str, problems: Iterable[Problem], models: Iterable[str] = ()) -> bool:
        """Replace what `origin` (a file, a prober) has to complain about; `models` are those whose status shows it."""
        latest, about = tuple(problems), frozenset(models)
        if self._problems.get(origin, ()) == latest and (not latest or self._about.get(origin, frozenset()) == about):
            return False
        concerned = about | self._about.pop(origin, frozenset())
        for model in concerned:
            origins = self._by_model.get(model)
            if origins is not None:
                origins.pop(origin, None)
                if not origins:
                    del self._by_model[model]
        self._problems.pop(origin, None)
        if latest:
            self._problems[origin] = latest
            self._about[origin] = about
            for model in about:
                self._by_model.setdefault(model, {})[origin] = None
        for model in concerned:
            self._dirty.mark(model)
        return True

    # What probes put in

    def set_health(self, model: str, version: str, endpoint: Endpoint, health: Health) -> bool:
        """Keep the latest verdict on an endpoint. A model that is gone has no health."""
        if model not in self._objects:
            return False
        known = self._health.setdefault(model, {})
        if known.get((version, endpoint)) == health:
            return False
        known[version, endpoint] = health
        self._dirty.mark(model, urgent=True)
        return True

    def drop_health(self, model: str, version: str, endpoint: Endpoint) -> bool:
        """Forget an endpoint that the model no longer has."""
        known = self._health.get(model)
        if known is None or known.pop((version, endpoint), None) is None:
            return False
        self._dirty.mark(model)
        return True

    # What readers ask

    def get(self, key: str) -> Located | None:
        return self._objects.get(key)

    def keys(self) -> tuple[str, ...]:
        return tuple(self._objects)

    def __contains__(self, key: object) -> bool:
        return key in self._objects

    def health(self, model: str) -> Mapping[HealthKey, Health]:
        """The model's own verdicts only: the cost of reading them does not grow with the number of models."""
        return self._health.get(model, _NO_HEALTH)

    def sites(self, model: str) -> Mapping[str, Site]:
        """Where the cluster says that versions are served; empty outside of one."""
        return self._sites.get(model, _NOWHERE)

    def lingering(self, model: str) -> frozenset[str]:
        """Versions that have gone from the rollout while requests to them may still be in flight."""
        return self._lingering.get(model, frozenset())

    def problems(self) -> Mapping[str, tuple[Problem, ...]]:
        """All problems by origin, as they are now."""
        return MappingProxyType(self._problems)

    def problems_of(self, model: str) -> tuple[Problem, ...]:
        return tuple(p for origin in self._by_model.get(model, ()) for p in self._problems.get(origin, ()))

    def mark(self, model: str) -> None:
        """Ask for another look at a model, for example when a host that it wants has become free."""
        self._dirty.mark(model)

    async def next_dirty(self, limit: int | None = None) -> tuple[str, ...]:
        """The engine's reader: models whose object, health or problems changed since the last call."""
        return await self._dirty.next(limit)

    def take_dirty(self, limit: int | None = None) -> tuple[str, ...]:
        """Like `next_dirty`, without waiting."""
        return self._dirty.take(limit)

    def follow_rollouts(self) -> Dirty:
        """A further reader, told of changed and deleted rollouts only; it starts with all that exist."""
        follower = Dirty()
        for key in self._objects:
            follower.mark(key)
        self._followers.append(follower)
        return follower
