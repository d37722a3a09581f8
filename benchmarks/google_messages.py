"""Envoy's messages as google protobuf classes, made at run time from the field metadata of envoy-data-plane.

The rival in the fan-out benchmark is written the usual way, with google's protobuf. Its generated modules for Envoy
(`xds-protos`) would claim the top-level name `xds`, so they cannot be installed here; the wire format is the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

TYPES = {
    name: getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{name.upper()}")
    for name in [
        "double",
        "float",
        "int64",
        "uint64",
        "int32",
        "fixed64",
        "fixed32",
        "bool",
        "string",
        "message",
        "bytes",
        "uint32",
        "sfixed32",
        "sfixed64",
        "sint32",
        "sint64",
    ]
}
TYPES["enum"] = TYPES["int32"]  # the same bytes


def google_class(message: type[Any]) -> type[Any]:
    """The google protobuf twin of a betterproto2 class. Map fields are left out: the benchmark's messages use none."""
    made: type[Any] = message_factory.GetMessageClass(_pool().FindMessageTypeByName(_add(message)))  # type: ignore[arg-type]
    return made


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    return descriptor_pool.DescriptorPool()


@cache
def _add(root: type[Any]) -> str:
    """Everything reachable goes into one file, because Envoy's messages refer to each other in circles."""
    package = f"benchmark.{root.__module__}.{root.__qualname__}"
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    seen: dict[type[Any], str] = {}
    waiting = [root]
    while waiting:
        message = waiting.pop()
        if message in seen:
            continue
        seen[message] = f"M{len(seen)}"
        waiting.extend(kind for _, _, kind in _fields(message) if kind is not None)
    for message, name in seen.items():
        proto = file.message_type.add(name=name)
        groups: dict[str, int] = {}
        for field_name, meta, kind in _fields(message):
            field = proto.field.add(name=field_name, number=meta.number, type=TYPES[meta.proto_type])
            field.label = field.LABEL_REPEATED if meta.repeated else field.LABEL_OPTIONAL
            if kind is not None:
                field.type_name = f".{file.package}.{seen[kind]}"
            if meta.group:
                if meta.group not in groups:
                    groups[meta.group] = len(proto.oneof_decl)
                    proto.oneof_decl.add(name=f"{meta.group}_choice")
                field.oneof_index = groups[meta.group]
    _pool().AddSerializedFile(file.SerializeToString())
    return f"{file.package}.{seen[root]}"


def _fields(message: type[Any]) -> list[tuple[str, Any, type[Any] | None]]:
    known = message._betterproto
    return [
        (name, meta, _kind(known, name, meta) if meta.proto_type == "message" else None)
        for name, meta in known.meta_by_field_name.items()
        if not meta.map_meta and meta.proto_type in TYPES
    ]


def _kind(known: Any, name: str, meta: Any) -> type[Any]:
    found: type[Any] = meta.unwrap() if meta.unwrap else known.cls_by_field[name]
    return found
