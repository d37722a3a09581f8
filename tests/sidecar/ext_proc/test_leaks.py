"""Beside a real Envoy: a plugin that leaks is suspended and started anew, the process shrinks, the others go on."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from sidecar.pipeline import bind
from sidecar.plugin import Headers, HttpContext, Plugin

LEAKY = """
from sidecar.plugin import HttpContext, Plugin

SEEN = []

class Context(HttpContext):
    def on_request_headers(self, headers):
        if "x-leak" in headers:
            SEEN.append({str(at): [f"{at:0100}"] for at in range(10_000)})
        headers.set("x-asked", "yes")

class Leaky(Plugin):
    context = Context
    memory = 24 << 20
    budget = 5.0
"""
GOOD = """
from sidecar.plugin import HttpContext, Plugin

class Context(HttpContext):
    def on_request_headers(self, headers):
        headers.set("x-good", "yes")

class Good(Plugin):
    context = Context
"""


class Context(HttpContext["Headed"]):
    def on_request_headers(self, headers: Headers) -> None: ...


class Headed(Plugin):
    """What Envoy has to be configured for."""

    context = Context


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_plugin_that_leaks(in_rig: Callable[[Callable[[Any], Any]], None]) -> None:
    async def story(rig: Any) -> None:
        files = [rig.folder / "leaky.py", rig.folder / "good.py"]
        for file, text in zip(files, (LEAKY, GOOD), strict=True):
            file.write_text(text)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "headgate", "plugin", "serve", *map(str, files), "--listen", rig.listen),
            *("--metrics", "127.0.0.1:0"),
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        try:
            async with asyncio.timeout(60):
                port = (await process.stderr.readline()).decode().rpartition(" ")[2].strip()
                await rig.envoy(bind(Headed()), message_timeout=5.0)
                assert (await rig.ask()).status == 200
                before = most = resident(process.pid)
                while True:
                    assert (await rig.ask(x_leak="1")).status == 200
                    headers = rig.seen[-1][0]
                    assert headers["x-good"] == "yes"
                    most = max(most, resident(process.pid))
                    if "x-asked" not in headers:
                        break
                while True:
                    if resident(process.pid) < before + (most - before) / 2:
                        break
                    await asyncio.sleep(0.02)
                async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{port}/metrics") as answer:
                    text = await answer.text()
            assert 'headgate_plugin_faults_total{plugin="Leaky",hook="",kind="memory"} 1' in text
            assert 'headgate_plugin_suspended{plugin="Leaky"} 1' in text
            assert 'headgate_plugin_suspended{plugin="Good"} 0' in text
        finally:
            process.terminate()
            _, told = await process.communicate()
        assert re.search(rb"plugin 'Leaky': keeps more than its 24 MiB: \d\d MiB by SEEN", told)

    in_rig(story)
