"""The double agrees with a real API server on every probe of the shared folder."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from kubedouble import ApiServer

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("HEADGATE_SHARED", ROOT.parent / "shared"))
PROBES = SHARED / "kube-probes"


async def run_probes(out: Path) -> None:
    async with ApiServer() as api:
        command = (sys.executable, str(PROBES / "probes.py"), api.url, "-", str(out))
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        assert await asyncio.wait_for(process.wait(), 60) == 0


def test_the_double_agrees_with_the_real_server_on_every_probe(tmp_path):
    if not PROBES.is_dir():
        why = f"no probes in {PROBES}: set HEADGATE_SHARED to the folder that holds kube-probes"
        if "CI" in os.environ or "HEADGATE_SHARED" in os.environ:
            pytest.fail(why)
        pytest.skip(why)
    real = json.loads((PROBES / "real.json").read_text())
    asyncio.run(run_probes(tmp_path / "ours.json"))
    ours = json.loads((tmp_path / "ours.json").read_text())
    assert {name: ours.get(name) for name in real} == real
