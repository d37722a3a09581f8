"""The ADS messages on the wire: requests in, responses out, without paying for what we do not read.

A real Envoy's first request carries 61 kB of node extensions. Requests are parsed by google protobuf with a descriptor
that names only the fields we use, so upb skips the rest (5 us against 44 ms with betterproto2). Responses are built
around resource bytes that were encoded once; field numbers are those of envoy/service/discovery/v3/discovery.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from xds.resources import Resource
from xds.varint import delimited


class Garbage(ValueError):
    """A request that is not the message it should be."""


@dataclass(frozen=True, slots=True)
class Node:
    """Who is asking: `cluster` names the gateway."""

    id: str
    cluster: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """A DiscoveryRequest (`names`) or a DeltaDiscoveryRequest (`subscribe`, `unsubscribe`, `initial_versions`)."""

    type_url: str
    nonce: str = ""
    error: str | None = None
    node: Node | None = None
    names: tuple[str, ...] = ()
    version: str = ""
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: dict[str, str] = field(default_factory=dict)


STRING, MESSAGE, INT32, UINT32, UINT64 = 9, 11, 5, 13, 4
ONE, MANY = 1, 3
FILE, PACKAGE = "headgate/wire.proto", "headgate.wire"


def describe(name: str, *fields: tuple[str, int, int, int, str]) -> descriptor_pb2.DescriptorProto:
    """A message of this package: its fields as (name, number, label, type, type name)."""
    made = descriptor_pb2.DescriptorProto(name=name)
    for field_name, number, label, kind, type_name in fields:
        made.field.add(
            name=field_name,
            number=number,
            label=label,
            type=kind,
            type_name=f".{PACKAGE}.{type_name}" if type_name else None,
        )
    return made


def _descriptors() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=FILE, package=PACKAGE, syntax="proto3")
    delta = describe(
        "Delta",
        ("node", 1, ONE, MESSAGE, "Node"),
        ("type_url", 2, ONE, STRING, ""),
        ("subscribe", 3, MANY, STRING, ""),
        ("unsubscribe", 4, MANY, STRING, ""),
        ("initial_versions", 5, MANY, MESSAGE, "Delta.InitialVersionsEntry"),
        ("nonce", 6, ONE, STRING, ""),
        ("error", 7, ONE, MESSAGE, "Status"),
    )
    entry = delta.nested_type.add(name="InitialVersionsEntry")
    entry.field.add(name="key", number=1, label=ONE, type=STRING)
    entry.field.add(name="value", number=2, label=ONE, type=STRING)
    entry.options.map_entry = True
    file.message_type.extend(
        [
            describe(
                "Version",
                ("major", 1, ONE, UINT32, ""),
                ("minor", 2, ONE, UINT32, ""),
                ("patch", 3, ONE, UINT32, ""),
            ),
            describe("Build", ("version", 1, ONE, MESSAGE, "Version")),
            describe(
                "Node",
                ("id", 1, ONE, STRING, ""),
                ("cluster", 2, ONE, STRING, ""),
                ("agent", 6, ONE, STRING, ""),
                ("build", 8, ONE, MESSAGE, "Build"),
            ),
            describe("Status", ("code", 1, ONE, INT32, ""), ("message", 2, ONE, STRING, "")),
            describe(
                "Sotw",
                ("version", 1, ONE, STRING, ""),
                ("node", 2, ONE, MESSAGE, "Node"),
                ("names", 3, MANY, STRING, ""),
                ("type_url", 4, ONE, STRING, ""),
                ("nonce", 5, ONE, STRING, ""),
                ("error", 6, ONE, MESSAGE, "Status"),
            ),
            delta,
        ]
    )
    return file


POOL = descriptor_pool.DescriptorPool()
POOL.Add(_descriptors())
_Sotw: Any = message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"{PACKAGE}.Sotw"))
_Delta: Any = message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"{PACKAGE}.Delta"))


def read_sotw(raw: bytes) -> Request:
    """Read a DiscoveryRequest; raises Garbage."""
    try:
        message = _Sotw.FromString(raw)
    except DecodeError as error:
        raise Garbage("not a DiscoveryRequest") from error
    return Request(
        type_url=message.type_url,
        nonce=message.nonce,
        error=message.error.message if message.HasField("error") else None,
        node=read_node(message),
        names=tuple(message.names),
        version=message.version,
    )


def read_delta(raw: bytes) -> Request:
    """Read a DeltaDiscoveryRequest; raises Garbage."""
    try:
        message = _Delta.FromString(raw)
    except DecodeError as error:
        raise Garbage("not a DeltaDiscoveryRequest") from error
    return Request(
        type_url=message.type_url,
        nonce=message.nonce,
        error=message.error.message if message.HasField("error") else None,
        node=read_node(message),
        subscribe=tuple(message.subscribe),
        unsubscribe=tuple(message.unsubscribe),
        initial_versions=dict(message.initial_versions),
    )


def read_node(message: Any) -> Node | None:
    if not message.HasField("node"):
        return None
    node, number = message.node, message.node.build.version
    version = f"{number.major}.{number.minor}.{number.patch}" if node.build.HasField("version") else ""
    return Node(node.id, node.cluster, f"{node.agent} {version}".strip())


def _any(type_url: bytes, body: bytes) -> bytes:
    return delimited(1, type_url) + delimited(2, body)


def sotw_response(type_url: str, version: str, resources: Iterable[Resource]) -> bytes:
    """A DiscoveryResponse without its nonce."""
    url = type_url.encode()
    parts = [delimited(1, version.encode())]
    parts += [delimited(2, _any(url, resource.body)) for resource in resources]
    parts.append(delimited(4, url))
    return b"".join(parts)


def delta_response(type_url: str, resources: Iterable[Resource], removed: Iterable[str]) -> bytes:
    """A DeltaDiscoveryResponse without its nonce."""
    url = type_url.encode()
    parts = [
        delimited(2, delimited(1, r.version.encode()) + delimited(2, _any(url, r.body)) + delimited(3, r.name.encode()))
        for r in resources
    ]
    parts.append(delimited(4, url))
    parts += [delimited(6, name.encode()) for name in removed]
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Framed:
    """A response as it goes on the wire, and the nonce that is in it."""

    nonce: str
    body: bytes


class Framer:
    """Builds each response once and hands the same bytes to every stream that is due the same content.

    The nonce is shared as well: on one stream it only has to tell a response from the others of its type that may still
    be answered, and there is one in flight at a time. So 1,000 streams hold one copy of a push, not 1,000.
    """

    def __init__(self, keep: int = 256, keep_bytes: int = 64 * 1024 * 1024) -> None:
        self._made: dict[tuple[object, ...], Framed] = {}
        self._count = 0
        self._keep, self._keep_bytes, self._held = keep, keep_bytes, 0

    def delta(self, type_url: str, resources: Sequence[Resource], removed: Sequence[str]) -> Framed:
        key = ("delta", type_url, *[r.version for r in resources], "-", *removed)
        return self._made.get(key) or self._put(key, delta_response(type_url, resources, removed))

    def sotw(self, type_url: str, version: str, resources: Sequence[Resource]) -> Framed:
        key = ("sotw", type_url, version, *[r.version for r in resources])
        return self._made.get(key) or self._put(key, sotw_response(type_url, version, resources))

    def _put(self, key: tuple[object, ...], response: bytes) -> Framed:
        self._count += 1
        nonce = f"{self._count:x}"
        made = Framed(nonce, response + delimited(5, nonce.encode()))
        while self._made and (len(self._made) >= self._keep or self._held + len(made.body) > self._keep_bytes):
            self._held -= len(self._made.pop(next(iter(self._made))).body)
        self._made[key] = made
        self._held += len(made.body)
        return made
