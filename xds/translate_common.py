"""Pieces that several kinds of Envoy resources share."""

from __future__ import annotations

from datetime import timedelta

import betterproto2
from envoy_data_plane.envoy.config.core.v3 import (
    AggregatedConfigSource,
    ApiVersion,
    ConfigSource,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    Metadata,
)
from envoy_data_plane.google.protobuf import Any, Struct, Value
from envoy_data_plane.message_pool import default_message_pool

from xds.encode import encode, entry, field

METADATA = "headgate"


def over_ads() -> ConfigSource:
    """From the stream on which this very resource came."""
    return ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


def type_url(message: type[betterproto2.Message]) -> str:
    return default_message_pool.type_to_url[message]


def pack(message: betterproto2.Message) -> Any:
    """Wrap a message with its type, without the slow `bytes(message)` of `Any.pack`."""
    return Any(type_url=type_url(type(message)), value=encode(message))


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


def literal(value: str) -> str:
    """Envoy reads `%` as the start of a command, so a plain one is written twice."""
    return value.replace("%", "%%")


def set_header(name: str, value: str) -> HeaderValueOption:
    """Set a header, whatever was there."""
    return HeaderValueOption(
        header=HeaderValue(key=name, value=literal(value)),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
        keep_empty_value=not value,
    )


def said_of(**words: str) -> bytes:
    """Return the encoded Metadata by which we tell access logs whose a cluster or host is; empty words are left out."""
    return _OURS(b"".join([_WORDS[name](_STRING(word)) for name, word in words.items() if word]))


_OURS = entry(Metadata, "filter_metadata", METADATA)
_WORDS = {name: entry(Struct, "fields", name) for name in ("model", "version")}
_STRING = field(Value, "string_value")
