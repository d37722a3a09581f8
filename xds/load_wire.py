"""Load reports on the wire: Envoy's LoadStatsRequest in, our LoadStatsResponse out (the names are the other way round
than one thinks: Envoy opens the stream, we say what it shall report).

Every report carries the whole node with its extensions, 61 kB in all, so it is parsed by google protobuf with a
descriptor of the few fields that count, like the requests in `xds.wire`. Field numbers are those of
envoy/service/load_stats/v3/lrs.proto and envoy/config/endpoint/v3/load_report.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.message import DecodeError

from xds.varint import delimited, varint
from xds.wire import FILE, MANY, MESSAGE, ONE, PACKAGE, POOL, STRING, UINT64, Garbage, Node, describe, read_node


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Requests in progress, by cluster. A cluster that Envoy knows and that is idle is there, with 0."""

    node: Node | None
    in_progress: Mapping[str, int]


def read_report(raw: bytes) -> LoadReport:
    """Read a LoadStatsRequest; raises Garbage."""
    try:
        message = _Report.FromString(raw)
    except DecodeError as error:
        raise Garbage("not a LoadStatsRequest") from error
    in_progress: dict[str, int] = {}
    for one in message.clusters:
        here = sum(locality.in_progress for locality in one.localities)
        in_progress[one.name] = in_progress.get(one.name, 0) + here
    return LoadReport(read_node(message), in_progress)


def ask_for(clusters: Iterable[str], interval: float) -> bytes:
    """A LoadStatsResponse: report these clusters, and nothing else, every `interval` seconds."""
    seconds, rest = divmod(round(interval * 1_000_000), 1_000_000)
    duration = (b"\x08" + varint(seconds) if seconds else b"") + (b"\x10" + varint(rest * 1_000) if rest else b"")
    return b"".join(delimited(1, name.encode()) for name in clusters) + delimited(2, duration)


def _descriptors() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="headgate/load_wire.proto", package=PACKAGE, syntax="proto3")
    file.dependency.append(FILE)
    file.message_type.extend(
        [
            describe("LocalityLoad", ("in_progress", 3, ONE, UINT64, "")),
            describe("ClusterLoad", ("name", 1, ONE, STRING, ""), ("localities", 2, MANY, MESSAGE, "LocalityLoad")),
            describe("Report", ("node", 1, ONE, MESSAGE, "Node"), ("clusters", 2, MANY, MESSAGE, "ClusterLoad")),
        ]
    )
    return file


POOL.Add(_descriptors())
_Report: Any = message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"{PACKAGE}.Report"))
