"""Asks the sidecars of the configuration every second what users get, and keeps the last answers.

Nothing waits for it: a sidecar that is away, slow or talks nonsense only means that there are no figures of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from router.hints import counted
from router.telemetry import PATH, Live, Malformed, Reading, begin, together

INTERVAL = 1.0
TIMEOUT = 2.0
FRESH = 10.0
"""Older figures are not shown: they would be taken for what is going on."""
MOST_BYTES = 4 << 20
"""Some 5,000 versions. json reads it in one go, so this bounds how long a push may wait for it."""
SLICE = 50
"""Entries read in one go."""

Document = dict[str, Any]
_log = logging.getLogger("headgate.telemetry")


@dataclass(slots=True)
class _Sidecar:
    url: str
    trouble: str = "has not been asked yet"
    reading: Reading = field(default_factory=Reading)
    read_at: float | None = None

    def age(self, now: float) -> float | None:
        return None if self.read_at is None else now - self.read_at + self.reading.age


class Telemetry:
    """`run` it as a task; everything else may be asked at any time."""

    def __init__(
        self, urls: Iterable[str] = (), *, interval: float = INTERVAL, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sidecars = tuple(_Sidecar(url) for url in dict.fromkeys(urls))
        self._interval, self._clock = interval, clock

    async def run(self) -> None:
        """Read all of them, each at its own pace."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as client:
            await asyncio.gather(*(self._follow(client, one) for one in self._sidecars))

    def versions(self, model: str, names: Iterable[str]) -> dict[str, Document]:
        """What is known and fresh of these versions of a model."""
        if not self._sidecars:
            return {}
        now = self._clock()
        found: dict[str, Document] = {}
        fresh = [(age, one.reading) for one in self._sidecars if (age := one.age(now)) is not None and age <= FRESH]
        for name in names:
            told = [(age, one.versions[model, name]) for age, one in fresh if (model, name) in one.versions]
            if told:
                found[name] = _live(together(live for _, live in told), max(age for age, _ in told), len(told))
        return found

    def sidecars(self) -> list[Document]:
        """How it is with each of them."""
        now = self._clock()
        return [
            {"url": one.url, "trouble": one.trouble or None, "age": _rounded(one.age(now))} for one in self._sidecars
        ]

    async def _follow(self, client: aiohttp.ClientSession, one: _Sidecar) -> None:
        while True:
            began = self._clock()
            try:
                trouble = await self._read(client, one)
            except Exception as error:  # a mistake of ours here must not end the control plane
                _log.exception("sidecar %s: cannot be read", one.url)
                trouble = f"cannot be read: {error!r}"
            if trouble != one.trouble:
                if trouble:
                    _log.warning("sidecar %s: %s; trying again every %g s", one.url, trouble, self._interval)
                else:
                    _log.info("sidecar %s: reading its figures", one.url)
                one.trouble = trouble
            await asyncio.sleep(max(self._interval - (self._clock() - began), self._interval / 10))

    async def _read(self, client: aiohttp.ClientSession, one: _Sidecar) -> str:
        """Ask once; returns what is wrong, in plain words."""
        try:
            async with client.get(one.url + PATH, allow_redirects=False) as answer:
                if answer.status != 200:
                    return f"answered {answer.status}: is it the port of headgate sidecar?"
                body = await answer.content.read(MOST_BYTES + 1)
                while len(body) <= MOST_BYTES and (more := await answer.content.read(MOST_BYTES + 1 - len(body))):
                    body += more
        except TimeoutError:
            return f"did not answer within {TIMEOUT:g} s"
        except aiohttp.ClientConnectorError as error:
            number = error.os_error.errno or 0  # negative: the resolver's own
            return f"cannot connect: {(os.strerror(number) if number > 0 else str(error.os_error)).lower()}"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return f"broke off: {error}"
        if len(body) > MOST_BYTES:
            return f"its answer is longer than {MOST_BYTES} bytes"
        told_at = self._clock()
        try:
            reading, entries = begin(body)
        except Malformed as error:
            return str(error)
        for index, entry in enumerate(entries):
            if index % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            reading.take(entry)
        one.reading, one.read_at = reading, told_at
        if reading.odd:
            return f"its answer has {counted(reading.odd, 'part')} that could not be read"
        return reading.trouble


def _live(live: Live, age: float, sidecars: int) -> Document:
    """Times in seconds."""
    return {
        "rps": round(live.rps, 3),
        "requests": live.requests,
        "errors": live.errors,
        "errorPercent": round(live.error_percent, 3),
        "p50": live.p50,
        "p99": live.p99,
        "age": _rounded(age),
        "sidecars": sidecars,
    }


def _rounded(age: float | None) -> float | None:
    return None if age is None or age == float("inf") else round(age, 3)
