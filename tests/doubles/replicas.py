"""Replicas of the control plane as processes that can be killed, paused and started again, and a way to cut one off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import yaml

PATIENCE = 20.0


async def page(port: int, path: str) -> str:
    """What an HTTP port of ours says there; nothing while nobody does."""
    limit = aiohttp.ClientTimeout(total=1.0)
    try:
        async with aiohttp.ClientSession(timeout=limit) as session, session.get(f"http://127.0.0.1:{port}{path}") as it:
            return await it.text()
    except (aiohttp.ClientError, TimeoutError):
        return ""


async def until_page(port: int, path: str, holds: Callable[[str], object], within: float = PATIENCE) -> float:
    """Ask until the answer is as wanted; the seconds it took. The last one is in the error."""
    begun = time.monotonic()
    while not holds(said := await page(port, path)):
        took = time.monotonic() - begun
        assert took < within, f"{path} on {port} never came true in {within:g} s: {said[:2000]}"
        await asyncio.sleep(0.02)
    return time.monotonic() - begun


class Replica:
    """One `headgate serve --kubernetes` on fixed ports. Its identity begins with `name`."""

    def __init__(self, name: str, folder: Path, kubeconfig: Path, **kubernetes: Any) -> None:
        self.name = name
        self.xds, self.http = _free_port(), _free_port()
        self.log = folder / f"{name}.log"
        self._config = folder / f"{name}.yaml"
        self._config.write_text(yaml.safe_dump(self._configuration(kubeconfig, kubernetes)))
        self._process: asyncio.subprocess.Process | None = None

    def _configuration(self, kubeconfig: Path, kubernetes: Mapping[str, Any]) -> dict[str, Any]:
        section = {"kubeconfig": str(kubeconfig), "watchTimeout": "10s", "advertise": "127.0.0.1", **kubernetes}
        return {
            "xds": {"port": self.xds},
            "http": {"port": self.http},
            "gateways": [{"name": "default", "listeners": [{"port": 0}]}],
            "kubernetes": section,
        }

    async def start(self) -> Replica:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "headgate", "serve", "--kubernetes", "--config", str(self._config)),
                env={**os.environ, "HOSTNAME": self.name},
                stderr=log,
            )
        await until_page(self.http, "/readyz?verbose", lambda said: said.endswith("\nready\n") and "at " in said)
        return self

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code; negative after a signal that it did not survive."""
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(how)
        return await asyncio.wait_for(self._process.wait(), PATIENCE)

    async def envoys(self) -> set[str]:
        """Node ids of those that are connected to it."""
        said = await page(self.http, "/envoys")
        return {one["node"] for one in json.loads(said or "[]")}

    async def until_envoys(self, *nodes: str) -> None:
        await until_page(
            self.http, "/envoys", lambda said: {one["node"] for one in json.loads(said or "[]")} == {*nodes}
        )


class Road:
    """A TCP forwarder to a port of this machine, which can be cut and mended."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Reset what is open; refuse what is new."""
        assert self._server is not None
        self._server.close()
        for one in tuple(self._open):
            one.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, back}
        await asyncio.gather(self._pour(reader, back), self._pour(there, writer))

    async def _pour(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()
        self._open.discard(writer)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
