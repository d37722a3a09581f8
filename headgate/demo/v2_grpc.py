"""KServe V2 over gRPC (`inference.GRPCInferenceService`) and `grpc.health.v1.Health`: generic handlers for grpc.aio."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from headgate.demo import v2_messages as pb
from headgate.demo.v2 import (
    INPUT,
    OUTPUTS,
    PLATFORM,
    SERVER_NAME,
    SERVER_VERSION,
    SHADOW_HEADER,
    VMODEL_HEADER,
    Fault,
    Refusal,
    Served,
    Tensor,
)

Method = Callable[[Any, Any], Awaitable[Any]]


def handlers(served: Served) -> tuple[grpc.GenericRpcHandler, ...]:
    """The handlers to add to a grpc.aio server."""
    service = _Grpc(served)
    inference = {
        name: _unary(method, request)
        for name, method, request in (
            ("ServerLive", service.server_live, pb.ServerLiveRequest),
            ("ServerReady", service.server_ready, pb.ServerReadyRequest),
            ("ModelReady", service.model_ready, pb.ModelReadyRequest),
            ("ServerMetadata", service.server_metadata, pb.ServerMetadataRequest),
            ("ModelMetadata", service.model_metadata, pb.ModelMetadataRequest),
            ("ModelInfer", service.model_infer, pb.ModelInferRequest),
        )
    }
    health = {"Check": _unary(service.health, pb.HealthCheckRequest)}
    return (
        grpc.method_handlers_generic_handler("inference.GRPCInferenceService", inference),
        grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
    )


def _unary(method: Method, request: Any) -> grpc.RpcMethodHandler:
    async def call(message: Any, context: Any) -> Any:
        try:
            return await method(message, context)
        except Refusal as refusal:
            await context.abort(grpc.StatusCode[refusal.fault.value[1]], refusal.message)

    return grpc.unary_unary_rpc_method_handler(
        call, request_deserializer=request.FromString, response_serializer=lambda answer: answer.SerializeToString()
    )


class _Grpc:
    def __init__(self, served: Served) -> None:
        self._served = served

    async def server_live(self, request: Any, context: Any) -> Any:
        return pb.ServerLiveResponse(live=self._served.behaviour.live)

    async def server_ready(self, request: Any, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=self._served.asked_ready())

    async def model_ready(self, request: Any, context: Any) -> Any:
        self._served.model(request.name, request.version, _header(context, VMODEL_HEADER))
        return pb.ModelReadyResponse(ready=self._served.asked_ready())

    async def server_metadata(self, request: Any, context: Any) -> Any:
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=SERVER_VERSION)

    async def model_metadata(self, request: Any, context: Any) -> Any:
        self._served.model(request.name, request.version, _header(context, VMODEL_HEADER))
        return pb.ModelMetadataResponse(
            name=self._served.name,
            versions=list(self._served.models),
            platform=PLATFORM,
            inputs=[INPUT],
            outputs=list(OUTPUTS),
        )

    async def model_infer(self, request: Any, context: Any) -> Any:
        served = self._served
        served.arrived(_header(context, SHADOW_HEADER), grpc=True)
        refusal: Refusal | None = None
        try:
            model = served.model(request.model_name, request.model_version, _header(context, VMODEL_HEADER))
            names = [output.name for output in request.outputs]
            outputs = await served.answer(model, _inputs(request), names)
        except Refusal as caught:
            refusal = caught
            raise
        finally:
            served.left(refusal)
        answer = pb.ModelInferResponse(model_name=served.name, model_version=model.version, id=request.id)
        for tensor in outputs:
            _put(answer, tensor, raw=bool(request.raw_input_contents))
        return answer

    async def health(self, request: Any, context: Any) -> Any:
        known = ("", "inference.GRPCInferenceService", self._served.name)
        if request.service not in known:
            raise Refusal(Fault.UNKNOWN, f"there is no service {request.service!r}")
        return pb.HealthCheckResponse(status=pb.SERVING if self._served.asked_ready() else pb.NOT_SERVING)


def _header(context: Any, name: str) -> str:
    return next((str(value) for key, value in context.invocation_metadata() or () if key == name), "")


def _inputs(request: Any) -> list[Tensor]:
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise Refusal(Fault.INVALID, f"raw_input_contents has {len(raw)} parts for {len(request.inputs)} inputs")
    return [
        Tensor(
            tensor.name,
            tensor.datatype,
            tuple(tensor.shape),
            _unpack(tensor, raw[at]) if raw else list(tensor.contents.fp32_contents or tensor.contents.fp64_contents),
        )
        for at, tensor in enumerate(request.inputs)
    ]


def _unpack(tensor: Any, raw: bytes) -> list[float]:
    size, letter = (8, "d") if tensor.datatype == "FP64" else (4, "f")
    if len(raw) % size:
        raise Refusal(Fault.INVALID, f"input {tensor.name!r}: {len(raw)} raw bytes are no whole {tensor.datatype}s")
    return list(struct.unpack(f"<{len(raw) // size}{letter}", raw))


def _put(answer: Any, tensor: Tensor, *, raw: bool) -> None:
    """V2 says: an answer in kind. Raw bytes when the request was raw (a BYTES element is its length, then itself)."""
    output = answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    texts = [str(value).encode() for value in tensor.data] if tensor.datatype == "BYTES" else []
    if raw and texts:
        answer.raw_output_contents.append(b"".join(struct.pack("<I", len(text)) + text for text in texts))
    elif raw:
        answer.raw_output_contents.append(struct.pack(f"<{len(tensor.data)}f", *tensor.data))
    elif texts:
        output.contents.bytes_contents.extend(texts)
    else:
        output.contents.fp32_contents.extend(tensor.data)
