"""KServe V2 over REST: an aiohttp Application that answers for one Served model, and the loopback control endpoint."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from headgate.demo.iris import Iris
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

PROXIED_HEADER = "x-forwarded-proto"
"""Envoy adds it to every request; a control request that carries it came through the gateway."""


def application(served: Served) -> web.Application:
    """The V2 REST endpoints of `served`, plus GET and PUT /control."""
    rest = _Rest(served)
    app = web.Application(middlewares=[_refusals_as_json])
    app.router.add_get("/v2", rest.server_metadata)
    app.router.add_get("/v2/health/live", rest.live)
    app.router.add_get("/v2/health/ready", rest.ready)
    for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        app.router.add_get(prefix, rest.model_metadata)
        app.router.add_get(f"{prefix}/ready", rest.model_ready)
        app.router.add_post(f"{prefix}/infer", rest.infer)
    app.router.add_get("/control", rest.control)
    app.router.add_put("/control", rest.change)
    return app


@web.middleware
async def _refusals_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as refusal:
        return web.json_response({"error": refusal.message}, status=refusal.fault.value[0])


class _Rest:
    def __init__(self, served: Served) -> None:
        self._served = served

    async def server_metadata(self, request: web.Request) -> web.Response:
        return web.json_response({"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": []})

    async def live(self, request: web.Request) -> web.Response:
        live = self._served.behaviour.live
        return web.json_response({"live": live}, status=200 if live else 503)

    async def ready(self, request: web.Request) -> web.Response:
        ready = self._served.asked_ready()
        return web.json_response({"ready": ready}, status=200 if ready else 503)

    async def model_ready(self, request: web.Request) -> web.Response:
        model = self._model(request)
        ready = self._served.asked_ready()
        body = {"name": self._served.name, "version": model.version, "ready": ready}
        return web.json_response(body, status=200 if ready else 503)

    async def model_metadata(self, request: web.Request) -> web.Response:
        self._model(request)
        return web.json_response(
            {
                "name": self._served.name,
                "versions": list(self._served.models),
                "platform": PLATFORM,
                "inputs": [INPUT],
                "outputs": list(OUTPUTS),
            }
        )

    async def infer(self, request: web.Request) -> web.Response:
        served = self._served
        served.arrived(request.headers.get(SHADOW_HEADER, ""))
        refusal: Refusal | None = None
        try:
            model = self._model(request)
            body = _json(await request.read())
            outputs = await served.answer(model, _inputs(body), _output_names(body))
        except Refusal as caught:
            refusal = caught
            raise
        finally:
            served.left(refusal)
        answer: dict[str, Any] = {"model_name": served.name, "model_version": model.version}
        if "id" in body:
            answer["id"] = body["id"]
        answer["outputs"] = [dataclasses.asdict(tensor) for tensor in outputs]
        return web.json_response(answer)

    async def control(self, request: web.Request) -> web.Response:
        _from_this_machine(request)
        return web.json_response(
            {"behaviour": dataclasses.asdict(self._served.behaviour), "counts": self._served.counts.as_dict()}
        )

    async def change(self, request: web.Request) -> web.Response:
        _from_this_machine(request)
        try:
            behaviour = self._served.behaviour.changed(_json(await request.read()))
        except ValueError as error:
            raise Refusal(Fault.INVALID, str(error)) from None
        self._served.behave(behaviour)
        return await self.control(request)

    def _model(self, request: web.Request) -> Iris:
        match = request.match_info
        return self._served.model(match["model"], match.get("version", ""), request.headers.get(VMODEL_HEADER, ""))


def _from_this_machine(request: web.Request) -> None:
    remote = request.remote or ""
    if PROXIED_HEADER in request.headers or not ipaddress.ip_address(remote).is_loopback:
        raise web.HTTPForbidden(text='{"error": "/control is for this machine only, and not through a proxy"}')


def _json(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except ValueError as error:
        raise Refusal(Fault.INVALID, f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise Refusal(Fault.INVALID, f"the body must be a JSON object, got {type(body).__name__}")
    return body


def _inputs(body: dict[str, Any]) -> list[Tensor]:
    inputs = body.get("inputs")
    if not isinstance(inputs, list) or not all(isinstance(tensor, dict) for tensor in inputs):
        raise Refusal(Fault.INVALID, "'inputs' must be a list of tensors")
    return [_tensor(tensor) for tensor in inputs]


def _tensor(tensor: dict[str, Any]) -> Tensor:
    name, datatype = tensor.get("name"), tensor.get("datatype")
    shape, data = tensor.get("shape"), tensor.get("data")
    if not isinstance(name, str) or not isinstance(datatype, str):
        raise Refusal(Fault.INVALID, "every input tensor needs a 'name' and a 'datatype'")
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        raise Refusal(Fault.INVALID, f"input {name!r} needs a 'shape' of whole numbers")
    if not isinstance(data, list):
        raise Refusal(Fault.INVALID, f"input {name!r} needs 'data' as a list")
    return Tensor(name, datatype, tuple(shape), _flat(data))


def _flat(data: list[Any]) -> list[Any]:
    """V2 lets `data` be nested by its shape or flat in row-major order; one level of nesting is all we have."""
    if any(isinstance(row, list) for row in data):
        return [value for row in data for value in (row if isinstance(row, list) else [row])]
    return data


def _output_names(body: dict[str, Any]) -> list[str]:
    outputs = body.get("outputs", [])
    if not isinstance(outputs, list) or not all(
        isinstance(output, dict) and isinstance(output.get("name"), str) for output in outputs
    ):
        raise Refusal(Fault.INVALID, "'outputs' must be a list of objects with a 'name'")
    return [output["name"] for output in outputs]
