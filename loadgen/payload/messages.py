"""Messages of a gRPC method: JSON in protobuf's mapping -> bytes, by the descriptors that a plan carries.

On the wire each message has five bytes before it: that it is not compressed, and how long it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError

_KNOWN_TYPES = "google.protobuf."  # their JSON is not that of their fields


class NoMessage(ValueError):
    """A payload that is no message of the method; its text, which is for the user, names the field."""


def pool_of(files: bytes) -> Any:
    """The descriptor pool of a serialized FileDescriptorSet. Raises ValueError."""
    try:
        found = descriptor_pb2.FileDescriptorSet.FromString(files)
    except DecodeError:
        raise ValueError("this is no serialized google.protobuf.FileDescriptorSet") from None
    if not found.file:
        raise ValueError("this set of descriptors is empty")
    waiting = {file.name: file for file in found.file}
    pool = descriptor_pool.DescriptorPool()
    names: set[str] = set()

    def add(name: str, needed_by: str) -> None:
        if name in names:
            return
        names.add(name)
        file = waiting.get(name) or _well_known(name)
        if file is None:
            raise ValueError(f"{needed_by} imports {name}, which is not in the set: make it with --include_imports")
        for dependency in file.dependency:
            add(dependency, name)
        pool.Add(file)

    try:
        for name in waiting:
            add(name, "")
    except TypeError as error:  # what protobuf raises for descriptors that contradict each other
        raise ValueError(f"these descriptors do not fit together: {error}") from None
    return pool


def _well_known(name: str) -> Any:
    """Protobuf's own files, which many a set leaves out."""
    if not name.startswith("google/protobuf/"):
        return None
    for part in (
        "any",
        "api",
        "duration",
        "empty",
        "field_mask",
        "source_context",
        "struct",
        "timestamp",
        "type",
        "wrappers",
    ):
        if name == f"google/protobuf/{part}.proto":
            __import__(f"google.protobuf.{part}_pb2")
    file = descriptor_pb2.FileDescriptorProto()
    try:
        descriptor_pool.Default().FindFileByName(name).CopyToProto(file)
    except KeyError:
        return None
    return file


class Messages:
    """Makes the messages that a method takes. `name`: the type, with its package."""

    def __init__(self, files: bytes, method: str) -> None:
        """`method`: "pkg.Service/Method". Raises ValueError where the descriptors do not have it."""
        self._pool = pool_of(files)
        service, _, name = method.rpartition("/")
        try:
            found = self._pool.FindServiceByName(service).methods_by_name[name]
        except KeyError:
            raise ValueError(f"the descriptors have no method {method}") from None
        self._class = message_factory.GetMessageClass(found.input_type)
        self.name: str = found.input_type.full_name

    def frames(self, payload: bytes, *, binary: bool, stream: bool, count: int | None = None) -> bytes:
        """The messages of one call, each with its five bytes. Raises NoMessage.

        `payload`: JSON, where a list is several messages if the method takes a `stream`; or one message where `binary`.
        `count`: how many are to be sent, beginning again with the first as often as it takes.
        """
        if binary:
            texts = [self._checked(payload)]
        else:
            made = [self.encode(each) for each in _documents(payload, stream)]
            texts = made
        if count is not None and stream and texts:
            texts = [texts[at % len(texts)] for at in range(count)]
        return b"".join(b"\x00" + len(text).to_bytes(4, "big") + text for text in texts)

    def encode(self, document: Any) -> bytes:
        """One message. Raises NoMessage."""
        unknown = list(_unknown(self._class.DESCRIPTOR, document, ""))
        if unknown:
            raise NoMessage("; ".join(unknown))
        message = self._class()
        try:
            json_format.ParseDict(document, message, descriptor_pool=self._pool)
        except json_format.ParseError as error:
            raise NoMessage(f"this is no {self.name}: {_with_path(str(error))}") from None
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            raise NoMessage(f"this is no {self.name}: {type(error).__name__}: {error}") from None
        return bytes(message.SerializeToString())

    def _checked(self, payload: bytes) -> bytes:
        try:
            self._class.FromString(payload)
        except DecodeError:
            raise NoMessage(f"these {len(payload)} bytes are no {self.name} in protobuf's wire format") from None
        return payload


def _documents(payload: bytes, stream: bool) -> Sequence[Any]:
    try:
        document = json.loads(payload) if payload.strip() else {}
    except ValueError as error:  # of decoding too
        raise NoMessage(f"this is no JSON: {error}") from None
    if stream and isinstance(document, list):
        return document
    if not isinstance(document, dict):
        raise NoMessage(
            f"a message is a JSON object, and this is {_kind(document)}"
            + ("" if stream or not isinstance(document, list) else ": the method takes a single one")
        )
    return [document]


def _with_path(said: str) -> str:
    """Protobuf's "Failed to parse a field: Failed to parse b field: ..." as "a.b: ..."."""
    prefix = re.compile(r"Failed to parse (\S+) field: ")
    path = []
    while found := prefix.match(said):
        path.append(found[1])
        said = said[found.end() :]
    return ": ".join(filter(None, (".".join(path), said.rstrip("."))))


def _kind(document: object) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(document), "a number")


def _unknown(descriptor: Any, document: Any, path: str) -> Iterator[str]:
    """Each field that the message does not have, with its path."""
    if descriptor.full_name.startswith(_KNOWN_TYPES) or not isinstance(document, dict):
        return
    fields = {name: field for field in descriptor.fields for name in (field.name, field.json_name)}
    for name, value in document.items():
        at = f"{path}.{name}" if path else name
        field = fields.get(name)
        if field is None:
            if not name.startswith("["):  # an extension
                has = ", ".join(each.name for each in descriptor.fields) or "no fields"
                near = get_close_matches(name, list(fields), 1)
                hint = f"did you mean {near[0]}?" if near else f"it has {has}"
                yield f"{at}: {descriptor.full_name} has no field {name!r} ({hint})"
            continue
        message = field.message_type
        if message is None:
            continue
        if message.GetOptions().map_entry:
            inner = message.fields_by_name["value"].message_type
            if inner is not None and isinstance(value, dict):
                for key, each in value.items():
                    yield from _unknown(inner, each, f"{at}[{key!r}]")
        elif isinstance(value, list):
            for index, each in enumerate(value):
                yield from _unknown(message, each, f"{at}[{index}]")
        else:
            yield from _unknown(message, value, at)
