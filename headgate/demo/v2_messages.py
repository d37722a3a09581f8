"""The protobuf messages of KServe V2 (`package inference`) and of gRPC health checking, built from descriptors in code.

A private descriptor pool keeps them apart from any other copy of the same messages in the process, and no generated
file or protoc is needed. Field numbers are the public protocol's.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pool, message_factory

from loadgen.payload import v2
from loadgen.payload.v2 import protoset as protoset  # for `grpcurl -protoset`

_HEALTH: Final[dict[str, str]] = {
    "HealthCheckRequest": "string service",
    "HealthCheckResponse": "int32 status",  # an enum on paper; the bytes are those of an int32
}

SERVING, NOT_SERVING = 1, 2

_pool = descriptor_pool.DescriptorPool()
_pool.Add(v2.inference())
_pool.Add(v2.file("grpc.health.v1", _HEALTH))


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(name))


ServerLiveRequest = _class("inference.ServerLiveRequest")
ServerLiveResponse = _class("inference.ServerLiveResponse")
ServerReadyRequest = _class("inference.ServerReadyRequest")
ServerReadyResponse = _class("inference.ServerReadyResponse")
ModelReadyRequest = _class("inference.ModelReadyRequest")
ModelReadyResponse = _class("inference.ModelReadyResponse")
ServerMetadataRequest = _class("inference.ServerMetadataRequest")
ServerMetadataResponse = _class("inference.ServerMetadataResponse")
ModelMetadataRequest = _class("inference.ModelMetadataRequest")
ModelMetadataResponse = _class("inference.ModelMetadataResponse")
ModelInferRequest = _class("inference.ModelInferRequest")
ModelInferResponse = _class("inference.ModelInferResponse")
HealthCheckRequest = _class("grpc.health.v1.HealthCheckRequest")
HealthCheckResponse = _class("grpc.health.v1.HealthCheckResponse")


def iris_request(flower: tuple[float, float, float, float], *, model: str = "iris", version: str = "") -> bytes:
    """A ModelInferRequest for one flower, serialised: what the demo's gRPC traffic sends."""
    request = ModelInferRequest(model_name=model, model_version=version)
    tensor = request.inputs.add(name="input", datatype="FP32", shape=[1, 4])
    tensor.contents.fp32_contents.extend(flower)
    return bytes(request.SerializeToString())
