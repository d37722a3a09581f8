"""/requests: the last requests. /requests/live: those from now on, one JSON object a line, as long as one listens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

from aiohttp import web

from sidecar.stream.layout import Malformed, document
from sidecar.stream.requests import Pair, Requests

SHOWN, MOST_SHOWN = 100, 10_000
LIVE = web.AppKey("live", set[asyncio.Task[Any]])
_MOST_LISTENERS = 16
_BACKLOG = 1_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader asked for; None and "" are everything."""

    model: str | None = None
    version: str | None = None
    code: str = ""
    errors: bool = False

    @classmethod
    def of(cls, query: Any) -> Self:
        return cls(
            query.get("model"), query.get("version"), query.get("code", ""), query.get("errors") in ("1", "true")
        )

    def found(self, pairs: Iterable[Pair]) -> Iterator[dict[str, Any]]:
        """Those that are wanted, as documents; what cannot be read in full is passed over."""
        for pair in pairs:
            try:
                one = document(*pair)
            except Malformed:
                continue
            if self._is(one):
                yield one

    def _is(self, one: dict[str, Any]) -> bool:
        return (
            (self.model is None or self.model == f"{one['namespace']}/{one['model']}")
            and (self.version is None or self.version == one["version"])
            and (not self.code or self._code(one["code"]))
            and (not self.errors or one["error"])
        )

    def _code(self, code: str) -> bool:
        """`503`, or `5xx` for all of a class."""
        wanted = self.code.lower()
        return code == wanted or (wanted.endswith("xx") and len(code) == 3 and code[0] == wanted[0])


def add_pages(app: web.Application, requests: Requests) -> None:
    """Put them among the sidecar's pages."""
    pages = _Pages(requests)
    app[LIVE] = set()
    app.add_routes([web.get("/requests", pages.requests), web.get("/requests/live", pages.live)])
    app.on_shutdown.append(_end_all)


async def _end_all(app: web.Application) -> None:
    """Nobody who listens keeps the process from leaving."""
    for task in app[LIVE]:
        task.cancel()


class _Pages:
    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    async def requests(self, request: web.Request) -> web.Response:
        """?model=NAMESPACE/NAME&version=&code=503|5xx&errors=1&limit=: newest first."""
        limit = _limit(request, SHOWN)
        found = list(islice(Wanted.of(request.query).found(self._requests.last()), limit))
        return web.Response(
            text=json.dumps({"kept": len(self._requests), "requests": found}) + "\n", content_type="application/json"
        )

    async def live(self, request: web.Request) -> web.StreamResponse:
        """The same filters; first `last` of the kept ones. A reader that is too slow is told how many it missed."""
        if len(request.app[LIVE]) >= _MOST_LISTENERS:
            raise web.HTTPServiceUnavailable(reason="too many listen already")
        wanted, missed = Wanted.of(request.query), 0
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_BACKLOG)

        def watch(pairs: list[Pair]) -> None:
            nonlocal missed
            for one in wanted.found(pairs):
                if queue.full():
                    missed += 1
                else:
                    queue.put_nowait(one)

        answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        task = asyncio.current_task()
        assert task is not None
        before = list(islice(wanted.found(self._requests.last()), _limit(request, 0, "last")))
        self._requests.watchers.add(watch)
        request.app[LIVE].add(task)
        try:
            await answer.prepare(request)
            for one in reversed(before):
                await _write(answer, one)
            while True:
                one = await queue.get()
                if missed:
                    await _write(answer, {"missed": missed})
                    missed = 0
                await _write(answer, one)
        except ConnectionError:
            return answer
        finally:
            self._requests.watchers.discard(watch)
            request.app[LIVE].discard(task)


async def _write(answer: web.StreamResponse, document: dict[str, Any]) -> None:
    await answer.write(json.dumps(document).encode() + b"\n")


def _limit(request: web.Request, default: int, name: str = "limit") -> int:
    text = request.query.get(name, str(default))
    if not text.isdecimal() or len(text) > 6:
        raise web.HTTPBadRequest(reason=f"{name} must be a whole number")
    return min(int(text), MOST_SHOWN)
