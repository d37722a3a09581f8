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


async def answers(out: Path) -> dict[str, object]:
    async with ApiServer() as api:
        command = (sys.executable, str(PROBES / "probes.py"), api.url, "-", str(out))
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    found: dict[str, object] = json.loads(out.read_text())
    return found


def test_the_double_agrees_with_the_real_server_on_every_probe(tmp_path):
    if not PROBES.is_dir():
        why = f"no probes in {PROBES}: set HEADGATE_SHARED to the folder that holds kube-probes"
        if "CI" in os.environ or "HEADGATE_SHARED" in os.environ:
            pytest.fail(why)
        pytest.skip(why)
    real = json.loads((PROBES / "real.json").read_text())
    ours = asyncio.run(answers(tmp_path / "ours.json"))
    assert {name: ours.get(name) for name in real} == real
