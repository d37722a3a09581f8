"""Which version answered: rules in turn, headers first, bodies without reading all of them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.demo.v2_messages import ModelInferResponse
from loadgen.attribution import Attribution, json_field, protobuf_field
from loadgen.plan import Grpc, Target

TARGET = "http://x/"


def test_the_first_rule_that_finds_something_wins() -> None:
    rules = Attribution.of(Target(TARGET, attribution=("header:App-Version", "header:x-other", "body:model_version")))
    body = b'{"model_name":"iris","model_version":"v3"}'
    assert rules.version({"app-version": "v1", "x-other": "v2"}, body) == "v1"
    assert rules.version({"app-version": "", "x-other": "v2"}, body) == "v2"
    assert rules.version({}, body) == "v3"
    assert rules.version({}) is None
    assert (rules.headers, rules.leading_headers, rules.reads_body) == (("app-version", "x-other"),) * 2 + (True,)


def test_a_body_asked_first_is_asked_first() -> None:
    rules = Attribution.of(Target(TARGET, attribution=("body:model", "header:app-version")))
    assert rules.leading_headers == ()
    assert rules.version({"app-version": "v1"}, b'{"model":"m-7b"}') == "m-7b"


def test_a_pinned_version_needs_no_answer() -> None:
    rules = Attribution.of(Target(TARGET, version="v2", attribution=("nonsense",)))
    assert rules.version({"app-version": "v1"}) == "v2"
    assert not rules.reads_body


def test_every_wrong_rule_is_named() -> None:
    with pytest.raises(ValueError, match=r"'app-version', 'header:', 'body:a b'.*header:NAME, or body:FIELD"):
        Attribution.of(Target(TARGET, attribution=("app-version", "header:", "body:a b", "header:ok")))


@pytest.mark.parametrize(
    ("method", "reads"), [("inference.GRPCInferenceService/ModelInfer", True), ("my.Echo/Say", False)]
)
def test_fields_of_other_grpc_answers_mean_something_else(method: str, reads: bool) -> None:
    assert Attribution.of(Target(TARGET, protocol="grpc", grpc=Grpc(method, b""))).reads_body is reads


names = st.sampled_from(["model_name", "model_version", "outputs"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8) | st.sampled_from(["model_version", '"}{\\']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(names, values, max_size=3) | values, st.sampled_from([None, 1]), st.booleans())
@settings(max_examples=400, deadline=None)
def test_a_json_field_is_what_parsing_all_of_it_would_find(document: object, indent: int | None, ascii: bool) -> None:
    body = json.dumps(document, indent=indent, ensure_ascii=ascii).encode()
    truth = document.get("model_version") if isinstance(document, dict) else None
    expected = str(truth) if isinstance(truth, str | int | float) and not isinstance(truth, bool) else None
    assert json_field(body, "model_version") == expected


def test_the_beginning_of_a_json_body_may_be_enough() -> None:
    assert json_field(b'{"model_name": "iris", "model_version" : "v2", "outputs": [{"da', "model_version") == "v2"
    assert json_field(b'{"outputs": [{"model_version": "v9"}, {"da', "model_version") is None
    assert json_field(b"[" * 100_000 + b'"model_version":"x"', "model_version") is None


@given(st.text(max_size=300), st.text(max_size=5), st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_a_protobuf_field_is_what_protobuf_finds(name: str, version: str, raw: bytes) -> None:
    message = ModelInferResponse(model_name=name, model_version=version, id="7", raw_output_contents=[raw])
    data = message.SerializeToString()
    assert (protobuf_field(data, "model_version") or "") == version
    assert (protobuf_field(data, "model_name") or "") == name


@given(st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_message_or_none(data: bytes) -> None:
    found = protobuf_field(data, "model_version")
    assert found is None or isinstance(found, str)
    json_field(data, "model_version")
