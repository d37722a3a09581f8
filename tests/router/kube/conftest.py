"""An API server over real sockets, and a way to wait for what it brings about."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import kubedouble.fixture
import pytest
from kubedouble import ApiServer
from kubedouble.fixture import cluster, double

from router.kube.client import Client, connect

__all__ = ["cluster", "double"]
CONFIG_MAPS = "/api/v1/configmaps"
Api = ApiServer | kubedouble.fixture.Cluster


class Cluster:
    """An API server and a client of it."""

    def __init__(self, api: Api, client: Client) -> None:
        self.api = api
        self.client = client

    def put(self, name: str, value: str = "1", **labels: str) -> None:
        meta = {"name": name, "namespace": "default", "labels": labels}
        self.api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"value": value}})

    def remove(self, name: str) -> None:
        self.api.delete("v1", "ConfigMap", name, "default")

    async def until(self, true: Callable[[], object], within: float = 5.0) -> float:
        """Wait for a condition; how many seconds it took."""
        begun = time.monotonic()
        while not true():
            assert time.monotonic() - begun < within, "it did not become true in time"
            await asyncio.sleep(0.01)
        return time.monotonic() - begun


@pytest.fixture
def on_any_cluster(cluster: kubedouble.fixture.Cluster) -> Callable[..., None]:
    """The test meets a real API server where there is one, and may do anything there."""

    def play(test: Callable[[Cluster], Awaitable[None]]) -> None:
        async def run() -> None:
            async with await connect(kubeconfig=cluster.kubeconfig()) as client:
                await test(Cluster(cluster, client))

        asyncio.run(asyncio.wait_for(run(), 30))

    return play


@pytest.fixture
def on_cluster(tmp_path: Path) -> Callable[..., None]:
    def play(test: Callable[[Cluster], Awaitable[None]], **options: Any) -> None:
        async def run() -> None:
            async with ApiServer(**options) as api:
                file = api.kubeconfig(tmp_path / "config", token=next(iter(options.get("tokens", {})), None))
                async with await connect(kubeconfig=file) as client:
                    await test(Cluster(api, client))

        asyncio.run(asyncio.wait_for(run(), 30))

    return play
