"""Which addresses behind a Service get requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cluster.endpoints import port_name, served, service_key
from xds.ir import Endpoint

SERVICE = {"metadata": {"name": "iris"}, "spec": {"ports": [{"port": 80, "targetPort": "web"}]}}


def pod(address, name="", **conditions):
    target = {"targetRef": {"kind": "Pod", "namespace": "ns", "name": name}} if name else {}
    return {"addresses": [address], "conditions": conditions, **target}


def slice_of(*pods, port=8080, name="", family="IPv4"):
    return {"addressType": family, "ports": [{"name": name, "port": port, "protocol": "TCP"}], "endpoints": list(pods)}


def addresses(*slices, service=SERVICE, port=None):
    return [f"{one.address}:{one.port}" for one in served(service, slices, port).endpoints]


@pytest.mark.parametrize(
    ("conditions", "used"),
    [
        ({"ready": True, "serving": True, "terminating": False}, True),
        ({}, True),  # unknown counts as ready
        ({"ready": False}, False),
        ({"ready": False, "serving": False, "terminating": False}, False),
        ({"ready": False, "serving": True, "terminating": False}, False),
        ({"ready": False, "serving": False, "terminating": True}, False),
    ],
)
def test_conditions_decide(conditions, used):
    assert bool(addresses(slice_of(pod("10.0.0.1", **conditions)))) is used


def test_terminating_endpoints_that_serve_stand_in_only_when_nothing_is_ready():
    leaving = pod("10.0.0.1", ready=False, serving=True, terminating=True)
    assert addresses(slice_of(leaving, pod("10.0.0.2", ready=True))) == ["10.0.0.2:8080"]
    found = served(SERVICE, [slice_of(leaving, pod("10.0.0.2", ready=False))])
    assert found.endpoints == (Endpoint("10.0.0.1", 8080),)
    assert found.draining
    assert found.reason == "Service iris: nothing is ready, 1 of 2 endpoints terminating but still serving"


def test_the_reason_counts():
    assert served(SERVICE, []).reason == "Service iris has no endpoints"
    some = slice_of(pod("10.0.0.1", ready=True), pod("10.0.0.2", ready=False))
    assert served(SERVICE, [some]).reason == "Service iris: 1 of 2 endpoints ready"
    assert served(SERVICE, [slice_of(pod("10.0.0.2", ready=False))]).reason == "Service iris: 0 of 1 endpoints ready"


def test_a_service_may_publish_what_is_not_ready():
    service = {**SERVICE, "spec": {**SERVICE["spec"], "publishNotReadyAddresses": True}}
    starting, leaving = pod("10.0.0.1", ready=False), pod("10.0.0.2", ready=True, terminating=True)
    assert addresses(slice_of(starting, leaving), service=service) == ["10.0.0.1:8080"]
    assert addresses(slice_of(leaving), service=service) == ["10.0.0.2:8080"]


def test_pods_may_differ_in_the_number_behind_a_named_port():
    slices = slice_of(pod("10.0.0.1"), port=8080), slice_of(pod("10.0.0.2"), port=9090)
    assert addresses(*slices) == ["10.0.0.1:8080", "10.0.0.2:9090"]


def test_ports_are_found_by_number_and_by_name():
    ports = [{"name": "rest", "port": 80}, {"name": "grpc", "port": 81}, {"name": "dns", "port": 53, "protocol": "UDP"}]
    service = {"metadata": {"name": "iris"}, "spec": {"ports": ports}}
    each = {"ports": [{"name": "rest", "port": 8080}, {"name": "grpc", "port": 9000}], "endpoints": [pod("10.0.0.1")]}
    assert addresses(each, service=service) == ["10.0.0.1:8080"]
    assert addresses(each, service=service, port=81) == ["10.0.0.1:9000"]
    assert addresses(each, service=service, port="grpc") == ["10.0.0.1:9000"]
    assert port_name(service, 53) is None
    assert served(service, [each], 82).reason == "Service iris has no port 82 (ports: rest (80), grpc (81), dns (53))"


def test_a_dual_stack_pod_is_reached_once_by_ipv4():
    v4 = slice_of(pod("10.0.0.1", "a"), pod("10.0.0.2", "b", ready=False))
    v6 = slice_of(pod("fd00::1", "a"), pod("fd00::3", "c"), family="IPv6")
    assert addresses(v6, v4) == ["10.0.0.1:8080", "fd00::3:8080"]
    assert addresses(v6) == ["fd00::1:8080", "fd00::3:8080"]


def test_addresses_without_a_pod_are_told_apart_by_family():
    v4, v6 = slice_of(pod("10.0.0.1")), slice_of(pod("fd00::1"), family="IPv6")
    assert addresses(v4, v6) == ["10.0.0.1:8080"]
    assert addresses(v6) == ["fd00::1:8080"]


def test_names_and_deleted_slices_are_left_out():
    gone = {**slice_of(pod("10.0.0.9")), "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert addresses(slice_of(pod("model.example.com"), family="FQDN"), gone) == []


def test_a_slice_names_its_service():
    labels = {"kubernetes.io/service-name": "iris"}
    assert service_key({"metadata": {"namespace": "prod", "labels": labels}}) == "prod/iris"
    assert service_key({"metadata": {"namespace": "prod"}}) is None


flags = st.none() | st.booleans()
pods = st.builds(
    lambda octet, v6, name, ready, serving, terminating: pod(
        f"fd00::{octet}" if v6 else f"10.0.0.{octet}", name, ready=ready, serving=serving, terminating=terminating
    ),
    st.integers(1, 6),
    st.booleans(),
    st.sampled_from(["", "a", "b", "c"]),
    flags,
    flags,
    flags,
)


@given(st.lists(st.lists(pods, max_size=4).map(lambda found: slice_of(*found)), max_size=4), st.randoms())
def test_whatever_the_slices_say(slices, random):
    found = served(SERVICE, slices)
    assert len(set(found.endpoints)) == len(found.endpoints)
    every = [one for each in slices for one in each["endpoints"]]
    used = {one.address for one in found.endpoints}
    assert used <= {one["addresses"][0] for one in every}
    able = {
        one["addresses"][0]
        for one in every
        if one["conditions"]["ready"] is not False and not one["conditions"]["terminating"]
    }
    assert used <= able if able else found.draining or not used
    assert bool(used) >= bool(able)
    random.shuffle(slices)
    assert served(SERVICE, slices) == found


def test_a_terminating_endpoint_that_does_not_say_whether_it_serves_does_as_its_readiness_says():
    assert addresses(slice_of(pod("10.0.0.1", ready=True, terminating=True))) == ["10.0.0.1:8080"]
    assert addresses(slice_of(pod("10.0.0.1", ready=False, terminating=True))) == []
