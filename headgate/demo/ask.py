"""Ask the demo's model a few times and count who answered: for those who have no grpcurl at hand.

python -m headgate.demo.ask --port 10000 --grpc --number 100 --header 'traffic: test'
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from headgate.demo.figures import Ledger
from headgate.demo.manifest import HOST
from headgate.demo.traffic import Aim, Client, GrpcClient, Headers, HttpClient, ask


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    aim = Aim(options.port, options.host, options.model)
    ledger = asyncio.run(_ask(aim, options.number, dict(options.header), grpc=options.grpc))
    for version, one in ledger.figures(0.0).items():
        if one.count:
            print(f"{version}: {one.count} ({one.share:.1%}), p50 {one.p50 * 1000:.1f} ms, p99 {one.p99 * 1000:.1f} ms")
    for text, number in ledger.errors.most_common():
        print(f"failed: {number} x {text}")
    return 1 if ledger.failed else 0


async def _ask(aim: Aim, number: int, headers: Headers, *, grpc: bool) -> Ledger:
    ledger = Ledger()
    client: Client = GrpcClient(aim) if grpc else HttpClient(aim)
    try:
        for _ in range(number):
            due = time.monotonic()
            ledger.send(due)
            ledger.record(await ask(client, headers, due=due))
    finally:
        await client.close()
    return ledger


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not 'name: value'")
    return name.strip().lower(), value.strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m headgate.demo.ask", description="Ask the demo's model.")
    parser.add_argument("--port", type=int, default=10_000, help="Envoy's (10000)")
    parser.add_argument("--host", default=HOST, help=f"Host header or authority ({HOST})")
    parser.add_argument("--model", default="iris")
    parser.add_argument("--number", type=int, default=1, help="how many times (1)")
    parser.add_argument("--grpc", action="store_true", help="over gRPC instead of HTTP/1")
    parser.add_argument("--header", type=_header, action="append", default=[], help="'name: value'; repeatable")
    return parser


if __name__ == "__main__":
    sys.exit(main())
