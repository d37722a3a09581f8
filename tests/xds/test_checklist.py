"""What xds_protocol.rst asks of a control plane, line by line, where no other test says it; and the rows of the
public conformance suite (subscribing, unsubscribing, incremental) as one table over both variants.
"""

from __future__ import annotations

from typing import Any

import pytest
from envoy_data_plane.envoy.service.discovery.v3 import DeltaDiscoveryRequest, DiscoveryRequest, DiscoveryResponse
from envoy_data_plane.google.rpc import Status

from xds.cache import Cache
from xds.delta import DeltaStream
from xds.resources import Resource, Resources, Type
from xds.sotw import SotwStream
from xds.stream import LONGEST_REST, PATIENCE, Refused, Stream
from xds.wire import Node, Request, read_delta, read_sotw

NODE = Node("e", "g")
BOTH = pytest.mark.parametrize("variant", [DeltaStream, SotwStream])


def made(name: str, value: str = "1", **more: Any) -> Resource:
    return Resource.of(name, f"{name}={value}".encode(), **more)


def plain(kind: Type, **values: str) -> Resources:
    return {kind: {name: made(name, value) for name, value in values.items()}}


class Talk:
    """One stream, spoken to with the full list of names whatever the variant."""

    def __init__(self, cache: Cache, variant: type[Stream]) -> None:
        self.cache, self.stream, self.now = cache, variant(cache), 0.0
        cache.watch(self.stream)
        self.nonce: dict[Type, str] = {}
        self.names: dict[Type, tuple[str, ...]] = {}
        self.bodies: list[bytes] = []

    def ask(self, kind: Type, *names: str, **fields: Any) -> list[tuple[str, ...]]:
        """Subscribe to exactly these; delta says the difference."""
        before = self.names.get(kind, ())
        self.names[kind] = names
        if isinstance(self.stream, SotwStream):
            return self.say(kind, names=names, **fields)
        fresh = tuple(name for name in names if name not in before)
        return self.say(kind, subscribe=fresh, unsubscribe=tuple(n for n in before if n not in names), **fields)

    def say(self, kind: Type, **fields: Any) -> list[tuple[str, ...]]:
        if isinstance(self.stream, SotwStream):
            fields.setdefault("names", self.names.get(kind, ()))
        fields.setdefault("nonce", self.nonce.get(kind, ""))
        self.stream.receive(Request(str(kind), node=NODE, **fields), self.now)
        return self.due()

    def due(self) -> list[tuple[str, ...]]:
        responses = self.stream.due(self.now)
        for response in responses:
            self.nonce[response.type] = response.nonce
        self.bodies = [response.body for response in responses]
        return [response.names for response in responses]


def with_values(kind: Type, **values: str) -> Cache:
    cache = Cache()
    cache.apply("o", plain(kind, **values))
    return cache


# The public suite, as rows


@BOTH
@pytest.mark.parametrize("kind", list(Type))
def test_named_resources_come_in_one_response_and_only_they(variant: type[Stream], kind: Type) -> None:
    talk = Talk(with_values(kind, a="1", b="1", c="1"), variant)
    assert talk.ask(kind, "a", "b") == [("a", "b")]
    assert talk.say(kind) == [], "an ACK is never answered"


@BOTH
@pytest.mark.parametrize("kind", [Type.CLUSTER, Type.LISTENER, Type.SCOPE])
@pytest.mark.parametrize("names", [(), ("*",)])
def test_a_wildcard_brings_all_in_one_response(variant: type[Stream], kind: Type, names: tuple[str, ...]) -> None:
    talk = Talk(with_values(kind, a="1", b="1", c="1"), variant)
    assert talk.ask(kind, *names) == [("a", "b", "c")]
    assert talk.say(kind) == []


@BOTH
@pytest.mark.parametrize("kind", list(Type))
@pytest.mark.parametrize("changed", [{"a": "2", "b": "1"}, {"a": "1", "b": "1", "z": "1"}])
def test_only_a_change_of_what_was_asked_for_is_sent(
    variant: type[Stream], kind: Type, changed: dict[str, str]
) -> None:
    cache = with_values(kind, a="1", b="1")
    talk = Talk(cache, variant)
    talk.ask(kind, "a")
    talk.say(kind)
    cache.apply("o", plain(kind, **changed))
    assert talk.due() == ([("a",)] if changed["a"] == "2" else [])


