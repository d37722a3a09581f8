"""Which client speaks a scenario's protocol."""

from __future__ import annotations

from loadgen.plan import Scenario
from loadgen.wire.call import Client, Done


def open_client(scenario: Scenario, done: Done) -> Client:
    """For the hub of this thread. Raises ValueError: what of the scenario's target cannot be used."""
    target = scenario.target
    if target.protocol == "http2":
        from loadgen.wire.http2_client import Http2Client

        return Http2Client(scenario, done)
    if target.grpc is not None and target.grpc.client == "grpcio":
        from loadgen.wire.grpcio_client import GrpcioClient

        return GrpcioClient(scenario, done)
    if target.protocol == "grpc":
        from loadgen.wire.grpc_client import GrpcClient

        return GrpcClient(scenario, done)
    from loadgen.wire.http1 import Http1Client

    return Http1Client(scenario, done)
