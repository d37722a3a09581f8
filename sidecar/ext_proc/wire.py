"""The messages of `envoy.service.ext_proc.v3`: bytes to what Envoy tells, and what we answer to bytes.

What comes is parsed by google's protobuf from a descriptor of ours, which has only what we read: as fast as anything
in Python can be, and it refuses what is malformed. What we answer is small and mostly the same, so it is put together
here from bytes, an eighth of the time that building messages takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2
from google.protobuf.message import DecodeError

from sidecar.plugin import Reply, Value

_Field = descriptor_pb2.FieldDescriptorProto

# Message -> its fields as "type name = number"; "*" is repeated, "|" a member of the message's oneof. What is `bytes`
# here and a string or a message on paper is left unread, or is text that need not be UTF-8. A map is what it is on the
# wire: repeated entries of key and value.
_MESSAGES: Final[dict[str, tuple[str, ...]]] = {
    "HeaderValue": ("bytes key = 1", "bytes value = 2", "bytes raw_value = 3"),
    "HeaderMap": ("*HeaderValue headers = 1",),
    "HttpHeaders": ("HeaderMap headers = 1", "bool end_of_stream = 3"),
    "HttpBody": ("bytes body = 1", "bool end_of_stream = 2"),
    "HttpTrailers": ("HeaderMap trailers = 1",),
    "Attributes": ("string key = 1", "bytes value = 2"),
    "ProtocolConfiguration": (
        "int32 request_body_mode = 1",
        "int32 response_body_mode = 2",
        "bool send_body_without_waiting_for_header_response = 3",
    ),
    "ProcessingRequest": (
        "|HttpHeaders request_headers = 2",
        "|HttpHeaders response_headers = 3",
        "|HttpBody request_body = 4",
        "|HttpBody response_body = 5",
        "|HttpTrailers request_trailers = 6",
        "|HttpTrailers response_trailers = 7",
        "*Attributes attributes = 9",
        "bool observability_mode = 10",
        "ProtocolConfiguration protocol_config = 11",
    ),
}
_SCALARS: Final = {
    "bytes": _Field.TYPE_BYTES,
    "string": _Field.TYPE_STRING,
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
}

NONE, STREAMED, BUFFERED, BUFFERED_PARTIAL = 0, 1, 2, 3  # how bodies are sent
MODES: Final = ("NONE", "STREAMED", "BUFFERED", "BUFFERED_PARTIAL")

# The field of an answer is the question's less one.
REQUEST_HEADERS, RESPONSE_HEADERS, REQUEST_BODY, RESPONSE_BODY, REQUEST_TRAILERS, RESPONSE_TRAILERS = range(2, 8)
QUESTIONS: Final = {
    "request_headers": REQUEST_HEADERS,
    "response_headers": RESPONSE_HEADERS,
    "request_body": REQUEST_BODY,
    "response_body": RESPONSE_BODY,
    "request_trailers": REQUEST_TRAILERS,
    "response_trailers": RESPONSE_TRAILERS,
}

Changes = Iterable[tuple[str, tuple[str, ...]]]


class Malformed(ValueError):
    """These bytes are no message, or one without a question."""


def _classes() -> tuple[Any, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="headgate/ext_proc.proto", package="ext_proc", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for text in fields:
            kind, field_name, _, number = text.split()
            field = message.field.add(name=field_name, number=int(number), label=_Field.LABEL_OPTIONAL)
            if kind[0] == "*":
                field.label = _Field.LABEL_REPEATED
            elif kind[0] == "|":
                if not message.oneof_decl:
                    message.oneof_decl.add(name="request")
                field.oneof_index = 0
            kind = kind.lstrip("*|")
            field.type = _SCALARS.get(kind, _Field.TYPE_MESSAGE)
            if kind not in _SCALARS:
                field.type_name = f".ext_proc.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = (pool.FindMessageTypeByName(f"ext_proc.{name}") for name in ("ProcessingRequest", "HeaderMap"))
    request, header_map = (message_factory.GetMessageClass(one) for one in made)
    return request, header_map


_Request, _HeaderMap = _classes()
_parse: Final = _Request.FromString
_parse_headers: Final = _HeaderMap.FromString


def parse(data: bytes) -> tuple[int, Any, Any]:
    """The question (REQUEST_HEADERS ...), what it asks with, and the whole message."""
    try:
        request = _parse(data)
    except DecodeError:
        raise Malformed("this is no ProcessingRequest") from None
    name = request.WhichOneof("request")
    if name is None:
        raise Malformed("a ProcessingRequest without headers, body or trailers")
    return QUESTIONS[name], getattr(request, name), request


def usual(data: bytes) -> tuple[int, Any, bool, bytes] | None:
    """A question about headers, its HeaderMap, whether the message ends with them, and what comes after HttpHeaders:
    a third of the time that `parse` takes. None for what is laid out otherwise than Envoy does, or malformed."""
    tag = data[:1]
    if tag != b"\x12" and tag != b"\x1a":
        return None
    try:
        size, at = data[1], 2
        if size > 127:
            size, at = size & 127 | data[2] << 7, 3
            if size > 16_383:
                return None
        end = at + size
        size, begin = data[at + 1], at + 2
        if size > 127:
            size, begin = size & 127 | data[begin] << 7, begin + 1
            if size > 16_383:
                return None
        close = begin + size
        if data[at] != 10 or end > len(data) or close > end:
            return None
        last = data[close:end]
        if last and last != b"\x18\x01":
            return None
        return tag[0] >> 3, _parse_headers(data[begin:close]), bool(last), data[end:]
    except (IndexError, DecodeError):
        return None


def pairs(headers: Any) -> list[tuple[str, str]]:
    """The headers of a HeaderMap. Envoy sends `raw_value`; older ones `value`."""
    return [
        (str(one.key, "utf-8", "surrogateescape"), str(one.raw_value or one.value, "utf-8", "surrogateescape"))
        for one in headers.headers
    ]


def attributes(request: Any) -> dict[str, Value]:
    """Envoy's attributes by name. What is malformed in there is left out."""
    found: dict[str, Value] = {}
    for entry in request.attributes:
        struct = struct_pb2.Struct()
        try:
            struct.ParseFromString(entry.value)
        except DecodeError:
            continue
        for name, value in struct.fields.items():
            kind = value.WhichOneof("kind")
            if kind in ("string_value", "number_value", "bool_value"):
                found[name] = getattr(value, kind)
    return found