@BOTH
@pytest.mark.parametrize("kind", [Type.CLUSTER, Type.LISTENER, Type.SCOPE])
@pytest.mark.parametrize(("changed", "sent"), [({"a": "2", "b": "1"}, "a"), ({"a": "1", "b": "1", "n": "1"}, "n")])
def test_a_wildcard_hears_of_updates_and_of_additions(
    variant: type[Stream], kind: Type, changed: dict[str, str], sent: str
) -> None:
    cache = with_values(kind, a="1", b="1")
    talk = Talk(cache, variant)
    talk.ask(kind)
    talk.say(kind)
    cache.apply("o", plain(kind, **changed))
    assert talk.due() == [(sent,)]


@BOTH
@pytest.mark.parametrize("kind", list(Type))
def test_a_name_that_does_not_exist_yet_comes_when_it_does(variant: type[Stream], kind: Type) -> None:
    cache = Cache()
    talk = Talk(cache, variant)
    answered = talk.ask(kind, "a")
    if answered:
        talk.say(kind)
    cache.apply("o", plain(kind, a="1"))
    assert talk.due() == [("a",)]


@BOTH
@pytest.mark.parametrize("kind", list(Type))
@pytest.mark.parametrize("left", [(), ("b",)])
def test_unsubscribed_names_are_not_sent_any_more(variant: type[Stream], kind: Type, left: tuple[str, ...]) -> None:
    cache = with_values(kind, a="1", b="1")
    talk = Talk(cache, variant)
    talk.ask(kind, "a", "b")
    assert talk.ask(kind, *left) == []
    cache.apply("o", plain(kind, a="2", b="2"))
    assert talk.due() == ([left] if left else [])


@BOTH
def test_types_do_not_disturb_each_other_on_one_stream(variant: type[Stream]) -> None:
    cache = Cache()
    cache.apply("o", {**plain(Type.CLUSTER, c="1"), **plain(Type.LISTENER, l="1")})
    talk = Talk(cache, variant)
    assert talk.ask(Type.CLUSTER) == [("c",)]
    assert talk.ask(Type.LISTENER) == [("l",)]
    talk.say(Type.CLUSTER)
    talk.say(Type.LISTENER)
    cache.apply("o", {**plain(Type.CLUSTER, c="1"), **plain(Type.LISTENER, l="2")})
    assert talk.due() == [("l",)]


# The lines of the specification


def test_a_later_node_must_be_equal_or_absent() -> None:
    talk = Talk(Cache(), DeltaStream)
    talk.ask(Type.CLUSTER)
    talk.stream.receive(Request(str(Type.LISTENER)), 0.0)
    with pytest.raises(Refused, match="node must not change"):
        talk.stream.receive(Request(str(Type.ROUTE), node=Node("other", "g")), 0.0)


def test_a_nack_is_an_error_detail_even_without_words() -> None:
    empty = Status()
    assert read_delta(bytes(DeltaDiscoveryRequest(type_url="t", error_detail=empty))).error == ""
    assert read_sotw(bytes(DiscoveryRequest(type_url="t", error_detail=empty))).error == ""
    assert read_sotw(bytes(DiscoveryRequest(type_url="t", version_info="old"))).error is None


@BOTH
def test_a_nack_without_words_is_no_ack(variant: type[Stream]) -> None:
    talk = Talk(with_values(Type.ROUTE, a="1"), variant)
    talk.ask(Type.ROUTE, "a")
    assert talk.say(Type.ROUTE, error="") == []
    assert "a" in talk.stream.subscriptions[Type.ROUTE].rejected


def test_state_of_the_world_carries_resources_without_a_wrapper() -> None:
    talk = Talk(with_values(Type.ROUTE, a="1"), SotwStream)
    talk.ask(Type.ROUTE, "a")
    response = DiscoveryResponse.parse(talk.bodies[0])
    assert [resource.type_url for resource in response.resources] == [str(Type.ROUTE)]
    assert response.nonce
    assert response.version_info


