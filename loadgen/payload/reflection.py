"""A gRPC server's own account of its services: server reflection, v1 and, where that is not there, v1alpha."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from loadgen.payload import v2
from loadgen.payload.channel import open_channel, reason
from loadgen.payload.descriptors import Descriptors, checked, near_service
from loadgen.plan import Tls
from router.problem import Problem

_MOST_FILES = 2_000
_NOT_FOUND = 5
_VERSIONS = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
_NO_REFLECTION = "give a .proto file or a protoset, or turn reflection on in the server"
_MESSAGES = {  # the same in both versions
    "ServerReflectionRequest": "string host=1, |string file_by_filename=3, |string file_containing_symbol=4, "
    "|string list_services=7",
    "ServerReflectionResponse": "string valid_host=1, |FileDescriptorResponse file_descriptor_response=4, "
    "|ListServiceResponse list_services_response=6, |ErrorResponse error_response=7",
    "FileDescriptorResponse": "*bytes file_descriptor_proto=1",
    "ListServiceResponse": "*ServiceResponse service=1",
    "ServiceResponse": "string name=1",
    "ErrorResponse": "int32 error_code=1, string error_message=2",
}
_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(v2.file("headgate.reflection", _MESSAGES))
Request = message_factory.GetMessageClass(_POOL.FindMessageTypeByName("headgate.reflection.ServerReflectionRequest"))
Response = message_factory.GetMessageClass(_POOL.FindMessageTypeByName("headgate.reflection.ServerReflectionResponse"))

Ask = Callable[[Any], Any]  # a request -> its response; raises grpc.RpcError


def from_reflection(
    url: str,
    method: str,
    tls: Tls | None = None,
    metadata: Sequence[tuple[str, str]] = (),
    timeout: float = 10.0,
    where: str = "",
    field: str = "",
) -> Descriptors | tuple[Problem, ...]:
    """The descriptors that hold the service of `method` (pkg.Service/Method), with all that they import."""
    service = method.strip().removeprefix("/")
    service = service.partition("/")[0] if "/" in service else service.rpartition(".")[0]
    where = where or url
    try:
        channel = open_channel(url, tls or Tls(), timeout)
    except (ValueError, OSError) as error:
        return (Problem(where, field, f"{url} cannot be asked: {error}"),)
    problem = Problem(where, field, f"{url} has no server reflection", _NO_REFLECTION)
    with channel:
        for version in _VERSIONS:
            try:
                return _collect(_asking(channel, version, metadata, timeout), service, url, where, field)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    return (Problem(where, field, f"server reflection of {url} failed: {reason(error)}"),)
            except (DecodeError, ValueError, TypeError) as error:
                return (Problem(where, field, f"server reflection of {url}: {error}", _NO_REFLECTION),)
    return (problem,)


def _asking(channel: Any, version: str, metadata: Sequence[tuple[str, str]], timeout: float) -> Ask:
    call = channel.stream_stream(
        f"/{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=Request.SerializeToString,
        response_deserializer=Response.FromString,
    )

    def ask(request: Any) -> Any:
        for answer in call(iter((request,)), timeout=timeout, metadata=tuple(metadata)):
            return answer
        raise ValueError("the server ended the call without an answer")

    return ask


def _collect(ask: Ask, service: str, url: str, where: str, field: str) -> Descriptors | tuple[Problem, ...]:
    answer = ask(Request(file_containing_symbol=service))
    if answer.HasField("error_response"):
        told = ask(Request(list_services="*"))
        services = sorted(each.name for each in told.list_services_response.service)
        what = f"{url} has no service {service!r}"
        if answer.error_response.error_code != _NOT_FOUND:
            what += f" ({answer.error_response.error_message})"
        return (Problem(where, field, what, near_service(service, services)),)
    files: dict[str, Any] = {}
    missing: list[str] = []
    _take(answer, files, missing)
    while missing:
        name = missing.pop()
        if name in files:
            continue
        if len(files) >= _MOST_FILES:
            raise ValueError(f"more than {_MOST_FILES} files")
        answer = ask(Request(file_by_filename=name))
        if answer.HasField("error_response"):
            files[name] = None  # protobuf's own files may be left out; what else is missing is found below
        else:
            _take(answer, files, missing)
            files.setdefault(name, None)
    found = descriptor_pb2.FileDescriptorSet(file=[file for file in files.values() if file is not None])
    return checked(found.SerializeToString(), url)


def _take(answer: Any, files: dict[str, Any], missing: list[str]) -> None:
    for data in answer.file_descriptor_response.file_descriptor_proto:
        file = descriptor_pb2.FileDescriptorProto.FromString(data)
        files[file.name] = file
        missing += file.dependency
