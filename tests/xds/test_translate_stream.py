"""The logger that tells the sidecar of single requests: there when asked for, and what Envoy is told then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from xds.bootstrap import SIDECAR_CLUSTER, bootstrap
from xds.ir import Gateway, Listener, Stream
from xds.readable import readable
from xds.resources import Type
from xds.translate import translate_gateway

PLAIN = Gateway("default", (Listener("http", "127.0.0.1", 10000),), count_requests=False)


def loggers(gateway: Gateway) -> list[dict[str, Any]]:
    (listener,) = translate_gateway(gateway)[Type.LISTENER].values()
    manager = readable(Type.LISTENER, listener)["filter_chains"][0]["filters"][0]["typed_config"]
    return manager.get("access_log", [])


def test_nothing_is_streamed_unless_asked_for():
    assert loggers(PLAIN) == []
    assert [each["name"] for each in loggers(replace(PLAIN, count_requests=True))] == ["envoy.access_loggers.stats"] * 3


def test_counting_goes_on_beside_the_stream():
    names = [each["name"] for each in loggers(replace(PLAIN, count_requests=True, stream=Stream()))]
    assert names == ["envoy.access_loggers.stats"] * 3 + ["envoy.access_loggers.fluentd"]


def test_the_record_is_one_string_whose_key_names_the_labels():
    stream = Stream("x-user", (("tier", "x-tier"), ("language", "metadata:lang")))
    (logger,) = loggers(replace(PLAIN, stream=stream))
    assert logger["typed_config"]["cluster"] == SIDECAR_CLUSTER
    ((layout, text),) = logger["typed_config"]["record"].items()
    assert layout == "2 tier language"
    by, client, metadata, numbers, *rest, labels = text.split("\n")
    assert by.startswith("%RESPONSE_CODE%|%GRPC_STATUS_NUMBER%|%RESPONSE_FLAGS%|%ROUTE_NAME%|")
    assert client == "%REQ(x-user):200%"
    assert labels == "%REQ(x-tier):100%\r%DYNAMIC_METADATA(headgate:lang):100%"
    assert metadata == "%DYNAMIC_METADATA(headgate):2000%"
    assert len(numbers.split("|")) == 6
    assert len(rest) == 3


def test_clients_without_a_header_are_told_apart_by_their_addresses():
    (logger,) = loggers(replace(PLAIN, stream=Stream()))
    ((layout, text),) = logger["typed_config"]["record"].items()
    assert layout == "2"
    assert text.split("\n")[1] == "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"


def test_a_bootstrap_has_the_cluster_only_when_told_where_the_sidecar_is():
    told = {"node_id": "e1", "node_cluster": "default", "xds_address": "127.0.0.1", "xds_port": 1}
    assert len(bootstrap(**told)["static_resources"]["clusters"]) == 1
    _, cluster = bootstrap(**told, sidecar=("127.0.0.1", 18003))["static_resources"]["clusters"]
    assert cluster["name"] == SIDECAR_CLUSTER
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert endpoint["endpoint"]["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 18003}
