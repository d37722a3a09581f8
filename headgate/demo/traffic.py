"""Steady traffic through Envoy: N requests a second over HTTP/1 and gRPC, each one accounted for in a Ledger.

Open loop: requests leave when they are due, whether or not earlier ones have come back, so that a stall shows as
latency and as failures instead of as silence.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
import grpc

from headgate.demo import v2_messages as pb
from headgate.demo.figures import Answer, Ledger

VERSION_HEADER = "app-version"
INFER = "/inference.GRPCInferenceService/ModelInfer"
FLOWERS = ((5.1, 3.5, 1.4, 0.2), (5.9, 3.0, 4.2, 1.5), (6.3, 2.9, 5.6, 1.8), (6.0, 2.2, 5.0, 1.5))

Headers = Mapping[str, str]


class Failed(Exception):
    """No good answer; the message is what a user would see. `version` is who gave it, where known."""

    def __init__(self, message: str, version: str = "") -> None:
        super().__init__(message)
        self.version = version


@dataclass(frozen=True, slots=True)
class Aim:
    """Where requests go. `host` is the Host header or authority that names the model's rollout."""

    port: int
    host: str
    model: str = "iris"
    address: str = "127.0.0.1"
    timeout: float = 5.0


class HttpClient:
    """V2 REST infer requests over kept-alive HTTP/1 connections; `send` gives the version that answered."""

    protocol = "http"

    def __init__(self, aim: Aim) -> None:
        self._aim = aim
        self._url = f"http://{aim.address}:{aim.port}/v2/models/{aim.model}/infer"
        self._bodies = itertools.cycle([_rest_body(flower) for flower in FLOWERS])
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3600),
            timeout=aiohttp.ClientTimeout(total=aim.timeout),
            headers={"host": aim.host, "content-type": "application/json"},
        )

    async def send(self, headers: Headers) -> str:
        try:
            async with self._client.post(self._url, data=next(self._bodies), headers=headers) as answer:
                body = await answer.read()
                routed = answer.headers.get(VERSION_HEADER, "")
                if answer.status != 200:
                    raise Failed(f"HTTP {answer.status}: {body[:200].decode('utf-8', 'replace').strip()}", routed)
        except TimeoutError:
            raise Failed(f"no answer in {self._aim.timeout:g} s") from None
        except aiohttp.ClientError as error:
            raise Failed(f"{type(error).__name__}: {error}") from None
        return _agreed(routed, str(json.loads(body)["model_version"]))

    async def close(self) -> None:
        await self._client.close()


class GrpcClient:
    """V2 gRPC ModelInfer requests on one HTTP/2 connection; `send` gives the version that answered."""

    protocol = "grpc"

    def __init__(self, aim: Aim) -> None:
        self._aim = aim
        self._bodies = itertools.cycle([pb.iris_request(flower, model=aim.model) for flower in FLOWERS])
        self._channel = grpc.aio.insecure_channel(
            f"{aim.address}:{aim.port}",
            options=[
                ("grpc.default_authority", aim.host),
                ("grpc.enable_retries", 0),  # a retry would hide a failure
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self._infer = self._channel.unary_unary(INFER)

    async def send(self, headers: Headers) -> str:
        call = self._infer(next(self._bodies), timeout=self._aim.timeout, metadata=tuple(headers.items()))
        try:
            body = await call
            routed = _metadata(await call.initial_metadata())
        except grpc.aio.AioRpcError as error:
            raise Failed(f"gRPC {error.code().name}: {error.details()}", _metadata(error.initial_metadata())) from None
        return _agreed(routed, str(pb.ModelInferResponse.FromString(body).model_version))

    async def close(self) -> None:
        await self._channel.close()


Client = HttpClient | GrpcClient


class Traffic:
    """`per_second` requests through `client` from `start` to `stop`. `headers` may be changed while it runs.

    `headers` is called for every request, so that user ids can vary.
    """

    def __init__(
        self,
        client: Client,
        ledger: Ledger,
        per_second: float,
        headers: Callable[[], Headers] = dict,
        group: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ledger = ledger
        self.headers = headers
        self._client = client
        self._group = group
        self._interval = 1 / per_second
        self._clock = clock
        self._sending: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Send nothing more, and wait for what is in flight: each has its timeout, so this ends."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await asyncio.gather(*self._sending)
        await self._client.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _run(self) -> None:
        due = self._clock()
        while True:
            task = asyncio.get_running_loop().create_task(self._one(due))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
            due += self._interval
            await asyncio.sleep(max(0.0, due - self._clock()))

    async def _one(self, due: float) -> None:
        self.ledger.send(due)
        self.ledger.record(await ask(self._client, self.headers(), self._group, due, self._clock))


async def ask(
    client: Client,
    headers: Headers,
    group: str = "",
    due: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Answer:
    """One request, due now unless told: its Answer, whatever happens to it."""
    sent = clock() if due is None else due
    try:
        version, error = await client.send(headers), ""
    except Failed as failed:
        version, error = failed.version, str(failed)
    except (ValueError, KeyError, TypeError) as failed:
        version, error = "", f"the answer is not a V2 answer: {failed!r}"
    return Answer(sent, clock() - sent, client.protocol, version, error, group)


async def until(condition: Callable[[], Awaitable[bool] | bool], *, within: float, what: str) -> float:
    """Wait until `condition` holds; the seconds it took. TimeoutError says what did not happen."""
    start = time.monotonic()
    while True:
        held = condition()
        if held if isinstance(held, bool) else await held:
            return time.monotonic() - start
        if time.monotonic() - start > within:
            raise TimeoutError(f"{what}: not within {within:g} s")
        await asyncio.sleep(0.01)


def _agreed(routed: str, served: str) -> str:
    """The version in the body; Envoy's header, where there is one, must tell the same."""
    if routed and routed != served:
        raise Failed(f"{VERSION_HEADER} says {routed}, but {served} answered", routed)
    return served


def _rest_body(flower: tuple[float, ...]) -> bytes:
    return json.dumps(
        {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, len(flower)], "data": flower}]}
    ).encode()


def _metadata(metadata: Iterable[tuple[str, Any]] | None) -> str:
    return next((str(value) for key, value in metadata or () if key == VERSION_HEADER), "")