def test_nonces_never_repeat_on_a_stream() -> None:
    cache = with_values(Type.ROUTE, a="0")
    talk = Talk(cache, DeltaStream)
    talk.ask(Type.ROUTE, "a")
    seen = set()
    for value in range(50):
        seen.add(talk.nonce[Type.ROUTE])
        cache.apply("o", plain(Type.ROUTE, a=f"next {value}"))
        talk.say(Type.ROUTE)
    assert len(seen) == 50


@BOTH
def test_after_a_rejection_that_may_be_partly_applied_the_old_value_is_said_again(variant: type[Stream]) -> None:
    cache = with_values(Type.ROUTE, a="1", b="1")
    talk = Talk(cache, variant)
    talk.ask(Type.ROUTE, "a", "b")
    talk.say(Type.ROUTE)
    cache.apply("o", plain(Type.ROUTE, a="2", b="bad"))
    assert talk.due() == [("a", "b")]
    cache.apply("o", plain(Type.ROUTE, a="1", b="bad"))
    assert talk.say(Type.ROUTE, error="b is bad") == [("a",)]


@BOTH
def test_a_name_is_not_guilty_because_its_neighbour_was_unsubscribed(variant: type[Stream]) -> None:
    talk = Talk(with_values(Type.ROUTE, a="1", b="bad"), variant)
    talk.ask(Type.ROUTE, "a", "b")
    if variant is DeltaStream:
        talk.say(Type.ROUTE, unsubscribe=("b",), nonce="")
    talk.names[Type.ROUTE] = ("a",)
    assert talk.say(Type.ROUTE, error="b is bad") == [("a",)]
    assert talk.say(Type.ROUTE) == []
    assert not talk.stream.subscriptions[Type.ROUTE].rejected


def test_a_changed_cluster_is_followed_by_endpoints_for_a_client_that_returns() -> None:
    cache = Cache()
    cache.apply("o", {**plain(Type.CLUSTER, c="new"), **plain(Type.ENDPOINT, c="1")})
    talk = Talk(cache, DeltaStream)
    assert talk.say(Type.CLUSTER, initial_versions={"c": "old"}) == [("c",)]
    kept = {"c": made("c").version}
    assert talk.say(Type.ENDPOINT, subscribe=("c",), initial_versions=kept) == [("c",)], "or it warms for 15 s"


def test_a_client_that_returns_is_not_told_to_delete_what_waits_at_a_gate() -> None:
    cache = Cache()
    scope = {Type.SCOPE: {"h": made("h", refs=("o",))}, Type.ROUTE: {"o": made("o", refs=("c",))}}
    cache.apply("o", {**plain(Type.CLUSTER, c="1"), **plain(Type.ENDPOINT, c="1"), **scope})
    talk = Talk(cache, SotwStream)
    talk.ask(Type.CLUSTER, version="of an earlier stream")
    assert talk.ask(Type.SCOPE, version="of an earlier stream") == [], "an empty answer would delete every host"
    talk.ask(Type.ENDPOINT, "c")
    assert talk.say(Type.ENDPOINT) == []
    assert talk.say(Type.CLUSTER) == [("h",)]


@BOTH
def test_a_client_that_takes_nothing_is_tried_ever_less_often_until_something_changes(variant: type[Stream]) -> None:
    values = {f"m{i:03}": "1" for i in range(300)}
    cache = with_values(Type.ROUTE, **values)
    talk = Talk(cache, variant)
    sent = talk.ask(Type.ROUTE, *values)
    tries = 0
    while sent:
        tries += 1
        sent = talk.say(Type.ROUTE, error="no")
    assert tries == PATIENCE + 1
    deadline = talk.stream.next_deadline()
    assert deadline is not None
    assert 0 < deadline <= LONGEST_REST
    talk.now = deadline
    assert talk.due(), "one more try"
    assert talk.say(Type.ROUTE) != [], "and full speed when it takes something"
