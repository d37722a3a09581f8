"""The messages of external processing as google's protobuf builds and reads them, from descriptors made here."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bytes": _Field.TYPE_BYTES,
    "string": _Field.TYPE_STRING,
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "uint32": _Field.TYPE_UINT32,
}
_MESSAGES: dict[str, str] = {
    "HeaderValue": "string key 1, string value 2, bytes raw_value 3",
    "HeaderMap": "*HeaderValue headers 1",
    "HeaderValueOption": "HeaderValue header 1, int32 append_action 3, bool keep_empty_value 4",
    "HeaderMutation": "*HeaderValueOption set_headers 1, *string remove_headers 2",
    "HttpHeaders": "HeaderMap headers 1, bool end_of_stream 3",
    "HttpBody": "bytes body 1, bool end_of_stream 2",
    "HttpTrailers": "HeaderMap trailers 1",
    "AttributesEntry": "string key 1, google.protobuf.Struct value 2",
    "ProtocolConfiguration": (
        "int32 request_body_mode 1, int32 response_body_mode 2, bool send_body_without_waiting_for_header_response 3"
    ),
    "ProcessingRequest": (
        "|HttpHeaders request_headers 2, |HttpHeaders response_headers 3, |HttpBody request_body 4, "
        "|HttpBody response_body 5, |HttpTrailers request_trailers 6, |HttpTrailers response_trailers 7, "
        "*AttributesEntry attributes 9, bool observability_mode 10, ProtocolConfiguration protocol_config 11"
    ),
    "BodyMutation": "|bytes body 1, |bool clear_body 2",
    "CommonResponse": (
        "int32 status 1, HeaderMutation header_mutation 2, BodyMutation body_mutation 3, bool clear_route_cache 5"
    ),
    "HeadersResponse": "CommonResponse response 1",
    "TrailersResponse": "HeaderMutation header_mutation 1",
    "HttpStatus": "int32 code 1",
    "GrpcStatus": "uint32 status 1",
    "ImmediateResponse": (
        "HttpStatus status 1, HeaderMutation headers 2, bytes body 3, GrpcStatus grpc_status 4, string details 5"
    ),
    "Duration": "int64 seconds 1, int32 nanos 2",
    "ProcessingMode": (
        "int32 request_header_mode 1, int32 response_header_mode 2, int32 request_body_mode 3, "
        "int32 response_body_mode 4, int32 request_trailer_mode 5, int32 response_trailer_mode 6"
    ),
    "ProcessingResponse": (
        "|HeadersResponse request_headers 1, |HeadersResponse response_headers 2, |HeadersResponse request_body 3, "
        "|HeadersResponse response_body 4, |TrailersResponse request_trailers 5, "
        "|TrailersResponse response_trailers 6, "
        "|ImmediateResponse immediate_response 7, google.protobuf.Struct dynamic_metadata 8, "
        "ProcessingMode mode_override 9, Duration override_message_timeout 10"
    ),
}


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="double/ext_proc.proto", package="double", syntax="proto3")
    file.dependency.append("google/protobuf/struct.proto")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for text in fields.split(","):
            kind, field_name, number = text.split()
            field = message.field.add(name=field_name, number=int(number), label=_Field.LABEL_OPTIONAL)
            if kind[0] == "*":
                field.label = _Field.LABEL_REPEATED
            if kind[0] == "|":
                if not message.oneof_decl:
                    message.oneof_decl.add(name="one")
                field.oneof_index = 0
            kind = kind.lstrip("*|")
            if kind in _SCALARS:
                field.type = _SCALARS[kind]
            else:
                field.type = _Field.TYPE_MESSAGE
                field.type_name = f".{kind}" if "." in kind else f".double.{kind}"
    pool = descriptor_pool.DescriptorPool()
    struct = descriptor_pb2.FileDescriptorProto()
    struct_pb2.DESCRIPTOR.CopyToProto(struct)
    pool.Add(struct)
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"double.{name}")) for name in _MESSAGES}


_made = _classes()
ProcessingRequest = _made["ProcessingRequest"]
ProcessingResponse = _made["ProcessingResponse"]
