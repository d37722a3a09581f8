"""What plugins beside Envoy count reaches the sidecar's own /metrics, whatever becomes of their process."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import aiohttp
import pytest

from sidecar.ext_proc.application import Application, ExtProcSpec
from sidecar.ext_proc.figures import FigureFile
from sidecar.metrics.admin import address
from sidecar.metrics.plugin_files import PluginFiles
from sidecar.metrics.process import serve

PLUGIN = """
from sidecar.plugin import Plugin


class Beating(Plugin):
    name = "beating"
    tick = 0.01

    def on_configure(self, config):
        self.beats = self.metrics.counter("beats", "How often the clock came.")

    def on_tick(self):
        self.beats.add()
"""
BEATS = "headgate_plugin_beating_beats_total{} "


async def start(folder: Path, environment: dict[str, str], *options: str) -> asyncio.subprocess.Process:
    listen = f"unix:{folder}/plugins.sock"
    command = [sys.executable, "-m", "headgate", "plugin", "serve", "beating.py", "--listen", listen, *options]
    return await asyncio.create_subprocess_exec(
        *command, cwd=folder, env={**os.environ, **environment}, stderr=asyncio.subprocess.DEVNULL
    )


def test_a_plugins_process_that_is_killed_or_ends_never_makes_the_sidecar_count_backwards(tmp_path: Path) -> None:
    (tmp_path / "beating.py").write_text(PLUGIN)
    figures = tmp_path / "figures"

    async def main() -> None:
        ports: asyncio.Queue[int] = asyncio.Queue()
        nobody, stop = address(f"unix:{tmp_path}/no-envoy.sock"), asyncio.Event()
        sidecar = asyncio.create_task(
            serve(nobody, "127.0.0.1", 0, interval=0.1, plugins=figures, stop=stop, started=ports.put_nowait)
        )
        url, last = f"http://127.0.0.1:{await ports.get()}/metrics", 0.0

        async def beyond(client: aiohttp.ClientSession, wanted: float) -> None:
            nonlocal last
            while last <= wanted:
                async with client.get(url) as answer:
                    text = await answer.text()
                now = next((float(line[len(BEATS) :]) for line in text.splitlines() if line.startswith(BEATS)), 0.0)
                assert now >= last
                last = now
                await asyncio.sleep(0.02)

        async with asyncio.timeout(60), aiohttp.ClientSession() as client:
            for environment, options, end in (
                ({}, ("--plugin-figures", str(figures)), "kill"),
                ({"HEADGATE_PLUGIN_FIGURES": str(figures)}, (), "terminate"),
                ({}, ("--plugin-figures", str(figures)), "kill"),
            ):
                process = await start(tmp_path, environment, *options)
                try:
                    await beyond(client, last)
                finally:
                    getattr(process, end)()
                    await process.wait()
            stop.set()
            await sidecar

    asyncio.run(main())


def test_what_it_says_last_is_counted_though_nobody_read_it_before(tmp_path: Path) -> None:
    (tmp_path / "beating.py").write_text(PLUGIN)
    spec = ExtProcSpec.model_validate({"plugins": [{"plugin": "beating.py"}], "folder": tmp_path})
    application = Application(spec)
    file, files = FigureFile(application, tmp_path / "figures"), PluginFiles(tmp_path / "figures")
    file.write()
    for now in (1.0, 2.0, 3.0):
        application.pipeline.tick(now)
    file.write()
    beats = {one.name: one.samples for one in files.families()}["headgate_plugin_beating_beats"]
    assert [one.value for one in beats] == [3.0]


def test_a_folder_that_cannot_be_is_told_once_and_hurts_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "taken").write_text("a file")
    file = FigureFile(Application(ExtProcSpec()), tmp_path / "taken" / "figures")
    file.write()
    file.write()
    (record,) = caplog.records
    assert "taken/figures: not a directory; trying again every second" in record.getMessage()
    (tmp_path / "taken").unlink()
    file.write()
    assert len(list((tmp_path / "taken" / "figures").glob("*.json"))) == 1
