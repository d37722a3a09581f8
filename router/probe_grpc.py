"""Asks a server by the standard gRPC health protocol, grpc.health.v1. The only file of the router that knows gRPC.

The two messages have one field each, so their bytes are written and read by hand:

    HealthCheckRequest  { string service = 1; }          HealthCheckResponse { ServingStatus status = 1; }
"""

from __future__ import annotations

import grpc
import grpc.aio

from router.schedule import Outcome
from xds.varint import delimited, read_varint

_METHOD = "/grpc.health.v1.Health/Check"
_STATUS = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a shared one would remember the last failure and back off
    ("grpc.enable_retries", 0),
)


async def check(authority: str, service: str) -> Outcome:
    """One question over a connection of its own. Wrap it in a timeout."""
    async with grpc.aio.insecure_channel(authority, options=_OPTIONS) as channel:
        ask = channel.unary_unary(_METHOD)
        try:
            answer: bytes = await ask(request(service))
        except grpc.aio.AioRpcError as error:
            return Outcome(False, _words(error, service))
    status = serving_status(answer)
    if status == 1:
        return Outcome(True)
    return Outcome(False, f"gRPC {_STATUS.get(status, f'status {status}')}" if status is not None else "gRPC garbage")


def request(service: str) -> bytes:
    """Encode HealthCheckRequest; the empty service, which is the default, has no bytes at all."""
    name = service.encode()
    return delimited(1, name) if name else b""


def serving_status(answer: bytes) -> int | None:
    """Decode HealthCheckResponse: field 1, the last one wins, unknown fields are passed over. None for garbage."""
    status, at = 0, 0
    try:
        while at < len(answer):
            key, at = read_varint(answer, at)
            field, wire = key >> 3, key & 7
            if wire == 0:
                value, at = read_varint(answer, at)
                status = value if field == 1 else status
            elif wire == 2:
                size, at = read_varint(answer, at)
                at += size
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            else:
                return None
    except IndexError:
        return None
    return status if at == len(answer) else None


def _words(error: grpc.aio.AioRpcError, service: str) -> str:
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return "gRPC UNIMPLEMENTED: the server has no grpc.health.v1 service"
    if code is grpc.StatusCode.NOT_FOUND:
        return f"gRPC NOT_FOUND: the health service knows no {service!r}"
    if code is grpc.StatusCode.UNAVAILABLE:
        if "refused" in details:
            return "connection refused"
        if "DNS" in details or "name resolution" in details:
            return "no address known"
        if "reset" in details.lower():
            return "connection reset"
    return f"gRPC {code.name}" + (f": {details[:80]}" if details else "")
