"""`headgate sidecar` as users start it, beside an Envoy of a benchmark."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.report import ROOT


@asynccontextmanager
async def sidecar(admin: str, stream: int | None = None) -> AsyncIterator[tuple[int, str]]:
    """Beside the Envoy with this admin URL; `stream` is the port for single requests. Gives its process id, and where
    it answers."""
    streaming = () if stream is None else ("--stream", f"127.0.0.1:{stream}")
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "headgate", "sidecar", "--envoy", admin, "--listen", "127.0.0.1:0", *streaming),
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        assert child.stderr is not None
        if streaming:
            await child.stderr.readline()  # where the stream is
        yield child.pid, f"http://{(await child.stderr.readline()).decode().split()[-1]}"
    finally:
        child.terminate()
        await child.wait()
