"""Our reading and writing of ADS messages, held against envoy-data-plane's own classes."""

from __future__ import annotations

import pytest
from envoy_data_plane.envoy.config.core.v3 import BuildVersion, Extension, Node
from envoy_data_plane.envoy.service.discovery.v3 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from envoy_data_plane.envoy.type.v3 import SemanticVersion
from envoy_data_plane.google.rpc import Status
from hypothesis import given, settings
from hypothesis import strategies as st

from xds import wire
from xds.resources import Resource

text = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=8)
names = st.lists(text, max_size=4)


@settings(max_examples=40, deadline=None)
@given(text, text, text, names, names, st.dictionaries(text, text, max_size=3), st.none() | text)
def test_a_delta_request_reads_as_it_was_written(
    node: str,
    url: str,
    nonce: str,
    subscribe: list[str],
    unsubscribe: list[str],
    known: dict[str, str],
    error: str | None,
) -> None:
    message = DeltaDiscoveryRequest(
        node=Node(id=node, cluster="c", extensions=[Extension(name=f"ext-{i}") for i in range(20)]),
        type_url=url,
        response_nonce=nonce,
        resource_names_subscribe=subscribe,
        resource_names_unsubscribe=unsubscribe,
        initial_resource_versions=known,
        error_detail=Status(code=3, message=error) if error is not None else None,
    )
    request = wire.read_delta(bytes(message))
    assert request.node == wire.Node(node, "c")
    assert (request.type_url, request.nonce, request.error) == (url, nonce, error)
    assert (request.subscribe, request.unsubscribe) == (tuple(subscribe), tuple(unsubscribe))
    assert request.initial_versions == known


@settings(max_examples=40, deadline=None)
@given(text, text, text, names, st.none() | text)
def test_a_sotw_request_reads_as_it_was_written(
    version: str, url: str, nonce: str, listed: list[str], error: str | None
) -> None:
    message = DiscoveryRequest(
        version_info=version,
        type_url=url,
        response_nonce=nonce,
        resource_names=listed,
        error_detail=Status(message=error) if error is not None else None,
    )
    request = wire.read_sotw(bytes(message))
    assert request.node is None
    assert (request.version, request.type_url, request.nonce, request.error) == (version, url, nonce, error)
    assert request.names == tuple(listed)


def test_the_clients_own_version_is_shown() -> None:
    build = BuildVersion(version=SemanticVersion(major_number=1, minor_number=40, patch=2))
    message = DiscoveryRequest(node=Node(id="n", user_agent_name="envoy", user_agent_build_version=build))
    assert wire.read_sotw(bytes(message)).node == wire.Node("n", "", "envoy 1.40.2")


@pytest.mark.parametrize("read", [wire.read_delta, wire.read_sotw])
@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\xff\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n", b"\x22\x02\xff\xfe"])
def test_garbage_is_refused_as_garbage(read: object, raw: bytes) -> None:
    with pytest.raises(wire.Garbage):
        read(raw)  # type: ignore[operator]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(text, st.binary(max_size=300)), max_size=4), names)
def test_responses_are_what_envoy_expects(contents: list[tuple[str, bytes]], removed: list[str]) -> None:
    resources = [Resource.of(name, body) for name, body in contents]
    framer = wire.Framer(keep=2)
    framed = framer.delta("type/X", resources, removed)
    delta = DeltaDiscoveryResponse.parse(framed.body)
    assert (delta.type_url, delta.nonce, delta.removed_resources) == ("type/X", framed.nonce, removed)
    assert [(r.name, r.version) for r in delta.resources] == [(r.name, r.version) for r in resources]
    assert [r.resource.value for r in delta.resources if r.resource] == [r.body for r in resources]
    other = framer.sotw("type/X", "v", resources)
    sotw = DiscoveryResponse.parse(other.body)
    assert (sotw.type_url, sotw.version_info, sotw.nonce) == ("type/X", "v", other.nonce)
    assert framed.nonce != other.nonce
    assert [r.value for r in sotw.resources] == [r.body for r in resources]
    assert {r.type_url for r in sotw.resources} <= {"type/X"}


def test_the_same_content_is_built_once_for_all_streams() -> None:
    framer = wire.Framer()
    resource = Resource.of("a", b"x" * 1000)
    assert framer.delta("t", [resource], []) is framer.delta("t", [resource], [])
