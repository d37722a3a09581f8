"""An Envoy message in, its protobuf bytes out; and the means to join bytes that were encoded before.

`bytes(message)` of betterproto2 compiles a pydantic validator for every message instance it meets: 4-6 ms for one
small RouteConfiguration. The message was validated when it was built, so here the fields are only written, by a plan
that is made once per class from the field metadata that betterproto2 keeps.

That metadata is private to betterproto2, hence the version check below; tests hold the result against
`bytes(message)` and against google's protobuf.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any, cast

import betterproto2

from xds.varint import varint

SUPPORTED = "0.9."

if not betterproto2.__version__.startswith(SUPPORTED):
    raise ImportError(
        f"xds.encode reads field metadata that is private to betterproto2 {SUPPORTED}x, but {betterproto2.__version__} "
        f"is installed: install betterproto2>=0.9,<0.10, or teach xds/encode.py the new release and run its tests"
    )

Writer = Callable[[Any], bytes]
"""Writes one field, tag included. A repeated field takes its whole list."""


def encode(message: betterproto2.Message) -> bytes:
    """Return the wire format of `message`: what `bytes(message)` returns, in a fraction of the time."""
    values = message.__dict__
    parts = [
        write(values[name])
        for name, has_presence, write in _plan(type(message))
        if (values[name] is not None if has_presence else values[name])
    ]
    if message._unknown_fields:
        parts.append(message._unknown_fields)
    return b"".join(parts)


@cache
def field(message: type[betterproto2.Message], name: str) -> Writer:
    """Return what writes the field `name` of `message`, to append to bytes of that message.

    Protobuf allows fields in any order, so a message is the bytes that never change plus the fields that do.
    """
    return next(write for known, _, write in _plan(message) if known == name)


@cache
def embed(message: type[betterproto2.Message], name: str) -> Callable[[bytes], bytes]:
    """Return what writes the message field `name` of `message` from an encoded message (one element, if repeated)."""
    meta = _fields(message)[name]
    if meta.proto_type not in (betterproto2.TYPE_MESSAGE, betterproto2.TYPE_BYTES):
        raise TypeError(f"{message.__name__}.{name} is a {meta.proto_type}: only messages and bytes can be embedded")
    return _delimited(meta.number)


@cache
def entry(message: type[betterproto2.Message], name: str, key: str) -> Callable[[bytes], bytes]:
    """Return what writes the entry `key` of the map field `name` from an encoded message."""
    meta = _fields(message)[name]
    if meta.map_meta is None or meta.map_meta[1].proto_type != betterproto2.TYPE_MESSAGE:
        raise TypeError(f"{message.__name__}.{name} is not a map of messages")
    frame, value = _delimited(meta.number), _delimited(2)
    written_key = _single(meta.map_meta[0])(key)
    return lambda body: frame(written_key + value(body))


def _fields(message: type[betterproto2.Message]) -> dict[str, betterproto2.FieldMetadata]:
    """Equal to `message._betterproto.meta_by_field_name`, which would also resolve every type hint: 100 ms in all."""
    return {each.name: betterproto2.FieldMetadata.get(each) for each in dataclasses.fields(cast(Any, message))}


@cache
def _plan(message: type[betterproto2.Message]) -> tuple[tuple[str, bool, Writer], ...]:
    """For every field, in the order of betterproto2: its name, whether zero differs from absent, how to write it."""
    return tuple((name, _has_presence(meta), _writer(meta)) for name, meta in _fields(message).items())


def _has_presence(meta: betterproto2.FieldMetadata) -> bool:
    """None stands for absent here. Floats are sent to their writer even when falsy: -0.0 is not the default."""
    singular = not meta.repeated and not meta.map_meta
    return singular and bool(meta.optional or meta.group or meta.proto_type in (betterproto2.TYPE_MESSAGE, *_FLOATS))


def _writer(meta: betterproto2.FieldMetadata) -> Writer:
    if meta.map_meta:
        return _map(meta)
    if not meta.repeated:
        single = _single(meta)
        if meta.proto_type in _FLOATS and not (meta.optional or meta.group):
            return lambda value: single(value) if value or math.copysign(1.0, value) < 0 else b""
        return single
    if meta.proto_type in betterproto2.PACKED_TYPES:
        item, frame = _SCALARS[meta.proto_type], _delimited(meta.number)
        return lambda values: frame(b"".join([item(value) for value in values]))
    single = _single(meta)
    return lambda values: b"".join([single(value) for value in values])


def _map(meta: betterproto2.FieldMetadata) -> Writer:
    assert meta.map_meta is not None
    key, value = (_single(part) for part in meta.map_meta)
    entry = _delimited(meta.number)
    return lambda values: b"".join([entry(key(k) + value(v)) for k, v in values.items()])


def _single(meta: betterproto2.FieldMetadata) -> Writer:
    """Write one value with its tag, zero or not."""
    kind = meta.proto_type
    frame = _delimited(meta.number)
    if kind == betterproto2.TYPE_MESSAGE:
        body = _wrapped(meta.unwrap()) if meta.unwrap else encode
        return lambda value: frame(body(value))
    if kind == betterproto2.TYPE_STRING:
        return lambda value: frame(value.encode())
    if kind == betterproto2.TYPE_BYTES:
        return frame
    tag, payload = _tag(meta.number, kind), _SCALARS[kind]
    return lambda value: tag + payload(value)


def _wrapped(message: Any) -> Writer:
    """Encode a well-known type that betterproto2 shows as a plain Python value (timedelta, bool | None, ...)."""
    if message.__name__ == "Duration":
        return _duration
    if list(_fields(message)) == ["value"]:
        ((_, has_presence, write),) = _plan(message)
        return write if has_presence else lambda value: write(value) if value else b""
    return lambda value: encode(message.from_wrapped(value))


def _duration(value: timedelta) -> bytes:
    """Seconds and nanoseconds carry the same sign, which betterproto2 0.9.1 misses for negative durations."""
    microseconds = value // _MICROSECOND
    sign = -1 if microseconds < 0 else 1
    seconds, rest = divmod(abs(microseconds), 1_000_000)
    return (b"\x08" + _int64(sign * seconds) if seconds else b"") + (
        b"\x10" + _int32(sign * rest * 1_000) if rest else b""
    )


_MICROSECOND = timedelta(microseconds=1)


def _delimited(number: int) -> Callable[[bytes], bytes]:
    tag = varint(number << 3 | 2)

    def frame(body: bytes) -> bytes:
        size = len(body)
        return tag + (_SMALL[size] if size < len(_SMALL) else varint(size)) + body

    return frame


def _tag(number: int, kind: str) -> bytes:
    if kind in betterproto2.WIRE_FIXED_32_TYPES:
        return varint(number << 3 | 5)
    if kind in betterproto2.WIRE_FIXED_64_TYPES:
        return varint(number << 3 | 1)
    return varint(number << 3)


_SMALL = tuple(varint(value) for value in range(1 << 11))


def _integer(low: int, high: int, to_unsigned: Callable[[int], int]) -> Writer:
    def write(value: int) -> bytes:
        if not low <= value <= high:
            raise ValueError(f"{value} is outside {low}..{high}, what its protobuf field can hold")
        return varint(to_unsigned(value))

    return write


def _signed(bits: int) -> Writer:
    return _integer(-(1 << bits - 1), (1 << bits - 1) - 1, lambda value: value & 0xFFFF_FFFF_FFFF_FFFF)


def _unsigned(bits: int) -> Writer:
    return _integer(0, (1 << bits) - 1, int)


def _zigzag(bits: int) -> Writer:
    return _integer(-(1 << bits - 1), (1 << bits - 1) - 1, lambda value: value << 1 if value >= 0 else ~(value << 1))


_int32, _int64 = _signed(32), _signed(64)
_FLOATS = (betterproto2.TYPE_FLOAT, betterproto2.TYPE_DOUBLE)
_SCALARS: dict[str, Writer] = {
    betterproto2.TYPE_ENUM: _int32,
    betterproto2.TYPE_BOOL: lambda value: b"\x01" if value else b"\x00",
    betterproto2.TYPE_INT32: _int32,
    betterproto2.TYPE_INT64: _int64,
    betterproto2.TYPE_UINT32: _unsigned(32),
    betterproto2.TYPE_UINT64: _unsigned(64),
    betterproto2.TYPE_SINT32: _zigzag(32),
    betterproto2.TYPE_SINT64: _zigzag(64),
    betterproto2.TYPE_FLOAT: struct.Struct("<f").pack,
    betterproto2.TYPE_DOUBLE: struct.Struct("<d").pack,
    betterproto2.TYPE_FIXED32: struct.Struct("<I").pack,
    betterproto2.TYPE_FIXED64: struct.Struct("<Q").pack,
    betterproto2.TYPE_SFIXED32: struct.Struct("<i").pack,
    betterproto2.TYPE_SFIXED64: struct.Struct("<q").pack,
}
