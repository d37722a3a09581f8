"""A small model server: the iris model over KServe V2 REST and gRPC, in this process or as its own.

    python -m headgate.demo.model_server --version v1 --rest-port 0 --grpc-port 0

prints one JSON line with the ports and serves until SIGTERM or ctrl-C; requests in flight are finished first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from types import TracebackType
from typing import Any, Self

import grpc
from aiohttp import web

from headgate.demo.behaviour import Behaviour, Counts
from headgate.demo.iris import load
from headgate.demo.one_port import FirstBytes
from headgate.demo.v2 import Served
from headgate.demo.v2_grpc import handlers
from headgate.demo.v2_rest import application

NEVER = 10 * 365 * 24 * 3600.0
"""Keep-alive: a server that closes idle connections makes its proxy lose the request that is just being sent."""


class ModelServer:
    """One server of `name` with one or more versions, on a REST port, a gRPC port and, if wanted, one port for both.

    Port 0 takes any free one; `one_port=None` opens none. Ports are true after `start`.
    """

    def __init__(
        self,
        *versions: str,
        name: str = "iris",
        host: str = "127.0.0.1",
        rest_port: int = 0,
        grpc_port: int = 0,
        one_port: int | None = None,
        behaviour: Behaviour | None = None,
        seed: int = 0,
    ) -> None:
        names = versions or ("v1",)
        self.served = Served(name, {version: load(version) for version in names}, behaviour or Behaviour())
        self.served.random.seed(seed)
        self.host = host
        self.rest_port, self.grpc_port, self.port = rest_port, grpc_port, one_port

    @property
    def counts(self) -> Counts:
        return self.served.counts

    @property
    def behaviour(self) -> Behaviour:
        return self.served.behaviour

    def behave(self, **changes: Any) -> None:
        """Change some fields of the Behaviour, from the next request on."""
        self.served.behave(self.behaviour.changed(changes))

    async def start(self) -> None:
        self._runner = web.AppRunner(
            application(self.served), access_log=None, keepalive_timeout=NEVER, shutdown_timeout=10.0
        )
        await self._runner.setup()
        rest = web.TCPSite(self._runner, self.host, self.rest_port)
        await rest.start()
        self.rest_port = self._runner.addresses[0][1]
        options = [("grpc.so_reuseport", 0)]  # or a second server on a taken port would quietly share it
        self._grpc = grpc.aio.server(options=options)
        self._grpc.add_generic_rpc_handlers(handlers(self.served))
        self.grpc_port = self._grpc.add_insecure_port(f"{self.host}:{self.grpc_port}")
        await self._grpc.start()
        self._one: asyncio.Server | None = None
        if self.port is not None:
            http = self._runner.server
            assert http is not None
            self._one = await asyncio.get_running_loop().create_server(
                lambda: FirstBytes(http, self.grpc_port), self.host, self.port
            )
            self.port = self._one.sockets[0].getsockname()[1]

    async def stop(self, grace: float = 10.0) -> None:
        """Accept nothing new, let what is in flight finish for `grace` seconds, then close."""
        if self._one is not None:
            self._one.close()
        await asyncio.gather(self._grpc.stop(grace), self._runner.cleanup())

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.served.behave(self.behaviour.changed({"hold": False}))
        await self.stop()


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    behaviour = Behaviour(
        ready=not options.not_ready,
        latency_ms=options.latency_ms,
        latency_sigma=options.latency_sigma,
        error_rate=options.error_rate,
    )
    server = ModelServer(
        *(options.version or ["v1"]),
        name=options.name,
        host=options.host,
        rest_port=options.rest_port,
        grpc_port=options.grpc_port,
        one_port=options.one_port,
        behaviour=behaviour,
        seed=options.seed,
    )
    try:
        asyncio.run(_serve(server, until_stdin_closes=options.until_stdin_closes))
    except OSError as error:
        print(f"model server: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(server: ModelServer, *, until_stdin_closes: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if until_stdin_closes:
        await loop.connect_read_pipe(lambda: _Closing(stop), sys.stdin)
    async with server:
        ports = {"rest_port": server.rest_port, "grpc_port": server.grpc_port, "port": server.port}
        print(json.dumps({"name": server.served.name, "versions": list(server.served.models), **ports}), flush=True)
        await stop.wait()


class _Closing(asyncio.Protocol):
    """The parent holds the other end of stdin; when it is gone, however it died, so are we."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    def connection_lost(self, error: Exception | None) -> None:
        self._stop.set()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m headgate.demo.model_server",
        description="A small KServe V2 model server (REST and gRPC) for demos, tests and benchmarks.",
    )
    parser.add_argument("--version", action="append", help="the version to serve; repeat for a shared server (v1)")
    parser.add_argument("--name", default="iris", help="the model's name (iris)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--rest-port", type=int, default=0, help="0 takes any free port")
    parser.add_argument("--grpc-port", type=int, default=0, help="0 takes any free port")
    parser.add_argument("--one-port", type=int, help="also serve both protocols on this port; 0 takes any free one")
    parser.add_argument("--not-ready", action="store_true", help='start unready; PUT /control {"ready": true} later')
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--latency-sigma", type=float, default=0.0, help="above 0: lognormal around --latency-ms")
    parser.add_argument("--error-rate", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--until-stdin-closes", action="store_true", help="stop when the parent process is gone")
    return parser


if __name__ == "__main__":
    sys.exit(main())