# Answers


def headers_or_body(
    question: int, changes: Changes = (), body: bytes | None = None, *, clear_route: bool = False, extra: bytes = b""
) -> bytes:
    """Go on, with these changes to the headers and, if it is not None, this body. `extra`: metadata, a mode."""
    common = b""
    if changes:
        common = _part(b"\x12", mutation(changes))
    if body is not None:
        if body:
            return _with_body(question, common, body, b"\x28\x01" if clear_route else b"", extra)
        common += b"\x1a\x02\x10\x01"
    if clear_route and common:
        common += b"\x28\x01"
    if not common and not extra:
        return _NOTHING[question]
    return _part(_tag(question - 1), _part(b"\x0a", common)) + extra


def _with_body(question: int, before: bytes, body: bytes, after: bytes, extra: bytes) -> bytes:
    """What `_part` in `_part` would make, the body copied once only."""
    head = b"\x0a" + _number(len(body))
    head = b"\x1a" + _number(len(head) + len(body)) + head
    inner = len(before) + len(head) + len(body) + len(after)
    common = b"\x0a" + _number(inner)
    outer = _tag(question - 1) + _number(len(common) + inner)
    return b"".join((outer, common, before, head, body, after, extra))


@lru_cache(4096)
def short(question: int, changed: bytes) -> bytes:
    """`headers_or_body` with a short `mutation`, and gRPC's five bytes before it."""
    return framed(question, changed)


def framed(question: int, changed: bytes) -> bytes:
    """The same, not kept."""
    message = _NOTHING[question]
    if changed:
        common = _part(b"\x12", changed) + (b"\x28\x01" if question == REQUEST_HEADERS else b"")
        message = _part(_tag(question - 1), _part(b"\x0a", common))
    return b"\0" + len(message).to_bytes(4, "big") + message


def trailers(question: int, changes: Changes = (), *, extra: bytes = b"") -> bytes:
    """Go on, with these changes to the trailers."""
    return _part(_tag(question - 1), _part(b"\x0a", mutation(changes)) if changes else b"") + extra


