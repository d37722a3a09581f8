"""What we read and write is what google's protobuf reads and writes; what is malformed is refused."""

from __future__ import annotations

from typing import Any

import pytest
from ext_proc_messages import ProcessingRequest, ProcessingResponse
from hypothesis import given
from hypothesis import strategies as st

from sidecar.ext_proc import wire
from sidecar.plugin import Reply

names = st.from_regex(r"[a-z][a-z0-9-]{0,150}", fullmatch=True)
values = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\n\0"), max_size=300)
headers = st.lists(st.tuples(names, values), max_size=20)
changes = st.dictionaries(names, st.lists(values, max_size=3).map(tuple), max_size=5).map(
    lambda one: tuple(one.items())
)
HEADERS_AND_BODIES = ("request_headers", "response_headers", "request_body", "response_body")


def read(data: bytes) -> Any:
    return ProcessingResponse.FromString(data)


def told(mutation: Any) -> dict[str, tuple[str, ...]]:
    """What a HeaderMutation makes of each header."""
    found: dict[str, tuple[str, ...]] = {}
    for option in mutation.set_headers:
        name, value = option.header.key, option.header.raw_value.decode()
        assert option.append_action == (0 if name in found else 2)
        assert value or name in found or option.keep_empty_value
        found[name] = (*found.get(name, ()), value)
    return found | dict.fromkeys(mutation.remove_headers, ())


@given(st.sampled_from(("request_headers", "response_headers")), headers, st.booleans(), st.booleans())
def test_headers_are_read(name: str, sent: list[tuple[str, str]], end: bool, raw: bool) -> None:
    message = ProcessingRequest()
    part = getattr(message, name)
    part.end_of_stream = end
    for key, value in sent:
        part.headers.headers.add(key=key, **({"raw_value": value.encode()} if raw else {"value": value}))
    question, what, _ = wire.parse(message.SerializeToString()) if sent or end else (wire.QUESTIONS[name], part, None)
    assert question == wire.QUESTIONS[name]
    assert wire.pairs(what.headers) == sent
    assert what.end_of_stream == end


@given(st.sampled_from(("request_body", "response_body")), st.binary(min_size=1, max_size=1000), st.booleans())
def test_bodies_are_read(name: str, body: bytes, end: bool) -> None:
    message = ProcessingRequest(**{name: {"body": body, "end_of_stream": end}})
    question, what, _ = wire.parse(message.SerializeToString())
    assert (question, what.body, what.end_of_stream) == (wire.QUESTIONS[name], body, end)


@given(st.dictionaries(names, st.one_of(values, st.booleans(), st.floats(allow_nan=False)), max_size=5))
def test_attributes_are_read(sent: dict[str, Any]) -> None:
    message = ProcessingRequest(request_headers={"end_of_stream": True})
    message.attributes.add(key="envoy.filters.http.ext_proc").value.update(sent)
    assert wire.attributes(wire.parse(message.SerializeToString())[2]) == sent


def test_text_that_is_no_utf_8_stays_what_it_is() -> None:
    message = ProcessingRequest()
    message.request_headers.headers.headers.add(key="x-name", raw_value=b"caf\xe9")
    _, what, _ = wire.parse(message.SerializeToString())
    pairs = wire.pairs(what.headers)
    answer = read(wire.headers_or_body(wire.REQUEST_HEADERS, ((pairs[0][0], (pairs[0][1],)),)))
    assert answer.request_headers.response.header_mutation.set_headers[0].header.raw_value == b"caf\xe9"


@given(st.sampled_from(HEADERS_AND_BODIES), changes, st.none() | st.binary(max_size=300), st.booleans())
def test_answers_are_what_protobuf_reads(name: str, wanted: Any, body: bytes | None, clear: bool) -> None:
    answer = read(wire.headers_or_body(wire.QUESTIONS[name], wanted, body, clear_route=clear))
    assert answer.WhichOneof("one") == name
    common = getattr(answer, name).response
    assert told(common.header_mutation) == dict(wanted)
    if body is None:
        assert not common.HasField("body_mutation")
    else:
        assert common.body_mutation.body == body
        assert common.body_mutation.clear_body == (not body)
    assert common.clear_route_cache == (clear and (bool(wanted) or body is not None))


@given(st.sampled_from(("request_trailers", "response_trailers")), changes)
def test_answers_to_trailers_are_what_protobuf_reads(name: str, wanted: Any) -> None:
    answer = read(wire.trailers(wire.QUESTIONS[name], wanted))
    assert answer.WhichOneof("one") == name
    assert told(getattr(answer, name).header_mutation) == dict(wanted)


@given(st.integers(200, 599), st.binary(max_size=300), headers, st.none() | st.integers(0, 16))
def test_replies_are_what_protobuf_reads(
    status: int, body: bytes, sent: list[tuple[str, str]], grpc_status: int | None
) -> None:
    answer = read(wire.immediate(Reply(status, body, tuple(sent), grpc_status))).immediate_response
    assert (answer.status.code, answer.body) == (status, body)
    found = told(answer.headers)
    assert {name: found[name] for name, _ in sent} == found
    assert [value for name, value in sent if name == sent[0][0]] == list(found[sent[0][0]]) if sent else not found
    assert answer.HasField("grpc_status") == (grpc_status is not None)
    assert answer.grpc_status.status == (grpc_status or 0)


