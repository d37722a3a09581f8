"""Requests that plugins make: to servers that the configuration names, and to no others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sidecar.plugin import HttpRequest, HttpResponse

if TYPE_CHECKING:
    import aiohttp

_LONGEST = 8 << 20  # bytes of an answer


class Calls:
    """One for a server. `start` and `cancel` are called from its loop."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = frozenset(one.rstrip("/") for one in allowed)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._client: aiohttp.ClientSession | None = None

    def start(self, token: int, request: HttpRequest, done: Callable[[int, HttpResponse], None]) -> None:
        """Begin. `done` is called with what came back; ValueError when it is not allowed."""
        url = urlsplit(request.url)
        origin = f"{url.scheme}://{url.netloc}"
        if origin not in self._allowed:
            raise ValueError(f"calls to {origin} are not allowed: name it in `calls`")
        self._tasks[token] = asyncio.get_running_loop().create_task(self._run(token, request, done))

    def cancel(self, token: int) -> None:
        """Nobody waits for it any more."""
        task = self._tasks.pop(token, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """End all of them."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    async def _run(self, token: int, request: HttpRequest, done: Callable[[int, HttpResponse], None]) -> None:
        response = await self._response(request)
        if self._tasks.pop(token, None) is not None:
            done(token, response)

    async def _response(self, request: HttpRequest) -> HttpResponse:
        import aiohttp

        if self._client is None:
            self._client = aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
        try:
            async with self._client.request(
                request.method,
                request.url,
                headers=list(request.headers),
                data=request.body or None,
                timeout=aiohttp.ClientTimeout(total=max(0.001, request.timeout)),
                allow_redirects=False,
            ) as answer:
                body = await answer.content.read(_LONGEST)
                while not answer.content.at_eof():
                    more = await answer.content.read(_LONGEST)
                    body += more
                    if len(body) > _LONGEST:
                        return HttpResponse(0, error=f"the answer is longer than {_LONGEST} bytes")
                headers = tuple((name.lower(), value) for name, value in answer.headers.items())
                return HttpResponse(answer.status, headers, body)
        except TimeoutError:
            return HttpResponse(0, error=f"no answer within {request.timeout:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return HttpResponse(0, error=" ".join(str(error).split()) or type(error).__name__)
