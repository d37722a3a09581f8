"""Transcripts of both xDS variants: what is sent, when, and above all what is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from xds.cache import Cache
from xds.delta import DeltaStream
from xds.resources import Resource, Resources, Type
from xds.sotw import SotwStream
from xds.stream import GATE_DEADLINE, Refused, Stream
from xds.wire import Node, Request

NODE = Node("envoy-1", "default")


def made(name: str, value: str = "1", **more: Any) -> Resource:
    return Resource.of(name, f"{name}={value}".encode(), **more)


def model(name: str, *versions: str, route: str = "1", late: bool = False) -> Resources:
    """A model with a cluster per version, its endpoints, a route to all of them and one scope."""
    clusters = [f"{name}/{version}" for version in versions]
    return {
        Type.CLUSTER: {c: made(c) for c in clusters},
        Type.ENDPOINT: {c: made(c, "late" if late else "e", late=late) for c in clusters},
        Type.SCOPE: {f"{name}.test": made(f"{name}.test", name, refs=(name,))},
        Type.ROUTE: {name: made(name, route + ",".join(versions), refs=tuple(clusters))},
    }


class Client:
    """Drives a Stream as an Envoy would, by hand."""

    def __init__(self, cache: Cache, variant: type[Stream] = DeltaStream) -> None:
        self.stream = variant(cache)
        self.now = 100.0
        cache.watch(self.stream)
        self._nonces: dict[Type, str] = {}

    def ask(self, kind: Type, **fields: Any) -> list[tuple[Type, tuple[str, ...]]]:
        fields.setdefault("nonce", "")
        self.stream.receive(Request(str(kind), node=NODE, **fields), self.now)
        return self.due()

    def due(self) -> list[tuple[Type, tuple[str, ...]]]:
        responses = self.stream.due(self.now)
        for response in responses:
            self._nonces[response.type] = response.nonce
            self.last = response
        return [(response.type, response.names) for response in responses]

    def ack(self, kind: Type, **fields: Any) -> list[tuple[Type, tuple[str, ...]]]:
        return self.ask(kind, nonce=self._nonces[kind], **fields)

    def nack(self, kind: Type, words: str = "no", **fields: Any) -> list[tuple[Type, tuple[str, ...]]]:
        return self.ask(kind, nonce=self._nonces[kind], error=words, **fields)

    def settle(self, *due: tuple[Type, tuple[str, ...]]) -> list[tuple[Type, tuple[str, ...]]]:
        """Do what a healthy Envoy does until nothing is due: ACK all, follow references. Returns all that was sent."""
        seen: list[tuple[Type, tuple[str, ...]]] = []
        todo = [*due, *self.due()]
        while todo:
            seen += todo
            following = []
            for kind, names in todo:
                following += self.ack(kind)
                following += self.follow(kind, names)
            todo = following
        return seen

    def follow(self, kind: Type, names: tuple[str, ...]) -> list[tuple[Type, tuple[str, ...]]]:
        asked = {Type.CLUSTER: Type.ENDPOINT, Type.SCOPE: Type.ROUTE}.get(kind)
        if asked is None:
            return []
        held = self.stream.subscriptions[kind].held
        wanted = [(held[n].refs[0] if kind is Type.SCOPE else n) for n in names if n in held]
        known = self.stream.subscriptions[asked].names if asked in self.stream.subscriptions else set()
        fresh = tuple(n for n in wanted if n not in known)
        gone = tuple(n for n in known if kind is Type.CLUSTER and n not in held)
        if kind is Type.SCOPE:
            led = {ref for scope in held.values() for ref in scope.refs}
            gone = tuple(n for n in known if n not in led)
        return self.ask(asked, subscribe=fresh, unsubscribe=gone) if fresh or gone else []


def connected(cache: Cache) -> Client:
    client = Client(cache)
    client.settle(*client.ask(Type.CLUSTER))
    client.settle(*client.ask(Type.LISTENER))
    client.settle(*client.ask(Type.SCOPE))
    assert client.stream.lagging() == {}
    return client


def cache_with(**models: Resources) -> Cache:
    cache = Cache()
    for name, resources in models.items():
        cache.apply(name, resources)
    return cache


def test_the_first_answer_to_a_wildcard_holds_everything_at_once() -> None:
    client = Client(cache_with(a=model("a", "v1"), b=model("b", "v1")))
    assert client.ask(Type.CLUSTER) == [(Type.CLUSTER, ("a/v1", "b/v1"))]


def test_a_wildcard_is_answered_even_when_there_is_nothing() -> None:
    assert Client(Cache()).ask(Type.SCOPE) == [(Type.SCOPE, ())]


def test_an_ack_is_not_answered() -> None:
    client = Client(cache_with(a=model("a", "v1")))
    client.ask(Type.CLUSTER)
    assert client.ack(Type.CLUSTER) == []


def test_a_weight_change_is_one_route_and_nothing_else() -> None:
    cache = cache_with(a=model("a", "v1", "v2"), b=model("b", "v1"))
    client = connected(cache)
    cache.apply("a", model("a", "v1", "v2", route="2"))
    assert client.settle() == [(Type.ROUTE, ("a",))]


def test_an_equal_set_is_silent() -> None:
    cache = cache_with(a=model("a", "v1"))
    client = connected(cache)
    cache.apply("a", model("a", "v1"))
    assert client.due() == []


def test_a_new_version_is_made_before_it_is_routed_to_and_the_old_one_is_removed_last() -> None:
    cache = cache_with(a=model("a", "v1"))
    client = connected(cache)
    cache.apply("a", model("a", "v2"))
    assert client.due() == [(Type.CLUSTER, ("a/v2",))]
    assert client.ack(Type.CLUSTER) == [], "the route waits for the endpoints"
    assert client.ask(Type.ENDPOINT, subscribe=("a/v2",)) == [(Type.ENDPOINT, ("a/v2",))]
    assert client.ack(Type.ENDPOINT) == [(Type.ROUTE, ("a",))]
    assert "a" in client.stream.lagging()
    assert client.ack(Type.ROUTE) == [(Type.CLUSTER, ("a/v1",))]
    assert "a/v1" not in client.stream.subscriptions[Type.CLUSTER].held
    client.ack(Type.CLUSTER)
    assert client.stream.lagging() == {}


def test_a_new_model_gets_its_scope_after_its_clusters_and_its_route_when_envoy_asks() -> None:
    cache = Cache()
    client = connected(cache)
    cache.apply("a", model("a", "v1"))
    kinds = [kind for kind, _ in client.settle()]
    assert kinds == [Type.CLUSTER, Type.ENDPOINT, Type.SCOPE, Type.ROUTE]


def test_a_removed_model_loses_its_scope_first_and_its_cluster_when_envoy_let_go_of_the_route() -> None:
    cache = cache_with(a=model("a", "v1"))
    client = connected(cache)
    cache.remove("a")
    assert client.stream.lagging() == {"a": "not sent yet"}
    assert client.due() == [(Type.SCOPE, ("a.test",))]
    assert client.stream.lagging() == {"a": "no ACK yet"}
    assert client.ack(Type.SCOPE) == []
    assert client.stream.lagging() == {}, "nobody can reach it any more; its cluster follows"
    assert client.ask(Type.ROUTE, unsubscribe=("a",)) == [(Type.CLUSTER, ("a/v1",))]


def test_a_host_moves_between_models_in_one_scope_update() -> None:
    cache = cache_with(a=model("a", "v1"))
    client = connected(cache)
    taken = dict(model("b", "v1"))
    taken[Type.SCOPE] = {"a.test": made("a.test", "b", refs=("b",))}
    cache.apply("b", taken)
    cache.remove("a")
    sent = client.settle()
    assert sent[:3] == [(Type.CLUSTER, ("b/v1",)), (Type.ENDPOINT, ("b/v1",)), (Type.SCOPE, ("a.test",))]
    assert cache.get(Type.SCOPE, "a.test") == taken[Type.SCOPE]["a.test"]


def test_endpoints_become_empty_only_after_the_route_has_left_them() -> None:
    cache = cache_with(a=model("a", "v1", "v2"))
    client = connected(cache)
    emptied = dict(model("a", "v1", "v2", route="2"))
    emptied[Type.ENDPOINT] = {**emptied[Type.ENDPOINT], "a/v2": made("a/v2", "none", late=True)}
    emptied[Type.ROUTE] = {"a": made("a", "only v1", refs=("a/v1",))}
    cache.apply("a", emptied)
    assert client.due() == [(Type.ROUTE, ("a",))]
    assert client.ack(Type.ROUTE) == [(Type.ENDPOINT, ("a/v2",))]


def test_a_route_waits_for_endpoints_that_were_empty() -> None:
    before = dict(model("a", "v1", "v2"))
    before[Type.ENDPOINT] = {**before[Type.ENDPOINT], "a/v2": made("a/v2", "none", late=True)}
    cache = cache_with(a=before)
    client = connected(cache)
    cache.apply("a", model("a", "v1", "v2", route="2"))
    assert client.due() == [(Type.ENDPOINT, ("a/v2",))]
    assert client.ack(Type.ENDPOINT) == [(Type.ROUTE, ("a",))]


def test_a_changed_cluster_is_followed_by_its_endpoints_so_that_it_warms() -> None:
    cache = cache_with(a=model("a", "v1"))
    client = connected(cache)
    changed = dict(model("a", "v1"))
    changed[Type.CLUSTER] = {"a/v1": made("a/v1", "h2c")}
    cache.apply("a", changed)
    assert client.due() == [(Type.CLUSTER, ("a/v1",)), (Type.ENDPOINT, ("a/v1",))]


def test_one_model_that_waits_does_not_delay_another() -> None:
    cache = cache_with(a=model("a", "v1"), b=model("b", "v1"))
    client = connected(cache)
    cache.apply("a", model("a", "v1", "v2"))
    client.due()
    client.ack(Type.CLUSTER)  # and never asks for a/v2's endpoints
    cache.apply("b", model("b", "v1", route="2"))
    assert client.due() == [(Type.ROUTE, ("b",))]


def test_changes_during_a_push_collapse_into_the_newest() -> None:
    cache = cache_with(a=model("a", "v1"))
    client = connected(cache)
    for weight in "234":
        cache.apply("a", model("a", "v1", route=weight))
        client.due()
    assert client.ack(Type.ROUTE) == [(Type.ROUTE, ("a",))]
    assert client.stream.subscriptions[Type.ROUTE].held["a"].body == b"a=4v1"
    assert client.ack(Type.ROUTE) == []


def test_a_gate_opens_by_itself_when_envoy_never_asks_for_endpoints() -> None:
    cache = cache_with(a=model("a", "v1"))
    client = connected(cache)
    cache.apply("a", model("a", "v1", "v2"))
    client.due()
    client.ack(Type.CLUSTER)
    deadline = client.stream.next_deadline()
    assert deadline == client.now + GATE_DEADLINE
    client.now = deadline
    assert client.due() == [(Type.ROUTE, ("a",))]


def test_a_gate_stays_shut_for_a_cluster_that_envoy_rejected() -> None:
    cache = cache_with(a=model("a", "v1"))
    client = connected(cache)
    cache.apply("a", model("a", "v2"))
    client.due()
    assert client.nack(Type.CLUSTER, "bad cluster") == []
    client.now += 10 * GATE_DEADLINE
    assert client.due() == []
    assert (client.stream.next_deadline() or client.now) > client.now - 0.001
    assert client.stream.lagging()["a"] == "rejected: bad cluster"
    assert "a/v1" in client.stream.subscriptions[Type.CLUSTER].held, "the old cluster still serves"


def test_a_rejected_value_is_not_sent_again_until_it_changes() -> None:
    cache = cache_with(a=model("a", "v1"))
    client = connected(cache)
    cache.apply("a", model("a", "v1", route="bad"))
    client.due()
    assert client.nack(Type.ROUTE) == []
    cache.apply("b", model("b", "v1"))
    assert (Type.ROUTE, ("a",)) not in client.settle()
    cache.apply("a", model("a", "v1", route="mended"))
    assert client.settle() == [(Type.ROUTE, ("a",))]
    assert client.stream.lagging() == {}


def test_going_back_to_the_value_that_envoy_kept_after_a_rejection_sends_nothing() -> None:
    cache = cache_with(a=model("a", "v1"))
    client = connected(cache)
    cache.apply("a", model("a", "v1", route="bad"))
    client.due()
    client.nack(Type.ROUTE)
    cache.apply("a", model("a", "v1"))
    assert client.due() == []


@pytest.mark.parametrize("variant", [DeltaStream, SotwStream])
def test_the_guilty_are_found_among_many_and_the_others_served(variant: type[Stream]) -> None:
    bad = {"m3", "m17"}
    cache = cache_with(**{f"m{i}": model(f"m{i}", "v1", route="bad" if f"m{i}" in bad else "1") for i in range(20)})
    client = Client(cache, variant)
    names = tuple(f"m{i}" for i in range(20))
    todo = client.ask(Type.ROUTE, **({"subscribe": names} if variant is DeltaStream else {"names": names}))
    again = {} if variant is DeltaStream else {"names": names}
    rounds = 0
    while todo:
        rounds += 1
        (_, sent), *_ = todo
        todo = client.nack(Type.ROUTE, "bad regex", **again) if bad & set(sent) else client.ack(Type.ROUTE, **again)
    routes = client.stream.subscriptions[Type.ROUTE]
    assert set(routes.rejected) == bad
    assert set(routes.held) == set(names) - bad
    assert rounds < 20
    assert set(client.stream.lagging()) >= bad


def test_a_newcomer_gets_the_last_good_set_of_a_quarantined_model() -> None:
    cache = cache_with(a=model("a", "v1"), b=model("b", "v1"))
    client = connected(cache)
    cache.apply("a", model("a", "v2", route="bad"))
    todo = client.due()
    while todo:
        kind = todo[0][0]
        todo = client.nack(kind, "bad regex") if kind is Type.ROUTE else client.ack(kind) + client.follow(*todo[0])
    rejection = client.stream.last_rejection
    assert rejection is not None
    assert cache.reject(rejection)
    assert cache.quarantine("a")
    fresh = connected(cache)
    assert fresh.stream.subscriptions[Type.ROUTE].held["a"].body == b"a=1v1"
    assert "a/v1" in fresh.stream.subscriptions[Type.CLUSTER].held
    cache.apply("a", model("a", "v2", route="mended"))
    fresh.settle()
    client.settle()
    assert fresh.stream.lagging() == client.stream.lagging() == {}
    assert fresh.stream.subscriptions[Type.ROUTE].held["a"].body == b"a=mendedv2"


def test_what_another_client_accepts_is_not_quarantined() -> None:
    cache = cache_with(a=model("a", "v1"))
    odd, good = connected(cache), connected(cache)
    cache.apply("a", model("a", "v1", route="2"))
    good.settle()
    odd.due()
    odd.nack(Type.ROUTE, "too old for this")
    assert odd.stream.last_rejection is not None
    cache.reject(odd.stream.last_rejection)
    assert not cache.quarantine("a")


def test_a_listener_that_one_envoy_cannot_bind_is_still_offered_to_the_next() -> None:
    cache = cache_with(g={Type.LISTENER: {"http": made("http")}})
    first = Client(cache)
    first.ask(Type.LISTENER)
    first.nack(Type.LISTENER, "cannot bind")
    assert first.stream.last_rejection is not None
    assert cache.reject(first.stream.last_rejection)
    assert not cache.quarantine("g")
    assert Client(cache).ask(Type.LISTENER) == [(Type.LISTENER, ("http",))]


def test_a_stale_nonce_does_not_hide_a_subscription_in_delta() -> None:
    cache = cache_with(a=model("a", "v1"))
    client = Client(cache)
    client.ask(Type.CLUSTER)
    assert client.ask(Type.ENDPOINT, subscribe=("a/v1",), nonce="stale") == [(Type.ENDPOINT, ("a/v1",))]
    cache.apply("a", model("a", "v1", late=True))
    assert client.ask(Type.ENDPOINT, nonce="stale") == [], "the first response is still in flight"


def test_a_stale_nonce_hides_everything_in_sotw() -> None:
    client = Client(cache_with(a=model("a", "v1"), b=model("b", "v1")), SotwStream)
    client.ask(Type.ROUTE, names=("a",))
    assert client.ask(Type.ROUTE, names=("a", "b"), nonce="stale") == []
    assert client.ack(Type.ROUTE, names=("a", "b")) == [(Type.ROUTE, ("b",))]


def test_asking_again_is_answered_again() -> None:
    client = connected(cache_with(a=model("a", "v1")))
    assert client.ask(Type.ROUTE, subscribe=("a",)) == [(Type.ROUTE, ("a",))]


def test_a_name_that_does_not_exist_is_removed_now_and_sent_when_it_appears() -> None:
    cache = Cache()
    client = Client(cache)
    assert client.ask(Type.ROUTE, subscribe=("a",)) == [(Type.ROUTE, ("a",))]
    assert b"a=" not in client.last.body
    assert client.ack(Type.ROUTE) == []
    cache.apply("a", model("a", "v1"))
    assert client.due() == [(Type.ROUTE, ("a",))]
    assert b"a=1v1" in client.last.body


def test_phantom_unsubscribes_are_ignored() -> None:
    client = connected(cache_with(a=model("a", "v1")))
    assert client.ask(Type.ROUTE, unsubscribe=("nobody",)) == []


def test_an_unsubscribed_name_is_not_sent_any_more() -> None:
    cache = cache_with(a=model("a", "v1"))
    client = connected(cache)
    client.ask(Type.ROUTE, unsubscribe=("a",))
    cache.apply("a", model("a", "v1", route="2"))
    assert client.due() == []


def test_a_name_still_covered_by_the_wildcard_is_answered_when_unsubscribed() -> None:
    client = Client(cache_with(a=model("a", "v1")))
    client.ask(Type.CLUSTER, subscribe=("*", "a/v1"))
    client.ack(Type.CLUSTER)
    assert client.ask(Type.CLUSTER, unsubscribe=("a/v1",)) == [(Type.CLUSTER, ("a/v1",))]


def test_leaving_the_wildcard_keeps_named_resources() -> None:
    cache = cache_with(a=model("a", "v1"), b=model("b", "v1"))
    client = Client(cache)
    client.ask(Type.CLUSTER, subscribe=("*", "a/v1"))
    client.ack(Type.CLUSTER)
    assert client.ask(Type.CLUSTER, unsubscribe=("*",)) == []
    assert set(client.stream.subscriptions[Type.CLUSTER].held) == {"a/v1"}
    cache.apply("c", model("c", "v1"))
    assert client.due() == []


def reconnect(cache: Cache, held: Mapping[Type, Mapping[str, str]]) -> Client:
    client = Client(cache)
    sent = client.ask(Type.CLUSTER, initial_versions=dict(held[Type.CLUSTER]))
    for kind in (Type.ENDPOINT, Type.LISTENER, Type.SCOPE, Type.ROUTE):
        versions = dict(held.get(kind, {}))
        names = tuple(versions) if kind in (Type.ENDPOINT, Type.ROUTE) else ()
        sent += client.ask(kind, initial_versions=versions, subscribe=names)
    client.sent_on_connect = sent  # type: ignore[attr-defined]
    return client


def versions_of(client: Client) -> dict[Type, dict[str, str]]:
    return {kind: {n: r.version for n, r in s.held.items()} for kind, s in client.stream.subscriptions.items()}


def test_a_reconnecting_envoy_is_sent_nothing_that_it_has() -> None:
    cache = cache_with(a=model("a", "v1"), g={Type.LISTENER: {"http": made("http")}})
    held = versions_of(connected(cache))
    restarted = cache_with(a=model("a", "v1"), g={Type.LISTENER: {"http": made("http")}})
    client = reconnect(restarted, held)
    assert client.sent_on_connect == []  # type: ignore[attr-defined]
    assert client.stream.lagging() == {}


def test_a_reconnecting_envoy_hears_what_changed_and_vanished_in_the_safe_order() -> None:
    held = versions_of(connected(cache_with(a=model("a", "v1"), b=model("b", "v1"))))
    client = reconnect(cache_with(a=model("a", "v2")), held)
    sent = client.settle(*client.sent_on_connect)  # type: ignore[attr-defined]
    kinds = [kind for kind, names in sent if "b/v1" in names or "a" in names or "b.test" in names]
    assert (Type.SCOPE, ("b.test",)) in sent
    removed = next(i for i, (kind, names) in enumerate(sent) if kind is Type.CLUSTER and "a/v1" in names)
    routed = next(i for i, (kind, names) in enumerate(sent) if kind is Type.ROUTE and "a" in names)
    assert routed < removed, kinds


def test_listeners_for_grpc_clients_are_only_sent_by_name() -> None:
    cache = cache_with(a={Type.LISTENER: {"a.test": made("a.test", named_only=True), "http": made("http")}})
    envoy, grpc_client = Client(cache), Client(cache, SotwStream)
    assert envoy.ask(Type.LISTENER) == [(Type.LISTENER, ("http",))]
    assert grpc_client.ask(Type.LISTENER, names=("a.test",)) == [(Type.LISTENER, ("a.test",))]


def test_grpc_clients_are_not_gated_for_they_ask_for_the_route_first() -> None:
    cache = cache_with(a=model("a", "v1"))
    client = Client(cache, SotwStream)
    assert client.ask(Type.ROUTE, names=("a",)) == [(Type.ROUTE, ("a",))]
    assert client.ask(Type.CLUSTER, names=("a/v1",)) == [(Type.CLUSTER, ("a/v1",))]


def test_sotw_answers_to_wildcards_are_always_complete_and_removal_is_absence() -> None:
    cache = cache_with(a=model("a", "v1"), b=model("b", "v1"))
    client = Client(cache, SotwStream)
    client.ask(Type.CLUSTER)
    client.ack(Type.CLUSTER)
    cache.apply("c", model("c", "v1"))
    client.due()
    assert all(name in client.last.body for name in (b"a/v1=1", b"b/v1=1", b"c/v1=1"))
    client.ack(Type.CLUSTER)
    cache.remove("b")
    client.due()
    assert b"b/v1" not in client.last.body
    assert b"c/v1=1" in client.last.body


def test_sotw_may_answer_endpoints_in_part() -> None:
    cache = cache_with(a=model("a", "v1"), b=model("b", "v1"))
    client = Client(cache, SotwStream)
    client.ask(Type.ENDPOINT, names=("a/v1", "b/v1"))
    client.ack(Type.ENDPOINT, names=("a/v1", "b/v1"))
    cache.apply("a", {**model("a", "v1"), Type.ENDPOINT: {"a/v1": made("a/v1", "moved")}})
    assert client.due() == [(Type.ENDPOINT, ("a/v1",))]
    assert b"b/v1" not in client.last.body


def test_sotw_dropping_a_name_is_not_answered_and_adding_one_is() -> None:
    client = Client(cache_with(a=model("a", "v1"), b=model("b", "v1")), SotwStream)
    client.ask(Type.ROUTE, names=("a", "b"))
    assert client.ack(Type.ROUTE, names=("a",)) == []
    assert client.ack(Type.ROUTE, names=("a", "b")) == [(Type.ROUTE, ("b",))]


def test_sotw_an_empty_list_means_everything_only_until_a_name_was_given() -> None:
    cache = cache_with(a=model("a", "v1"))
    client = Client(cache, SotwStream)
    client.ask(Type.CLUSTER)
    client.ack(Type.CLUSTER, names=("a/v1",))
    client.ack(Type.CLUSTER)
    cache.apply("b", model("b", "v1"))
    assert client.due() == []


def test_sotw_a_client_that_returns_with_the_present_version_is_sent_nothing() -> None:
    cache = cache_with(a=model("a", "v1"), b=model("b", "v1"))
    client = Client(cache, SotwStream)
    client.ask(Type.CLUSTER)
    version = client.last.body.split(b"\n\x10", 1)[1][:16].decode()
    restarted = Client(cache_with(b=model("b", "v1"), a=model("a", "v1")), SotwStream)
    assert restarted.ask(Type.CLUSTER, version=version) == []
    assert Client(cache_with(a=model("a", "v1")), SotwStream).ask(Type.CLUSTER, version=version) != []


def test_only_one_response_of_a_type_is_in_flight() -> None:
    cache = cache_with(a=model("a", "v1"))
    client = Client(cache)
    client.ask(Type.CLUSTER)
    cache.apply("b", model("b", "v1"))
    assert client.due() == []
    assert client.ack(Type.CLUSTER) == [(Type.CLUSTER, ("b/v1",))]


def test_no_resource_comes_twice_in_one_response() -> None:
    client = Client(cache_with(a=model("a", "v1")))
    assert client.ask(Type.CLUSTER, subscribe=("*", "a/v1", "a/v1")) == [(Type.CLUSTER, ("a/v1",))]


def test_a_shared_cluster_stays_until_its_last_model_has_left_it() -> None:
    def sharing(name: str, *clusters: str) -> Resources:
        used = {c: made(c) for c in clusters}
        return {**model(name), Type.CLUSTER: used, Type.ROUTE: {name: made(name, ",".join(clusters), refs=clusters)}}

    cache = cache_with(a=sharing("a", "shared"), b=sharing("b", "shared"))
    client = connected(cache)
    cache.apply("a", sharing("a", "own-a"))
    client.settle()
    assert "shared" in client.stream.subscriptions[Type.CLUSTER].held
    cache.apply("b", sharing("b", "own-b"))
    client.settle()
    assert "shared" not in client.stream.subscriptions[Type.CLUSTER].held


def test_the_first_request_needs_a_node_and_every_request_a_type() -> None:
    stream = DeltaStream(Cache())
    with pytest.raises(Refused, match=r"node\.id"):
        stream.receive(Request(str(Type.CLUSTER)), 0.0)
    with pytest.raises(Refused, match="type_url"):
        stream.receive(Request("", node=NODE), 0.0)


def test_unknown_types_are_ignored_and_the_stream_lives_on() -> None:
    client = Client(cache_with(a=model("a", "v1")))
    client.stream.receive(Request("type.googleapis.com/envoy.service.runtime.v3.Runtime", node=NODE), 0.0)
    assert client.due() == []
    assert client.ask(Type.CLUSTER) == [(Type.CLUSTER, ("a/v1",))]


def test_a_client_that_has_not_asked_for_routes_has_applied_nothing() -> None:
    client = Client(cache_with(a=model("a", "v1")))
    client.ask(Type.CLUSTER)
    client.ack(Type.CLUSTER)
    assert "starting" in client.stream.lagging()["a"]


def test_an_eager_scope_counts_only_when_its_route_has_arrived_too() -> None:
    cache = Cache()
    client = connected(cache)
    cache.apply("a", model("a", "v1"))
    client.due()
    client.ack(Type.CLUSTER)
    client.ask(Type.ENDPOINT, subscribe=("a/v1",))
    client.ack(Type.ENDPOINT)
    client.ack(Type.SCOPE)
    assert client.stream.lagging() == {"a": "has not asked for the route yet"}
    client.ask(Type.ROUTE, subscribe=("a",))
    client.ack(Type.ROUTE)
    assert client.stream.lagging() == {}
