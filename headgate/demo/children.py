"""A model server as a child process: started, asked its ports, changed at run time, and never left behind."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp


@dataclass(frozen=True, slots=True)
class Ports:
    rest_port: int
    grpc_port: int
    port: int


class ModelServerProcess:
    """`ModelServer` in its own process, with the same names: `behave`, `counts`, `rest_port`, `grpc_port`, `port`."""

    def __init__(self, *versions: str, **behaviour: Any) -> None:
        self.versions = versions or ("v1",)
        self._behaviour = behaviour
        self._process: asyncio.subprocess.Process | None = None
        self._ports: Ports | None = None

    async def start(self) -> None:
        arguments = [argument for version in self.versions for argument in ("--version", version)]
        # A session of its own: ctrl-C on the terminal must reach the parent alone, which then stops us in order.
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "headgate.demo.model_server", *arguments, "--one-port", "0"),
            "--until-stdin-closes",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            code = await self._process.wait()
            raise RuntimeError(f"model server {', '.join(self.versions)} ended at once with exit code {code}")
        told = json.loads(line)
        self._ports = Ports(told["rest_port"], told["grpc_port"], told["port"])
        self._client = aiohttp.ClientSession(base_url=f"http://127.0.0.1:{self.rest_port}")
        if self._behaviour:
            await self.behave(**self._behaviour)

    @property
    def ports(self) -> Ports:
        if self._ports is None:
            raise RuntimeError("the model server has not been started")
        return self._ports

    @property
    def rest_port(self) -> int:
        return self.ports.rest_port

    @property
    def grpc_port(self) -> int:
        return self.ports.grpc_port

    @property
    def port(self) -> int:
        """The one that speaks both protocols."""
        return self.ports.port

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def behave(self, **changes: Any) -> None:
        async with self._client.put("/control", json=changes) as answer:
            if answer.status != 200:
                raise ValueError((await answer.json())["error"])

    async def counts(self) -> dict[str, int]:
        async with self._client.get("/control") as answer:
            counts: dict[str, int] = (await answer.json())["counts"]
            return counts

    async def stop(self, grace: float = 10.0) -> None:
        """Let it finish what is in flight; kill it when that takes longer than `grace` seconds."""
        if self._process is None:
            return
        if self._ports is not None:
            await self._client.close()
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), grace)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        self._process = None

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop(grace=1.0)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