def immediate(reply: Reply, *, extra: bytes = b"") -> bytes:
    """Answer the client at once."""
    changes: dict[str, tuple[str, ...]] = {}
    for name, value in reply.headers:
        changes[name] = (*changes.get(name, ()), value)
    text = _part(b"\x0a", b"\x08" + _number(reply.status)) + _part(b"\x12", mutation(changes.items()))
    if reply.body:
        text += _part(b"\x1a", reply.body)
    if reply.grpc_status is not None:
        text += _part(b"\x22", b"\x08" + _number(reply.grpc_status))
    return _part(b"\x3a", text + b"\x2a\x06plugin") + extra


def mutation(changes: Changes) -> bytes:
    """A HeaderMutation: each name with its values from now on, none when it is removed."""
    text = b""
    for name, values in changes:
        if values:
            text += put(name, values[0])
            for value in values[1:]:
                text += _part(b"\x0a", _part(b"\x0a", _header(name, value)))  # appended
        else:
            text += _part(b"\x12", name.encode("utf-8", "surrogateescape"))
    return text


def metadata(values: Mapping[str, Mapping[str, Value]]) -> bytes:
    """The part of an answer that sets dynamic metadata."""
    struct = struct_pb2.Struct()
    for namespace, one in values.items():
        inner = struct.fields[namespace].struct_value
        for key, value in one.items():
            inner.fields[key].CopyFrom(_value(value))
    return _part(b"\x42", struct.SerializeToString())


def mode(request_body: int, response_body: int, response_headers: bool, trailers: tuple[bool, bool]) -> bytes:
    """The part of an answer to headers that says what we want to see from now on."""
    send, skip = 1, 2
    text = b"\x10" + _number(send if response_headers else skip)
    text += b"\x18" + _number(request_body) + b"\x20" + _number(response_body)
    for tag, wanted in zip((b"\x28", b"\x30"), trailers, strict=True):
        text += tag + _number(send if wanted else skip)
    return _part(b"\x4a", text)


def more_time(seconds: float) -> bytes:
    """Not an answer yet: wait so long for it."""
    nanos = max(1_000_000, int(seconds * 1e9))
    return _part(b"\x52", b"\x08" + _number(nanos // 10**9) + b"\x10" + _number(nanos % 10**9))


def _value(value: Value) -> struct_pb2.Value:
    match value:
        case None:
            return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
        case bool():
            return struct_pb2.Value(bool_value=value)
        case int() | float():
            return struct_pb2.Value(number_value=_float(value))
        case bytes():
            return struct_pb2.Value(string_value=value.decode("latin-1"))
        case _:
            return struct_pb2.Value(string_value=value.encode("utf-8", "replace").decode())


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def put(name: str, value: str) -> bytes:
    """Make this the header's only value; in the words of the protocol OVERWRITE_IF_EXISTS_OR_ADD."""
    return _kept(name, value) if len(value) <= SHORT else _put(name, value)


def _put(name: str, value: str) -> bytes:
    # keep_empty_value, or an empty value would be a removal
    return _part(b"\x0a", _part(b"\x0a", _header(name, value)) + b"\x18\x02" + (b"" if value else b"\x20\x01"))


def _header(name: str, value: str) -> bytes:
    return _part(b"\x0a", name.encode("utf-8", "surrogateescape")) + _part(
        b"\x1a", value.encode("utf-8", "surrogateescape")
    )


def _part(tag: bytes, data: bytes) -> bytes:
    size = len(data)
    return tag + (_SMALL[size] if size < 128 else _number(size)) + data


def _tag(field: int) -> bytes:
    return bytes((field << 3 | 2,))


def _number(value: int) -> bytes:
    text = bytearray()
    while value > 127:
        text.append(value & 127 | 128)
        value >>= 7
    text.append(value)
    return bytes(text)


SHORT: Final = 256  # what is not longer is kept encoded, thousands of times
_kept: Final = lru_cache(4096)(_put)
_SMALL: Final = tuple(bytes((size,)) for size in range(128))
_NOTHING: Final = {question: _tag(question - 1) + b"\x00" for question in range(2, 8)}
