"""`headgate sidecar` and a real Prometheus as processes, for as long as a block runs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

PROMETHEUS = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None and not os.environ.get("CI"), reason="prometheus is not installed (Debian: prometheus)"
)


@asynccontextmanager
async def sidecar_process(envoy: str, *more: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """`headgate sidecar` as users start it: the process, and the URL of its pages."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "headgate", "sidecar", "--envoy", envoy, "--listen", "127.0.0.1:0", *more),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        line = (await asyncio.wait_for(process.stderr.readline(), 20)).decode()
        found = re.search(r" on (127\.0\.0\.1:\d+)$", line.strip())
        assert found, line
        yield process, f"http://{found[1]}"
    finally:
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.communicate(), 20)


@dataclass(frozen=True)
class Prometheus:
    """Takes questions; one that it does not understand is an AssertionError."""

    url: str

    async def ask(self, query: str) -> list[dict[str, Any]]:
        """The vector that PromQL yields; empty while Prometheus starts."""
        data = await self._get("query", query=query)
        assert data.get("resultType", "vector") == "vector", f"{query} is a {data['resultType']}"
        return list(data.get("result", ()))

    async def rules(self) -> list[dict[str, Any]]:
        """All rules with their health, as they were evaluated last."""
        return [one for group in (await self._get("rules")).get("groups", ()) for one in group["rules"]]

    async def exemplars(self, query: str) -> list[dict[str, Any]]:
        """All that are kept of the series that the query names, of the last hour."""
        now = time.time()
        found = await self._get("query_exemplars", query=query, start=str(now - 3600), end=str(now + 60))
        return [{**one, "series": each["seriesLabels"]} for each in found for one in each["exemplars"]]

    async def _get(self, page: str, **query: str) -> Any:
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{self.url}/api/v1/{page}", params=query) as answer,
            ):
                document = await answer.json(content_type=None)
        except (aiohttp.ClientError, ValueError):
            return {}
        assert document["status"] == "success", (query, document)
        return document["data"]


@asynccontextmanager
async def prometheus(
    folder: Path, jobs: Mapping[str, Sequence[str]], *rule_files: Path, features: str = ""
) -> AsyncIterator[Prometheus]:
    """One that scrapes the jobs' targets, and evaluates the rules, every second."""
    assert PROMETHEUS
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in rule_files],
        "scrape_configs": [
            {"job_name": job, "honor_labels": True, "static_configs": [{"targets": list(targets)}]}
            for job, targets in jobs.items()
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(PROMETHEUS, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"),
            f"--web.listen-address=127.0.0.1:{port}",
            *([f"--enable-feature={features}"] if features else []),
            stdout=log,
            stderr=log,
        )
    try:
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        await process.wait()
