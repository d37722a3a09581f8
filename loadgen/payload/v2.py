"""Protobuf descriptors written in code: KServe V2 (`package inference`), built in so that no file or protoc is needed.

`file` makes a descriptor of a table of messages; the demo's servers and the reflection client use it as well. Field
numbers are the public protocols'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import descriptor_pb2

SERVICE: Final = "inference.GRPCInferenceService"
METHODS: Final = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")

_Field = descriptor_pb2.FieldDescriptorProto

_SCALARS: Final = {
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
    "float": _Field.TYPE_FLOAT,
    "double": _Field.TYPE_DOUBLE,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}

# Message -> its fields as "type name", numbered from 1 in this order or from the "=N" that one ends with; "*" is
# repeated, "{}" a map<string, type>, "|" a member of the message's one oneof. A dot makes a nested message.
_INFERENCE: Final[dict[str, str]] = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready",
    "ModelReadyRequest": "string name, string version",
    "ModelReadyResponse": "bool ready",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name, string version, *string extensions",
    "ModelMetadataRequest": "string name, string version",
    "ModelMetadataResponse": (
        "string name, *string versions, string platform, "
        "*ModelMetadataResponse.TensorMetadata inputs, *ModelMetadataResponse.TensorMetadata outputs"
    ),
    "ModelMetadataResponse.TensorMetadata": "string name, string datatype, *int64 shape",
    "InferParameter": (
        "|bool bool_param, |int64 int64_param, |string string_param, |double double_param, |uint64 uint64_param"
    ),
    "InferTensorContents": (
        "*bool bool_contents, *int32 int_contents, *int64 int64_contents, *uint32 uint_contents, "
        "*uint64 uint64_contents, *float fp32_contents, *double fp64_contents, *bytes bytes_contents"
    ),
    "ModelInferRequest": (
        "string model_name, string model_version, string id, {}InferParameter parameters, "
        "*ModelInferRequest.InferInputTensor inputs, *ModelInferRequest.InferRequestedOutputTensor outputs, "
        "*bytes raw_input_contents"
    ),
    "ModelInferRequest.InferInputTensor": (
        "string name, string datatype, *int64 shape, {}InferParameter parameters, InferTensorContents contents"
    ),
    "ModelInferRequest.InferRequestedOutputTensor": "string name, {}InferParameter parameters",
    "ModelInferResponse": (
        "string model_name, string model_version, string id, {}InferParameter parameters, "
        "*ModelInferResponse.InferOutputTensor outputs, *bytes raw_output_contents"
    ),
    "ModelInferResponse.InferOutputTensor": (
        "string name, string datatype, *int64 shape, {}InferParameter parameters, InferTensorContents contents"
    ),
}


def file(package: str, messages: Mapping[str, str]) -> descriptor_pb2.FileDescriptorProto:
    """The file of a package whose messages are written as those of V2 above are."""
    made_of = descriptor_pb2.FileDescriptorProto(name=f"headgate/{package}.proto", package=package, syntax="proto3")
    made: dict[str, Any] = {}
    for name in sorted(messages, key=lambda name: name.count(".")):  # outer messages before nested ones
        outer, _, inner = name.rpartition(".")
        message = made[outer].nested_type.add(name=inner) if outer else made_of.message_type.add(name=inner)
        made[name] = message
        number = 0
        for text in filter(None, (text.strip() for text in messages[name].split(","))):
            text, _, explicit = text.partition("=")
            number = int(explicit) if explicit else number + 1
            _add_field(message, number, text, package, name)
    return made_of


def _add_field(message: Any, number: int, text: str, package: str, path: str) -> None:
    kind, name = text.split()
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if kind.startswith("*"):
        field.label = _Field.LABEL_REPEATED
    elif kind.startswith("|"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    elif kind.startswith("{}"):  # a map is a repeated nested message called <Name>Entry with key = 1, value = 2
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_STRING)
        value = entry.field.add(name="value", number=2, label=_Field.LABEL_OPTIONAL)
        _set_type(value, kind.removeprefix("{}"), package)
        field.label = _Field.LABEL_REPEATED
        kind = f"{path}.{entry.name}"
    _set_type(field, kind.lstrip("*|"), package)


def _set_type(field: Any, kind: str, package: str) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{package}.{kind}"


def inference() -> descriptor_pb2.FileDescriptorProto:
    """KServe V2 with its service."""
    made = file("inference", _INFERENCE)
    service = made.service.add(name="GRPCInferenceService")
    for name in METHODS:
        service.method.add(name=name, input_type=f".inference.{name}Request", output_type=f".inference.{name}Response")
    return made


def protoset() -> bytes:
    """The V2 service as a serialized FileDescriptorSet."""
    return bytes(descriptor_pb2.FileDescriptorSet(file=[inference()]).SerializeToString())
