"""One caller of ModelInfer for benchmarks/grpc_calls.py, in its own process: `own`, or `grpcio` as locust documents it.

Keeps 16 calls in flight until `count` have ended, and tells how many failed and how much CPU that took.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from time import perf_counter

IN_FLIGHT = 16
METHOD = "inference.GRPCInferenceService/ModelInfer"


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def own(url: str, body: bytes, count: int, connections: int) -> int:
    from gevent.event import Event

    from loadgen.plan import Grpc, Load, Scenario, Target
    from loadgen.wire.call import Call
    from loadgen.wire.clients import open_client

    over = Event()
    sent = ended = failed = 0

    def done(call: Call) -> None:
        nonlocal sent, ended, failed
        ended += 1
        failed += call.failure is not None or call.version != "v1"
        if sent < count:
            sent += 1
            client.send(Call(seq=sent), body)
        elif ended == count:
            over.set()

    load = Load("max", requests=count, connections=connections)
    client = open_client(Scenario("a", Target(url, "grpc", grpc=Grpc(METHOD, b"")), load), done)
    for _ in range(IN_FLIGHT):
        sent += 1
        client.send(Call(seq=sent), body)
    over.wait(100)
    client.close()
    return failed + count - ended


def grpcio(url: str, body: bytes, count: int, connections: int) -> int:
    """A synchronous stub in greenlets; the message is not parsed, which is more than a real test would save."""
    import gevent
    import grpc

    channels = [
        grpc.insecure_channel(url.removeprefix("http://"), [("grpc.use_local_subchannel_pool", 1)])
        for _ in range(connections)
    ]
    failed = 0

    def user(number: int) -> None:
        nonlocal failed
        call = channels[number % connections].unary_unary(f"/{METHOD}")
        for _ in range(count // IN_FLIGHT):
            try:
                call(body[5:], timeout=20)
            except grpc.RpcError:
                failed += 1

    gevent.joinall([gevent.spawn(user, number) for number in range(IN_FLIGHT)], timeout=100, raise_error=True)
    return failed


if __name__ == "__main__":
    kind, address, file, calls, lanes = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
    if kind == "grpcio":
        from gevent import monkey

        monkey.patch_all()
        from grpc.experimental.gevent import init_gevent

        init_gevent()
    message = file.read_bytes()
    (own if kind == "own" else grpcio)(address, message, IN_FLIGHT, lanes)  # imports and connections come before
    before, began = cpu(), perf_counter()
    lost = (own if kind == "own" else grpcio)(address, message, calls, lanes)
    told = {"event": "ended", "failed": lost, "cpu": cpu() - before, "seconds": perf_counter() - began}
    print(json.dumps(told), flush=True)
