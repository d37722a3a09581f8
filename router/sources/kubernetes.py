"""A cluster as a source: watches rollouts and what they name, and keeps every model in the Store as resolved.

```
 ModelRollouts ─┐                       ┌─► Store.put(model, rollout)
 routemaps ─────┼─► models to look at ──┤
 objects ───────┤      (by who asked)   └─► Store.place(model, sites, lingering)
 EndpointSlices ┘
```

Every replica does this. That the API server is away changes nothing: what was seen stays in force.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from router.cluster.backend import ModelMesh
from router.cluster.drain import FINALIZER, protectable
from router.cluster.endpoints import service_key
from router.cluster.objects import Object, mapping, mappings, part, text
from router.cluster.resolve import UNPROTECTED, References, Resolved, resolve, resolve_routemap
from router.cluster.resource import BUILT_IN, Reference, ResourceType
from router.cluster.routemap import KIND_LABEL, SUFFIX, is_routemap, routemap
from router.cluster.trim import WATCH_LABELS, labelled, slice_of_service, trimmed, whole_rollout
from router.hints import counted
from router.kube.client import Client, within
from router.kube.reflector import Reflector
from router.kube.road import Road
from router.kube.view import Resource
from router.manifests import Located, read
from router.problem import Problem
from router.schema import KIND, ModelRollout
from router.sources.parting import Partings
from router.store import Dirty, Store

log = logging.getLogger(__name__)

BEFORE = "~before"
"""Ends the name under which a version lingers that has moved on; no version can be called so."""
ROLLOUTS = "/apis/headgate.dev/v1alpha1/modelrollouts"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
CONFIGMAPS = "/api/v1/configmaps"
SERVICES = "/api/v1/services"
_ONLY_IF_CONFIGURED = ("vs", "httproute", "mr", "cm")
_NO_RIGHT = "give the control plane get, list and watch for them: see RBAC in docs/install.md"
RIGHTS_WITHIN = 30.0
"""Seconds at the start in which a right that models need may yet come: a role can be written after the Deployment."""
_SLICE = 0.002
"""Seconds of work after which others get a turn."""
_NO_CRD = Problem(
    "Kubernetes",
    "modelrollouts.headgate.dev",
    "the cluster does not know ModelRollouts",
    "install the CRD: kubectl apply -f deploy/crds",
    "warning",
)


@dataclass(frozen=True, slots=True)
class _Read:
    """A ModelRollout as last read, and what it was read from."""

    spec: Any
    metadata: tuple[Any, ...]
    result: ModelRollout | tuple[Problem, ...]


class Kubernetes:
    """A Source and a View. `namespace` empty: the whole cluster. Everything happens on the event loop's thread."""

    def __init__(
        self,
        client: Client,
        *,
        namespace: str = "",
        types: Mapping[str, ResourceType] = BUILT_IN,
        modelmesh: ModelMesh | None = None,
        watch_timeout: float = 60.0,
        on_status: Callable[[str, Mapping[str, Any]], bool] | None = None,
        rights_within: float = RIGHTS_WITHIN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.loaded = asyncio.Event()
        self.types = types
        self.modelmesh = modelmesh or ModelMesh()
        self.road = Road()
        self._namespace, self._rights_within = namespace, rights_within
        self._store = Store()  # replaced by `run`
        self._on_status = on_status
        """Told of every rollout's status as it is seen; returns whether the model must be looked at again."""
        self._dirty = Dirty()
        self._read: dict[str, _Read] = {}
        self._routemaps: defaultdict[str, set[str]] = defaultdict(set)  # ConfigMaps by model
        self._resolved: dict[str, Resolved] = {}
        self._former: dict[str, dict[str, tuple[Reference, ...]]] = {}  # versions that linger, or may
        self._rights_changed = asyncio.Event()
        self._partings = Partings(self._mark, self._deaf, clock)
        self._slices: defaultdict[str, dict[str, Object]] = defaultdict(dict)
        self._service_of: dict[str, str] = {}  # by slice
        self._asking: defaultdict[Reference, set[str]] = defaultdict(set)
        self._by_service: defaultdict[str, set[str]] = defaultdict(set)
        self._users: defaultdict[Reference, set[tuple[str, str]]] = defaultdict(set)
        self._resource_followers: list[Callable[[Reference], None]] = []
        self._rollout_followers: list[Callable[[str], None]] = []

        def watch(path: str, changed: Callable[[str, Object | None], None], **more: Any) -> Reflector[Object]:
            return Reflector(
                client,
                within(path, namespace),
                changed,
                road=self.road,
                watch_timeout=watch_timeout,
                on_refusal=lambda: self._refusal(path),
                **more,
            )

        self._rollouts = watch(ROLLOUTS, self._rollout_changed, keep=whole_rollout)
        cm = BUILT_IN["cm"]
        self._maps = watch(CONFIGMAPS, self._routemap_changed, keep=_routemap_only, labels=f"{KIND_LABEL}=routemap")
        self._configs = [
            watch(CONFIGMAPS, self._changed(cm), keep=trimmed(cm), labels=f"{label}=true") for label in WATCH_LABELS
        ]
        self._objects: dict[str, Reflector[Object]] = {}
        self._shorts: dict[str, str] = {}
        for short, kind in types.items():
            configured = kind != BUILT_IN.get(short)
            if kind.url_path not in self._objects and (configured or short not in _ONLY_IF_CONFIGURED):
                self._shorts[kind.url_path] = short
                self._objects[kind.url_path] = watch(kind.url_path, self._changed(kind), keep=trimmed(kind))
        self._endpoints = watch(SLICES, self._slice_changed, keep=slice_of_service)

    # As a Source

    async def run(self, store: Store) -> None:
        """Follow the cluster; `loaded` once everything that exists is in the Store."""
        self._store = store
        async with asyncio.TaskGroup() as group:
            for one in self.reflectors:
                group.create_task(one.run(), name=one.path)
            group.create_task(self._work())
            group.create_task(self._partings.run())

    @property
    def reflectors(self) -> tuple[Reflector[Object], ...]:
        return (self._rollouts, self._maps, *self._configs, *self._objects.values(), self._endpoints)

    @property
    def trouble(self) -> str | None:
        """Why the cluster is not being followed now, in the API server's words; None while it is."""
        if self.road.trouble:
            return self.road.trouble
        ill = [one for one in self.reflectors if one.trouble and not one.refused]
        return f"{ill[0].path}: {ill[0].trouble}" if ill else None

    async def _work(self) -> None:
        for one in self.reflectors:
            await one.answered.wait()
        await self._seen(lambda: (self._rollouts, self._endpoints))
        self._dirty.take()  # marked by the lists, in their order, which is nobody's age
        for model in sorted(self._models(), key=self._age):
            self._dirty.mark(model)
        log.info("%s in the cluster", counted(len(self._models()), "model"))
        patient = True
        while True:
            slice_ends = time.perf_counter() + _SLICE
            while (more := self._dirty.take(1)) and time.perf_counter() < slice_ends:
                self._look(more[0])
            for model in more:
                self._look(model)
            if patient and not len(self._dirty):
                patient = False
                await self._rights()
            elif not len(self._dirty):
                self.loaded.set()
                for model in await self._dirty.next(1):
                    self._look(model)
            else:
                await asyncio.sleep(0)

    async def _rights(self) -> None:
        """Wait for kinds that models consist of and that may not be watched; not for ever, for others' sake.

        What was never seen would be taken away from the Envoys that still have it from before.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._rights_within):
                await self._seen(lambda: (self._objects[path] for path in self._needed()))

    async def _seen(self, wanted: Callable[[], Iterable[Reflector[Object]]]) -> None:
        """Return when none of these is hidden from us."""
        told = False
        while hidden := [one.path for one in wanted() if _hidden(one)]:
            if not told:
                log.warning("Envoys may not connect yet: no right to watch %s, which models need", ", ".join(hidden))
            told = True
            self._rights_changed.clear()
            await self._rights_changed.wait()

    def _needed(self) -> list[str]:
        """The URL paths of the kinds that some model consists of."""
        kinds = {self.types.get(one.short) for one in self._asking}
        return sorted({kind.url_path for kind in kinds if kind is not None} & self._objects.keys())

    def _models(self) -> set[str]:
        return {*self._rollouts.objects, *(name for name, maps in self._routemaps.items() if maps)}

    def _age(self, model: str) -> tuple[bool, str, str]:
        """Who claims a host first after a restart: who had it before, then who is older, on every replica alike."""
        maps = self._routemaps.get(model, ())
        obj = self._rollouts.objects.get(model) or self._maps.objects.get(min(maps, default=""), {})
        refused = any(
            text(one, "type") == "Accepted" and text(one, "status") == "False"
            for one in mappings(obj, "status", "conditions")
        )
        return refused, text(obj, "metadata", "creationTimestamp"), model

    def _refusal(self, path: str) -> None:
        """We may no longer watch something, or may again: that is told, also to the models that consist of it."""
        self._rights_changed.set()
        found = [
            Problem("Kubernetes", one.path, "may not be watched; what was seen of them stays in force", _NO_RIGHT)
            for one in self.reflectors
            if one.refused == 403
        ]
        missing = [_NO_CRD] if self._rollouts.refused == 404 else []
        self._store.report("kubernetes", dict.fromkeys((*missing, *found)))
        for one, models in self._asking.items():
            kind = self.types.get(one.short)
            if kind is not None and kind.url_path == path:
                for model in models:
                    self._mark(model)

    def _unseen(self, found: Resolved, where: str) -> Iterator[Problem]:
        """What the model consists of and we may not watch."""
        paths = {kind.url_path for one in found.asked if (kind := self.types.get(one.short)) is not None}
        for path in sorted(paths & self._objects.keys()):
            if self._objects[path].refused == 403:
                yield Problem(where, path, self._blindness(path), _NO_RIGHT)

    def _blindness(self, path: str) -> str:
        if _hidden(self._objects[path]):
            return "may not be watched; versions are judged by their addresses, where these can be found without them"
        return "may not be watched; what was seen of them stays in force"

    # What changes

    def _rollout_changed(self, key: str, obj: Object | None) -> None:
        if obj is not None and self._on_status is not None and self._on_status(key, mapping(obj, "status")):
            self._store.mark(key)
        self._mark(key)
        for follower in self._rollout_followers:
            follower(key)

    def _routemap_changed(self, key: str, obj: Object | None) -> None:
        model = _model_of(key)
        if obj is None:
            _discard(self._routemaps, model, key)
        else:
            self._routemaps[model].add(key)
        self._mark(model)
        for follower in self._rollout_followers:
            follower(model)

    def _changed(self, kind: ResourceType) -> Callable[[str, Object | None], None]:
        def changed(key: str, obj: Object | None) -> None:
            namespace, _, name = key.rpartition("/")
            own = self._own(Reference(kind.short, name, namespace))
            for model in tuple(self._asking.get(own, ())):
                self._mark(model)
            self._tell_resource(own)

        return changed

    def _slice_changed(self, key: str, obj: Object | None) -> None:
        before, now = self._service_of.pop(key, None), service_key(obj) if obj is not None else None
        if before is not None and before != now:
            del self._slices[before][key]
            if not self._slices[before]:
                del self._slices[before]
        if now is not None and obj is not None:
            self._slices[now][key] = obj
            self._service_of[key] = now
        for service in {before, now} - {None}:
            for model in tuple(self._by_service.get(service or "", ())):
                self._mark(model)

    def _mark(self, model: str) -> None:
        self._dirty.mark(model)

    # One model

    def _look(self, model: str) -> None:
        """Bring one model in the Store up to date. Never raises: one model's oddity is its own."""
        try:
            self._resolve(model)
        except Exception as error:
            log.exception("%s: cannot be resolved; what was known of it stays", model)
            what = f"cannot be resolved: {type(error).__name__}: {error}"
            self._store.report(f"model {model}", [Problem(model, "", what, "this is a defect of headgate")], [model])

    def _resolve(self, model: str) -> None:
        obj, maps = self._rollouts.objects.get(model), sorted(self._routemaps.get(model, ()))
        if obj is None:
            self._read.pop(model, None)
        if obj is None and not maps:
            self._gone(model)
            return
        found, where, problems = self._from_rollout(model, obj) if obj else self._from_routemap(maps[0])
        losers = maps if obj else maps[1:]
        winner = f"{KIND} {model}" if obj else f"ConfigMap {maps[0]}"
        problems += tuple(
            Problem(f"ConfigMap {one}", "", f"is not used: {winner} describes {model} already", "remove one", "warning")
            for one in losers
        )
        if found is not None:
            problems += tuple(self._unseen(found, where))
        self._store.report(f"model {model}", problems, [model])
        if found is None:
            return  # what was good before stays in force
        found = self._with_last_addresses(model, found)
        self._note(model, found)
        self._store.put(model, Located(found.rollout, where))
        self._store.place(model, found.sites, self._lingering(model))

    def _from_rollout(self, model: str, obj: Object) -> tuple[Resolved | None, str, tuple[Problem, ...]]:
        where = f"{KIND} {model}"
        wanted = self._parsed(model, obj, where)
        if isinstance(wanted, tuple):
            return None, where, wanted
        found = resolve(wanted, self)
        return found, where, found.problems

    def _from_routemap(self, key: str) -> tuple[Resolved | None, str, tuple[Problem, ...]]:
        where = f"ConfigMap {key}"
        wanted, problems = routemap(self._maps.objects[key], cluster_scoped=not self._namespace, types=self.types)
        if wanted is None:
            return None, where, problems
        found, faults = resolve_routemap(wanted, self)
        return found, where, (*problems, *faults, *(found.problems if found else ()))

    def _parsed(self, model: str, obj: Object, where: str) -> ModelRollout | tuple[Problem, ...]:
        """Read anew only when it may read differently: its own status changes more often than it does."""
        spec, meta = obj.get("spec"), mapping(obj, "metadata")
        about = (meta.get("generation"), meta.get("labels"), meta.get("annotations"), meta.get("uid"))
        known = self._read.get(model)
        if known is None or known.spec != spec or known.metadata != about:
            known = self._read[model] = _Read(spec, about, read(obj, where))
        return known.result

    def _gone(self, model: str) -> None:
        self._store.report(f"model {model}", ())
        known = self._resolved.get(model)
        if known is not None:
            self._part(model, known.resources)
            self._forget(model, known)
            del self._resolved[model]
        lingering = self._lingering(model)
        self._store.drop(model)
        self._store.place(model, {}, lingering)

    def _note(self, model: str, found: Resolved) -> None:
        """Remember who asked for what, and which versions have gone from the rollout."""
        known = self._resolved.get(model)
        if known is not None and known.resources != found.resources:
            gone = {name: listed for name, listed in known.resources.items() if name not in found.resources}
            self._part(model, gone)
            self._part(model, self._left_behind(known.resources, found.resources))
        former = self._former.get(model, {})
        for name in [name for name in former if name in found.resources]:
            self._drop_former(model, name)
        if known is not None and (known.asked, known.services, known.resources) == (
            found.asked,
            found.services,
            found.resources,
        ):
            self._resolved[model] = found
            return
        if known is not None:
            self._forget(model, known)
        self._resolved[model] = found
        for one in found.asked:
            self._asking[self._own(one)].add(model)
        for service in found.services:
            self._by_service[service].add(model)
        for version, own in self._protectable(found.resources):
            self._users[own].add((model, version))
            self._tell_resource(own)

    def _forget(self, model: str, known: Resolved) -> None:
        for one in known.asked:
            _discard(self._asking, self._own(one), model)
        for service in known.services:
            _discard(self._by_service, service, model)
        for version, own in self._protectable(known.resources):
            _discard(self._users, own, (model, version))
            self._tell_resource(own)
        self._remember_former(model)

    def _with_last_addresses(self, model: str, found: Resolved) -> Resolved:
        """A protected version without traffic keeps the addresses that it had: Envoy counts requests by address.

        Somebody who deletes its Service or EndpointSlices first would make it look idle. Not while it may be all that
        is left of the model: addresses that nobody vouches for must get no requests.
        """
        known = self._resolved.get(model)
        others = any(site.ready for site in found.sites.values())
        kept = {}
        for name, site in found.sites.items():
            before = known.sites.get(name) if known is not None else None
            bare = not site.ready and not site.endpoints and before is not None and before.endpoints
            protected = any(self._drains(self._own(one)) for one in found.resources[name])
            if bare and before is not None and protected and others:
                kept[name] = replace(site, endpoints=before.endpoints, dns=before.dns)
        return replace(found, sites={**found.sites, **kept}) if kept else found

    def _left_behind(self, before: References, now: References) -> References:
        """What versions consisted of that moved on to other resources, under names of their own.

        Such a resource may go as soon as every Envoy knows the version's new addresses.
        """
        left = {}
        for version, listed in before.items():
            kept = {self._own(one) for one in now.get(version, listed)}
            if away := tuple(one for one in listed if self._own(one) not in kept):
                left[f"{version}{BEFORE}"] = away
        return left

    def _part(self, model: str, gone: References) -> None:
        """Versions that are no longer wanted linger while something of them still carries our finalizer, or may."""
        for version, listed in gone.items():
            owned = [self._own(one) for one in listed]
            protected = any(map(self._drains, owned))
            if protected or any(map(self._may_drain, owned)):
                known = self._former.setdefault(model, {}).get(version, ())
                self._former[model][version] = tuple(dict.fromkeys((*known, *listed)))
                if not protected:
                    self._partings.begin(model, version)

    def _remember_former(self, model: str) -> None:
        former = self._former.get(model, {})
        for listed in former.values():
            for one in listed:
                self._asking[self._own(one)].add(model)
        for version, own in self._protectable(former):
            self._users[own].add((model, version))

    def _drop_former(self, model: str, version: str) -> None:
        listed = self._former[model].pop(version, ())
        self._partings.forget(model, version)
        if not self._former[model]:
            del self._former[model]
        present = self._resolved.get(model)
        asked = {self._own(one) for one in present.asked} if present else set()
        for own in map(self._own, listed):
            if present is None or version not in present.resources:
                _discard(self._users, own, (model, version))
            if own not in asked:
                _discard(self._asking, own, model)
            self._tell_resource(own)
        self._remember_former(model)  # others may linger by the same resource

    def _lingering(self, model: str) -> frozenset[str]:
        """Which versions linger. What a present version consists of as well keeps its finalizer for that one's sake:
        waiting for it, a version that was renamed would linger for ever."""
        present = self._resolved.get(model)
        kept = {self._own(one) for listed in present.resources.values() for one in listed} if present else set()
        for version, listed in tuple(self._former.get(model, {}).items()):
            owned = [own for own in map(self._own, listed) if own not in kept]
            if any(map(self._drains, owned)):
                self._partings.forget(model, version)
            elif not (self._partings.undecided(model, version) and any(map(self._may_drain, owned))):
                self._drop_former(model, version)
        return frozenset(self._former.get(model, ()))

    def _drains(self, own: Reference) -> bool:
        return FINALIZER in (part(self.find(own), "metadata", "finalizers") or ())

    def _may_drain(self, own: Reference) -> bool:
        """Whether our finalizer may be on it by now, though it was not when it was last seen."""
        kind, obj = self.types.get(own.short), self.find(own)
        if kind is None or obj is None or own.short in UNPROTECTED or not protectable(kind):
            return False
        return labelled(obj) and not text(obj, "metadata", "deletionTimestamp")

    def _deaf(self, model: str, version: str) -> bool:
        """Whether something that a version consisted of is not being followed now."""
        kinds = (self.types.get(own.short) for own in map(self._own, self._former.get(model, {}).get(version, ())))
        watches = (self._objects.get(kind.url_path) for kind in kinds if kind is not None)
        return any(one is not None and one.trouble and not one.refused for one in watches)

    def _protectable(self, resources: References) -> Iterator[tuple[str, Reference]]:
        return (
            (version, self._own(one))
            for version, listed in resources.items()
            for one in listed
            if one.short not in UNPROTECTED
        )

    def _tell_resource(self, own: Reference) -> None:
        if own.short not in UNPROTECTED:
            for follower in self._resource_followers:
                follower(own)

    # What the resolver asks (resolve.Cluster)

    def find(self, reference: Reference) -> Object | None:
        key = f"{reference.namespace}/{reference.name}"
        if reference.short == "cm" and self.types.get("cm") == BUILT_IN["cm"]:
            return next((obj for one in self._configs if (obj := one.objects.get(key)) is not None), None)
        kind = self.types.get(reference.short)
        reflector = self._objects.get(kind.url_path) if kind else None
        return reflector.objects.get(key) if reflector else None

    def slices(self, service: str) -> Iterable[Object]:
        return self._slices.get(service, {}).values()

    def unseen(self, reference: Reference) -> bool:
        kind = self.types.get(reference.short)
        reflector = self._objects.get(kind.url_path) if kind else None
        return reflector is not None and _hidden(reflector)

    def watches(self, namespace: str) -> bool:
        return not self._namespace or namespace == self._namespace

    def _own(self, reference: Reference) -> Reference:
        """The one name of an object that several short names lead to, without a part of it."""
        kind = self.types.get(reference.short)
        short = self._shorts.get(kind.url_path, reference.short) if kind else reference.short
        return Reference(short, reference.name, reference.namespace)

    # As a View

    def rollout(self, model: str) -> Mapping[str, Any] | None:
        return self._rollouts.objects.get(model)

    def routemap(self, model: str) -> Mapping[str, Any] | None:
        maps = self._routemaps.get(model)
        return self._maps.objects.get(min(maps)) if maps and model not in self._rollouts.objects else None

    def resource(self, reference: Reference) -> Resource | None:
        own = self._own(reference)
        kind, obj = self.types.get(own.short), self.find(own)
        if kind is None or obj is None:
            return None
        path = within(kind.url_path, own.namespace)
        return Resource(
            reference=own,
            api_version=kind.api_version,
            kind=kind.kind or kind.short,
            path=f"{path}/{own.name}",
            uid=text(obj, "metadata", "uid"),
            revision=self._objects[kind.url_path].revision(f"{own.namespace}/{own.name}"),
            finalizers=tuple(part(obj, "metadata", "finalizers") or ()),
            labelled=labelled(obj),
            deleted_at=text(obj, "metadata", "deletionTimestamp"),
        )

    def resources(self) -> Iterator[Resource]:
        for path, reflector in self._objects.items():
            for key, obj in tuple(reflector.objects.items()):
                namespace, _, name = key.rpartition("/")
                own = Reference(self._shorts[path], name, namespace)
                if own in self._users or FINALIZER in (part(obj, "metadata", "finalizers") or ()):
                    found = self.resource(own)
                    if found is not None:
                        yield found

    def users(self, reference: Reference) -> frozenset[tuple[str, str]]:
        return frozenset(self._users.get(self._own(reference), ()))

    def references(self, model: str) -> References:
        found = self._resolved.get(model)
        return found.resources if found else {}

    def follow_resources(self, changed: Callable[[Reference], None]) -> None:
        self._resource_followers.append(changed)
        for one in self.resources():
            changed(one.reference)

    def follow_rollouts(self, changed: Callable[[str], None]) -> None:
        self._rollout_followers.append(changed)
        for model in self._models():
            changed(model)


def _hidden(reflector: Reflector[Object]) -> bool:
    """We may not see it, and never did."""
    return reflector.refused == 403 and not reflector.synced.is_set()


def _model_of(routemap_key: str) -> str:
    """A routemap is called after its application, as in router/cluster/routemap.py."""
    namespace, _, name = routemap_key.partition("/")
    return f"{namespace}/{name.removesuffix(SUFFIX) or name}"


def _routemap_only(obj: dict[str, Any]) -> Object | None:
    if not is_routemap(obj):
        return None
    meta = mapping(obj, "metadata")
    kept = {key: meta[key] for key in ("name", "namespace", "uid", "labels", "creationTimestamp") if key in meta}
    return {"metadata": kept, "data": obj.get("data")}


def _discard(index: defaultdict[Any, set[Any]], key: Any, value: Any) -> None:
    held = index.get(key)
    if held is not None:
        held.discard(value)
        if not held:
            del index[key]
