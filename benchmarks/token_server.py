"""A server that streams tokens as OpenAI's do, and remembers when it sent each one: the truth of benchmarks/tokens.py.

Tells its port as a JSON line. `{"do": "stamps"}` on its standard input makes it tell, and forget, by each request's id
(its body) when its tokens were handed to the kernel, in seconds of the system-wide monotonic clock.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\napp-version: v1\r\n"
    b"cache-control: no-cache\r\n\r\n"
)
TOKEN = b'data: {"id":"c-1","choices":[{"index":0,"delta":{"content":" x"}}]}\n\n'
LAST = b'data: {"choices":[],"usage":{"completion_tokens":%d}}\n\n'
DONE = b"data: [DONE]\n\n"

sent: dict[str, list[float]] = {}


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tokens: int, gap: float) -> None:
    loop = asyncio.get_running_loop()
    token = chunk(TOKEN)
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
            stamps = sent.setdefault((await reader.readexactly(length)).decode(), [])
            writer.write(HEAD)
            due = loop.time() + 5 * gap
            for _ in range(tokens):
                await asyncio.sleep(max(due - loop.time(), 0))
                due += gap
                stamps.append(time.perf_counter())
                writer.write(token)
            writer.write(chunk(LAST % tokens) + chunk(DONE) + b"0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main(tokens: int, gap: float) -> None:
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(lambda r, w: serve(r, w, tokens, gap), "127.0.0.1", 0, backlog=1024)
    print(json.dumps({"event": "listening", "port": server.sockets[0].getsockname()[1]}), flush=True)
    asked = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(asked), sys.stdin)
    while await asked.readline():
        print(json.dumps({"event": "stamps", "stamps": sent}), flush=True)
        sent.clear()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2])))
