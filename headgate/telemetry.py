"""Asks the sidecars of the configuration every second what users get, and keeps the last answers.

Nothing waits for it: a sidecar that is away, slow or talks nonsense only means that there are no figures of its own.
A name may stand for many of them, as that of a headless Service does: each of its addresses is asked.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from router.hints import counted
from router.telemetry import PATH, Live, Malformed, Reading, Spoken, begin, together
from router.values import is_ip

INTERVAL = 1.0
TIMEOUT = 2.0
FRESH = 10.0
"""Older figures are not shown: they would be taken for what is going on."""
MOST_BYTES = 2 << 20
"""Some 7,000 versions. json reads it in one go, and a push may wait for it: 4 ms with 1,000 versions, at most 30."""
SLICE = 50
"""Entries read in one go."""
RESOLVE_EVERY = 10
"""Readings between two looks at what a name stands for."""
MOST_PLACES = 1_000

Resolve = Callable[[str, int], Awaitable[list[str]]]

Document = dict[str, Any]
_log = logging.getLogger("headgate.telemetry")


@dataclass(slots=True)
class _Sidecar:
    url: str
    told: str
    """What people know it by."""
    trouble: str = "has not been asked yet"
    reading: Reading = field(default_factory=Reading)
    read_at: float | None = None

    def age(self, now: float) -> float | None:
        return None if self.read_at is None else now - self.read_at + self.reading.age


@dataclass(slots=True)
class _Name:
    """A URL of the configuration, and who answers there, by address."""

    url: str
    trouble: str = "has not been asked yet"
    places: dict[str, _Sidecar] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    def place(self, address: str) -> _Sidecar:
        if address == self.host:
            return _Sidecar(self.url, self.url)
        shown = f"[{address}]" if ":" in address else address
        return _Sidecar(f"http://{shown}:{self.port}", f"{self.url} at {address}")


async def addresses(host: str, port: int) -> list[str]:
    """What a name stands for; of both families only one, or a sidecar that has both would count twice."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    by_family = {family: [str(place[0]) for one, _, _, _, place in found if one == family] for family, *_ in found}
    return by_family.get(socket.AF_INET) or by_family.get(socket.AF_INET6) or []


class Telemetry:
    """`run` it as a task; everything else may be asked at any time."""

    def __init__(
        self,
        urls: Iterable[str] = (),
        *,
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.monotonic,
        resolve: Resolve = addresses,
    ) -> None:
        self._names = tuple(_Name(url) for url in dict.fromkeys(urls))
        self._interval, self._clock, self._resolve = interval, clock, resolve

    async def run(self) -> None:
        """Read all of them, each at its own pace."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        async with (
            aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as client,
            asyncio.TaskGroup() as group,
        ):
            for name in self._names:
                group.create_task(self._follow_name(group, client, name))

    def versions(self, model: str, names: Iterable[str]) -> dict[str, Document]:
        """What is known and fresh of these versions of a model."""
        if not self._names:
            return {}
        now = self._clock()
        found: dict[str, Document] = {}
        places = [one for name in self._names for one in name.places.values()]
        fresh = [(age, one.reading) for one in places if (age := one.age(now)) is not None and age <= FRESH]
        for name in names:
            told = [(age, one.versions[model, name]) for age, one in fresh if (model, name) in one.versions]
            if told:
                found[name] = _live(together(live for _, live in told), max(age for age, _ in told), len(told))
        return found

    def sidecars(self) -> list[Document]:
        """How it is with each of them."""
        now = self._clock()
        found: list[Document] = []
        for name in self._names:
            if not name.places:
                found.append({"url": name.url, "trouble": name.trouble, "age": None})
            found += [
                {"url": one.told, "trouble": one.trouble or None, "age": _rounded(one.age(now))}
                for one in name.places.values()
            ]
        return found

    async def _follow_name(self, group: asyncio.TaskGroup, client: aiohttp.ClientSession, name: _Name) -> None:
        following: dict[str, asyncio.Task[None]] = {}
        while True:
            try:
                there = [name.host] if is_ip(name.host) else await self._resolve(name.host, name.port)
            except (OSError, UnicodeError) as error:  # whom we know we go on asking
                why = error.strerror if isinstance(error, OSError) else None
                name.trouble = f"cannot resolve the name: {(why or str(error)).lower()}"
            else:
                name.trouble = "" if there else "the name stands for no address"
                wanted = dict.fromkeys(there[:MOST_PLACES])
                for address in following.keys() - wanted.keys():
                    following.pop(address).cancel()
                    del name.places[address]
                for address in sorted(wanted.keys() - following.keys()):
                    name.places[address] = name.place(address)
                    following[address] = group.create_task(self._follow(client, name.places[address]))
            await asyncio.sleep(RESOLVE_EVERY * self._interval)

    async def _follow(self, client: aiohttp.ClientSession, one: _Sidecar) -> None:
        while True:
            began = self._clock()
            try:
                trouble = await self._read(client, one)
            except Exception as error:  # a mistake of ours here must not end the control plane
                _log.exception("sidecar %s: cannot be read", one.told)
                trouble = f"cannot be read: {error!r}"
            if trouble != one.trouble:
                if trouble:
                    _log.warning("sidecar %s: %s; trying again every %g s", one.told, trouble, self._interval)
                else:
                    _log.info("sidecar %s: reading its figures", one.told)
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
            reading, entries, spoken = begin(body)
        except Malformed as error:
            return str(error)
        work = chain(zip(repeat(reading.take), entries), zip(repeat(reading.listen), spoken))
        for index, (read, entry) in enumerate(work):
            if index % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            read(entry)
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
        "llm": None if live.spoken is None else _llm(live.spoken),
    }


def _llm(spoken: Spoken) -> Document:
    """Tokens a second, times in seconds."""
    return {
        "tokensInPerSecond": round(spoken.tokens_in, 3),
        "tokensOutPerSecond": round(spoken.tokens_out, 3),
        "timeToFirstToken": {"p50": spoken.first_p50, "p99": spoken.first_p99},
        "timeBetweenTokens": {"p50": spoken.between_p50, "p99": spoken.between_p99},
    }


def _rounded(age: float | None) -> float | None:
    return None if age is None or age == float("inf") else round(age, 3)
