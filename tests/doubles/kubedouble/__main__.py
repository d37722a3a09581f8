"""`python -m kubedouble --port 8001`: the double on its own, for kubectl and for curiosity."""

from __future__ import annotations

import argparse
import asyncio
import contextlib

from kubedouble.server import ApiServer


async def serve(port: int) -> None:
    async with ApiServer(port=port) as api:
        print(api.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="kubedouble", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args().port))
