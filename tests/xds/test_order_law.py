"""The law of the stream, for any history: at no moment can a request meet a cluster that is not there.

A simulated Envoy takes responses at once, but its ACKs and follow-up subscriptions arrive late and in any order between
types, as on a real wire. Models appear, change, share clusters, lose endpoints, swap hosts and vanish meanwhile.
"""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from xds.cache import Cache
from xds.delta import DeltaStream
from xds.resources import Resource, Resources, Type
from xds.stream import GATE_DEADLINE, Stream
from xds.wire import Node, Request

MODELS = ("a", "b", "c")
VERSIONS = ("v1", "v2", "shared")


def cluster_of(model: str, version: str) -> str:
    return version if version == "shared" else f"{model}/{version}"


def made(name: str, value: str, **more: object) -> Resource:
    return Resource.of(name, f"{name}={value}".encode(), **more)  # type: ignore[arg-type]


def model(name: str, present: frozenset[str], routed: frozenset[str], weight: int, host: str) -> Resources:
    """`present` versions have a cluster, `routed` ones endpoints and traffic; a shared server always has endpoints."""
    routed = (routed & present) or frozenset((min(present),))
    clusters = {cluster_of(name, v): v in routed or v == "shared" for v in present}
    refs = tuple(sorted(cluster_of(name, v) for v in routed))
    return {
        Type.CLUSTER: {c: made(c, "c") for c in clusters},
        Type.ENDPOINT: {c: made(c, str(full), late=not full) for c, full in clusters.items()},
        Type.SCOPE: {host: made(host, name, refs=(name,))},
        Type.ROUTE: {name: made(name, f"{weight}{refs}", refs=refs)},
    }


class SlowEnvoy:
    """Applies what it gets at once; its words travel per type, in order, when the test lets them."""

    def __init__(self, cache: Cache) -> None:
        self.stream: Stream = DeltaStream(cache)
        cache.watch(self.stream)
        self.has: dict[Type, dict[str, Resource]] = {kind: {} for kind in Type}
        self.words: dict[Type, deque[Request]] = {kind: deque() for kind in Type}
        self.asked: dict[Type, set[str]] = {Type.ENDPOINT: set(), Type.ROUTE: set()}
        self.now = 0.0
        self.say(Type.CLUSTER)
        self.speak(Type.CLUSTER)  # always the first on a real stream
        self.say(Type.SCOPE)

    def say(self, kind: Type, **fields: object) -> None:
        self.words[kind].append(Request(str(kind), node=Node("e", "g"), **fields))  # type: ignore[arg-type]

    def hear(self, cache: Cache) -> None:
        for response in self.stream.due(self.now):
            kind, held = response.type, self.has[response.type]
            for name in response.names:
                # What was sent is what the stream believes to be held; bytes are checked elsewhere.
                resource = self.stream.subscriptions[kind].held.get(name)
                if resource is None or name not in self.asked.get(kind, (name,)):  # it let go of this one meanwhile
                    held.pop(name, None)
                else:
                    held[name] = resource
            self.say(kind, nonce=response.nonce)
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
                self.say(kind, subscribe=tuple(sorted(fresh)), unsubscribe=tuple(sorted(gone)))

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


versions = st.frozensets(st.sampled_from(VERSIONS), min_size=1)
applied = st.builds(
    lambda name, present, routed, weight: (name, model(name, present, routed, weight, f"{name}.test")),
    st.sampled_from(MODELS),
    versions,
    versions,
    st.integers(0, 2),
)
steps = st.lists(
    st.one_of(applied, st.sampled_from(MODELS).map(lambda name: (name, None)), st.sampled_from(list(Type))), max_size=60
)


@settings(max_examples=400, deadline=None)
@given(steps)
def test_no_route_ever_leads_to_a_cluster_that_is_not_ready(history: list[object]) -> None:
    cache = Cache()
    envoy = SlowEnvoy(cache)
    for step in history:
        if isinstance(step, Type):
            envoy.speak(step)
        elif isinstance(step, tuple):
            name, resources = step
            if resources is None:
                cache.remove(name)
            else:
                cache.apply(name, resources)
        envoy.hear(cache)
    settle(envoy, cache)
    for kind in (Type.CLUSTER, Type.SCOPE):
        wanted = {resource.name: resource for resource in cache.all(kind)}
        assert envoy.has[kind] == wanted, "in the end the client has exactly what it should"
    for kind, names in envoy.asked.items():
        assert envoy.has[kind] == {name: cache.get(kind, name) for name in names}
    assert envoy.stream.lagging() == {}


def settle(envoy: SlowEnvoy, cache: Cache) -> None:
    """Let everything be said, a bounded number of times; gates may time out when nothing else is left to happen."""
    for _ in range(100):
        for kind in Type:
            envoy.speak(kind)
            envoy.hear(cache)
        if not any(envoy.words.values()):
            if not envoy.stream.lagging():
                return
            envoy.now += GATE_DEADLINE
            envoy.hear(cache)
    raise AssertionError(f"it never ends: {envoy.stream.lagging()}")
