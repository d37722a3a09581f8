"""What people read of a resource, against google's JSON where the two can be compared, and by example elsewhere."""

from __future__ import annotations

from datetime import timedelta

import pytest
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.core.v3 import Metadata
from envoy_data_plane.google.protobuf import ListValue, NullValue, Struct, Value
from google.protobuf import duration_pb2, json_format, struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from xds.encode import encode
from xds.ir import Gateway, Listener
from xds.readable import readable
from xds.resources import Resource, Type
from xds.translate import secret, translate_gateway, validation_context


def cluster(**content) -> dict:
    return readable(Type.CLUSTER, Resource.of("a", encode(Cluster(name="a", **content))))


@given(st.timedeltas(timedelta(0), timedelta(days=400)))
def test_google_reads_the_duration_that_was_meant(duration):
    read = duration_pb2.Duration()
    read.FromJsonString(cluster(connect_timeout=duration)["connect_timeout"])
    assert read.ToTimedelta() == duration


def test_metadata_reads_as_plain_json():
    values = {
        "text": Value(string_value="iris"),
        "number": Value(number_value=1.5),
        "zero": Value(number_value=0.0),
        "yes": Value(bool_value=True),
        "no": Value(bool_value=False),
        "nothing": Value(null_value=NullValue.NULL_VALUE),
        "list": Value(list_value=ListValue(values=[Value(string_value="")])),
        "nested": Value(struct_value=Struct(fields={"a": Value(string_value="b")})),
    }
    metadata = Metadata(filter_metadata={"headgate": Struct(fields=values)})
    assert cluster(metadata=metadata)["metadata"]["filter_metadata"]["headgate"] == json_format.MessageToDict(
        struct_pb2.Struct.FromString(encode(Struct(fields=values)))
    )


def test_an_optional_zero_is_shown_and_a_default_is_not():
    assert cluster(per_connection_buffer_limit_bytes=0) == {"name": "a", "per_connection_buffer_limit_bytes": 0}


def test_any_is_opened_down_to_the_last_one():
    gateway = Gateway("default", (Listener("https", "0.0.0.0", 8443, "certificate", "ca"),))
    shown = readable(Type.LISTENER, translate_gateway(gateway)[Type.LISTENER]["https"])
    (chain,) = shown["filter_chains"]
    (manager,) = (each["typed_config"] for each in chain["filters"])
    assert manager["@type"].endswith(".HttpConnectionManager")
    on_demand = manager["http_filters"][0]["typed_config"]
    assert on_demand == {"@type": "type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.OnDemand"}
    router = manager["http_filters"][-1]["config_discovery"]["default_config"]  # five levels down
    assert router["@type"].endswith(".http.router.v3.Router")
    loggers = {each["typed_config"]["@type"].rpartition("/")[2] for each in manager["access_log"]}
    assert loggers == {"envoy.extensions.access_loggers.stats.v3.Config"}
    assert chain["transport_socket"]["typed_config"]["require_client_certificate"] is True


def test_a_private_key_is_never_shown():
    shown = readable(Type.SECRET, secret("tls", b"certificate", b"very private"))
    assert shown == {
        "name": "tls",
        "tls_certificate": {
            "certificate_chain": {"inline_bytes": "Y2VydGlmaWNhdGU="},
            "private_key": {"inline_string": "[redacted]"},
        },
    }


def test_an_authority_is_public():
    shown = readable(Type.SECRET, validation_context("ca", b"ca"))
    assert shown["validation_context"]["trusted_ca"] == {"inline_bytes": "Y2E="}


@pytest.mark.parametrize("kind", Type)
def test_every_type_can_be_read(kind):
    assert readable(kind, Resource.of("nothing", b"")) == {}