@given(
    st.dictionaries(names, st.dictionaries(names, st.one_of(values, st.booleans(), st.integers(), st.none()))),
    st.floats(0.001, 100_000),
)
def test_what_is_told_besides_is_what_protobuf_reads(sent: Any, seconds: float) -> None:
    mode = wire.mode(wire.BUFFERED, wire.STREAMED, True, (False, True))
    extra = wire.metadata(sent) + mode
    answer = read(wire.headers_or_body(wire.REQUEST_HEADERS, extra=extra))
    assert answer.WhichOneof("one") == "request_headers"
    assert {key: set(one.struct_value.fields) for key, one in answer.dynamic_metadata.fields.items()} == {
        key: set(one) for key, one in sent.items()
    }
    override = answer.mode_override
    assert (override.request_body_mode, override.response_body_mode) == (2, 1)
    assert (override.response_header_mode, override.request_trailer_mode, override.response_trailer_mode) == (1, 2, 1)
    time = read(wire.more_time(seconds))
    assert time.WhichOneof("one") is None
    got = time.override_message_timeout
    assert got.seconds + got.nanos / 1e9 == pytest.approx(seconds, abs=1e-6)


@given(st.binary(max_size=200))
def test_what_is_no_message_is_refused(data: bytes) -> None:
    try:
        question, what, request = wire.parse(data)
    except wire.Malformed:
        return
    if question <= wire.RESPONSE_HEADERS:
        wire.pairs(what.headers)
    wire.attributes(request)


@given(st.data())
def test_a_message_that_was_damaged_never_does_more_than_be_refused(data: st.DataObject) -> None:
    message = ProcessingRequest()
    message.request_headers.headers.headers.add(key=":path", raw_value=b"/v2/models/iris")
    message.attributes.add(key="a").value.update({"xds.route_name": "all"})
    sound = bytearray(message.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        sound[data.draw(st.integers(0, len(sound) - 1))] = data.draw(st.integers(0, 255))
    try:
        question, what, request = wire.parse(bytes(sound[: data.draw(st.integers(0, len(sound)))]))
    except wire.Malformed:
        return
    if question <= wire.RESPONSE_HEADERS:
        wire.pairs(what.headers)
    wire.attributes(request)


@given(st.sampled_from(("request_headers", "response_headers")), headers, st.booleans(), st.booleans(), st.booleans())
def test_the_short_reading_reads_what_the_whole_one_reads(
    name: str, sent: list[tuple[str, str]], end: bool, configured: bool, spoilt: bool
) -> None:
    message = ProcessingRequest()
    part = getattr(message, name)
    part.end_of_stream = end
    part.headers.SetInParent()
    for key, value in sent:
        part.headers.headers.add(key=key, raw_value=value.encode())
    if configured:
        message.protocol_config.SetInParent()
    data = message.SerializeToString()
    short = wire.usual(data[:-1] if spoilt else data)
    if spoilt:
        assert short is None or configured
        return
    assert short is not None
    question, raw, last, rest = short
    assert (question, last, rest) == (wire.QUESTIONS[name], end, b"Z\0" if configured else b"")
    assert wire.pairs(raw) == sent


@given(st.data())
def test_the_short_reading_never_reads_what_the_whole_one_does_not(data: st.DataObject) -> None:
    message = ProcessingRequest()
    message.request_headers.headers.headers.add(key=":path", raw_value=b"/v2/models/iris")
    message.request_headers.headers.headers.add(key="x-long", raw_value=b"a" * 200)
    message.request_headers.end_of_stream = True
    damaged = bytearray(message.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    text = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    short = wire.usual(text)
    if short is None or short[3]:
        return
    question, what, _ = wire.parse(text)
    assert (question, what.end_of_stream) == (short[0], short[2])
    assert wire.pairs(what.headers) == wire.pairs(short[1])


@given(st.sampled_from(("request_headers", "response_headers")), changes)
def test_short_answers_are_the_others_in_a_frame_of_grpcs(name: str, wanted: Any) -> None:
    question = wire.QUESTIONS[name]
    whole = wire.headers_or_body(question, wanted, clear_route=question == wire.REQUEST_HEADERS)
    for made in (wire.short, wire.framed):
        assert made(question, wire.mutation(wanted)) == b"\0" + len(whole).to_bytes(4, "big") + whole


def test_the_numbers_of_fields_are_envoys() -> None:
    from envoy_data_plane.envoy.service.ext_proc import v3

    for kind in ("ProcessingRequest", "ProcessingResponse", "CommonResponse", "ImmediateResponse", "HttpHeaders"):
        theirs = {name: field.number for name, field in getattr(v3, kind)()._betterproto.meta_by_field_name.items()}
        ours = {"ProcessingRequest": ProcessingRequest, "ProcessingResponse": ProcessingResponse}.get(kind)
        if ours is not None:
            for field in ours.DESCRIPTOR.fields:
                assert theirs[field.name] == field.number
    for name, number in wire.QUESTIONS.items():
        assert v3.ProcessingRequest()._betterproto.meta_by_field_name[name].number == number
        assert v3.ProcessingResponse()._betterproto.meta_by_field_name[name].number == number - 1
