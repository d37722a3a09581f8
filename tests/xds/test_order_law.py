"""The law of the stream, for any history: at no moment can a request meet a cluster that is not there.

A simulated Envoy takes responses at once, but its ACKs and follow-up subscriptions arrive late and in any order between
types, as on a real wire. Models appear, change, share clusters, lose endpoints, swap hosts and vanish meanwhile; Envoy
rejects what it does not like, in part or altogether; streams break, and control planes forget everything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from hypothesis import given, settings
from hypothesis import strategies as st

from xds.cache import Cache
from xds.delta import DeltaStream
from xds.resources import Resource, Resources, Type
from xds.sotw import SotwStream
from xds.stream import GATE_DEADLINE, LONGEST_REST, STATE_OF_WORLD, Stream
from xds.wire import Framed, Node, Request

MODELS = ("a", "b", "c")
VERSIONS = ("v1", "v2", "shared")
HOSTS = ("a.test", "b.test")


def cluster_of(model: str, version: str) -> str:
    return version if version == "shared" else f"{model}/{version}"


def made(name: str, value: str, **more: object) -> Resource:
    return Resource.of(name, f"{name}={value}".encode(), **more)  # type: ignore[arg-type]


def model(name: str, present: frozenset[str], routed: frozenset[str], value: int, host: str) -> Resources:
    """`present` versions have a cluster, `routed` ones endpoints and traffic; a shared server always has endpoints."""
    routed = (routed & present) or frozenset((min(present),))
    clusters = {cluster_of(name, v): v in routed or v == "shared" for v in present}
    refs = tuple(sorted(cluster_of(name, v) for v in routed))
    return {
        Type.CLUSTER: {c: made(c, "c" if c == "shared" else f"c{value // 2}") for c in clusters},
        Type.ENDPOINT: {c: made(c, str(full), late=not full) for c, full in clusters.items()},
        Type.SCOPE: {host: made(host, name, refs=(name,))},
        Type.ROUTE: {name: made(name, f"{value}{refs}", refs=refs)},
    }


@dataclass(frozen=True)
class Taste:
    """What this Envoy rejects: one (name, version) in `dislikes`, by hash, of clusters, scopes and routes."""

    dislikes: int = 0
    seed: int = 0
    partial: bool = False
    """A rejected response is applied but for the bad resources, instead of not at all."""

    def refuses(self, kind: Type, resource: Resource) -> bool:
        if not self.dislikes or kind is Type.ENDPOINT:
            return False
        told = f"{self.seed} {kind} {resource.name} {resource.version}".encode()
        return blake2b(told, digest_size=2).digest()[0] % self.dislikes == 0


class Recorder:
    """Stands in for the framer: what a response says, as values. Equal content has an equal nonce, as there."""

    def __init__(self) -> None:
        self.said: list[tuple[Sequence[Resource], Sequence[str]]] = []
        self.nonces: dict[object, str] = {}
        self.spoken = 0

    def delta(self, kind: str, sent: Sequence[Resource], removed: Sequence[str]) -> Framed:
        self.said.append((tuple(sent), removed))
        return self._framed(kind, tuple(sent), tuple(removed))

    def sotw(self, kind: str, version: str, sent: Sequence[Resource]) -> Framed:
        self.said.append((tuple(sent), ()))
        return self._framed(kind, tuple(sent), ())

    def _framed(self, *content: object) -> Framed:
        self.spoken += 1
        return Framed(self.nonces.setdefault(content, f"n{len(self.nonces)}"), b"")


class SlowEnvoy:
    """Applies what it gets at once; its words travel per type, in order, when the test lets them."""

    def __init__(self, cache: Cache, variant: type[Stream], taste: Taste) -> None:
        self.variant, self.taste = variant, taste
        self.has: dict[Type, dict[str, Resource]] = {kind: {} for kind in Type}
        self.asked: dict[Type, set[str]] = {Type.ENDPOINT: set(), Type.ROUTE: set()}
        self.now = 0.0
        self.connect(cache)

    def connect(self, cache: Cache) -> None:
        """A new stream, on which the first requests tell what is kept from earlier ones."""
        self.cache = cache
        self.words: dict[Type, deque[Request]] = {kind: deque() for kind in Type}
        self.stream: Stream = self.variant(cache)
        self.recorder = Recorder()
        self.stream._framer = self.recorder  # type: ignore[assignment]
        cache.watch(self.stream)
        for kind in (Type.CLUSTER, Type.SCOPE, Type.ENDPOINT, Type.ROUTE):
            names = self.asked.get(kind)
            if names is not None and not names:
                continue  # asked for when there is something to ask for
            kept = {name: resource.version for name, resource in self.has[kind].items()}
            self.say(kind, subscribe=tuple(sorted(names or ())), initial_versions=kept)
        self.speak(Type.CLUSTER)  # always the first on a real stream

    def drop(self) -> None:
        self.cache.unwatch(self.stream)

    def say(self, kind: Type, **fields: object) -> None:
        if self.variant is SotwStream:
            fields = {name: value for name, value in fields.items() if name in ("nonce", "error")}
            fields["names"] = tuple(sorted(self.asked.get(kind, ())))
        self.words[kind].append(Request(str(kind), node=Node("e", "g"), **fields))  # type: ignore[arg-type]

    def hear(self) -> None:
        self.recorder.said.clear()
        responses = self.stream.due(self.now)
        for response, (sent, removed) in zip(responses, list(self.recorder.said), strict=True):
            kind, nonce = response.type, response.nonce
            held = self.has[kind]
            if self.variant is SotwStream and kind in STATE_OF_WORLD:
                removed = sorted(held.keys() - {resource.name for resource in sent})
            bad = {resource.name for resource in sent if self.taste.refuses(kind, resource)}
            if bad and not self.taste.partial:
                sent, removed = [], []
            for name in removed:
                held.pop(name, None)
            for resource in sent:
                if resource.name not in bad and resource.name in self.asked.get(kind, (resource.name,)):
                    held[resource.name] = resource
            self.say(kind, nonce=nonce, error="no" if bad else None)
            self.check()
        self.follow()

    def follow(self) -> None:
        clusters, routes = set(self.has[Type.CLUSTER]), {r for s in self.has[Type.SCOPE].values() for r in s.refs}
        for kind, wanted in ((Type.ENDPOINT, clusters), (Type.ROUTE, routes)):
            fresh, gone = wanted - self.asked[kind], self.asked[kind] - wanted
            self.asked[kind] = wanted
            for name in gone:
                self.has[kind].pop(name, None)
            if fresh or gone:
                nonce = self.stream.subscriptions[kind].nonce if kind in self.stream.subscriptions else ""
                pending = {} if self.variant is DeltaStream else {"nonce": nonce}
                self.say(kind, subscribe=tuple(sorted(fresh)), unsubscribe=tuple(sorted(gone)), **pending)

    def speak(self, kind: Type) -> None:
        if self.words[kind]:
            self.stream.receive(self.words[kind].popleft(), self.now)

    def check(self) -> None:
        for host, scope in self.has[Type.SCOPE].items():
            for ref in scope.refs:
                route = self.has[Type.ROUTE].get(ref)
                for cluster in route.refs if route is not None else ():
                    assert cluster in self.has[Type.CLUSTER], f"{host} leads to {cluster}, which is gone"
                    endpoints = self.has[Type.ENDPOINT].get(cluster)
                    assert endpoints is not None, f"{host} leads to {cluster}, which is still warming"
                    assert not endpoints.late, f"{host} leads to {cluster}, which has no endpoints"


class World:
    """A control plane that may be restarted, and one Envoy."""

    def __init__(self, variant: type[Stream], taste: Taste) -> None:
        self.models: dict[str, Resources] = {}
        self.cache = Cache()
        self.envoy = SlowEnvoy(self.cache, variant, taste)

    def apply(self, name: str, resources: Resources) -> None:
        hosts = resources[Type.SCOPE].keys()
        for other, one in list(self.models.items()):  # the router gives a host to one model at a time
            if other != name and one[Type.SCOPE].keys() & hosts:
                self.take_hosts(other)
        self.models[name] = resources
        self.cache.apply(name, resources)
        for other in [o for o, one in self.models.items() if not one[Type.SCOPE]]:
            self.remove(other)

    def take_hosts(self, name: str) -> None:
        self.models[name] = {**self.models[name], Type.SCOPE: {}}

    def remove(self, name: str) -> None:
        self.models.pop(name, None)
        self.cache.remove(name)

    def talk(self) -> None:
        """A while without changes, in which much gets said."""
        for _ in range(4):
            for kind in Type:
                self.envoy.speak(kind)
                self.envoy.hear()

    def reconnect(self) -> None:
        self.envoy.drop()
        self.envoy.connect(self.cache)

    def restart(self) -> None:
        self.cache = Cache()
        for name, resources in self.models.items():
            self.cache.apply(name, resources)
        self.envoy.drop()
        self.envoy.connect(self.cache)

    def settle(self) -> None:
        """Let everything be said, a bounded number of times; gates may time out when nothing else is to happen."""
        envoy, quiet = self.envoy, 0
        for _ in range(400):
            before = envoy.recorder.spoken
            for kind in Type:
                envoy.speak(kind)
                envoy.hear()
            if any(envoy.words.values()) or envoy.recorder.spoken != before:
                continue
            quiet += 1
            if quiet > 3 or not (envoy.stream.lagging() or envoy.stream.is_due()):
                return
            envoy.now += GATE_DEADLINE + LONGEST_REST
            envoy.hear()
        raise AssertionError(f"it never ends: {envoy.stream.lagging()}")


Step = Callable[[World], None]


def changing(name: str, present: frozenset[str], routed: frozenset[str], value: int, host: str) -> Step:
    return lambda world: world.apply(name, model(name, present, routed, value, host))


versions = st.frozensets(st.sampled_from(VERSIONS), min_size=1)
changes = st.builds(changing, st.sampled_from(MODELS), versions, versions, st.integers(0, 3), st.sampled_from(HOSTS))
removals = st.builds(lambda name: lambda world: world.remove(name), st.sampled_from(MODELS))
types = st.sampled_from((Type.CLUSTER, Type.ENDPOINT, Type.SCOPE, Type.ROUTE))
words = st.builds(lambda kind: lambda world: world.envoy.speak(kind), types)
talks = st.just(World.talk)
breaks = st.sampled_from((World.reconnect, World.restart))
tastes = st.builds(Taste, st.sampled_from((0, 0, 2, 4)), st.integers(0, 99), st.booleans())
steps = st.one_of(changes, changes, talks, talks, removals, words, words, words)
steps_and_breaks = st.one_of(changes, changes, talks, talks, removals, words, words, words, breaks)


def live(history: list[Step], variant: type[Stream], taste: Taste) -> World:
    world = World(variant, taste)
    for step in history:
        step(world)
        world.envoy.hear()
    world.settle()
    if not taste.dislikes:
        envoy, cache = world.envoy, world.cache
        for kind in (Type.CLUSTER, Type.SCOPE):
            wanted = {resource.name: resource for resource in cache.all(kind)}
            assert envoy.has[kind] == wanted, "in the end the client has exactly what it should"
        for kind, names in envoy.asked.items():
            assert envoy.has[kind] == {name: cache.get(kind, name) for name in names}
        assert envoy.stream.lagging() == {}
    return world


@settings(max_examples=160, deadline=None)
@given(st.lists(steps_and_breaks, min_size=12, max_size=50), tastes)
def test_no_route_ever_leads_to_a_cluster_that_is_not_ready(history: list[Step], taste: Taste) -> None:
    live(history, DeltaStream, taste)


@settings(max_examples=140, deadline=None)
@given(st.lists(steps, min_size=12, max_size=50), tastes)
def test_the_law_holds_for_the_state_of_the_world_too(history: list[Step], taste: Taste) -> None:
    live(history, SotwStream, taste)
