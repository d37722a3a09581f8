"""Asks every endpoint with a readiness probe whether it can serve, and tells the Store what changed.

    Store.follow_rollouts ─► Schedule (pure: when, thresholds) ─► ask by HTTP, gRPC or TCP ─► Store.set_health

One task keeps the schedule; at most `concurrency` questions are under way. Every question makes a connection of its
own: a kept one would still work where a new user is refused, and ten thousand idle ones would cost their descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import random
import socket
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from router.schedule import Outcome, Probe, Schedule, Target, wanted
from router.store import Store

log = logging.getLogger(__name__)

Ask = Callable[[Probe], Awaitable[Outcome]]

_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network is unreachable",
    errno.EMFILE: "the control plane has no file descriptor left",
}


class Prober:
    """Probes for all rollouts in the Store. `ask` replaces the network in tests."""

    def __init__(
        self,
        store: Store,
        *,
        concurrency: int = 256,
        random: random.Random | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        ask: Ask | None = None,
    ) -> None:
        self._store = store
        self._concurrency = concurrency
        self._clock = clock
        self._monotonic = monotonic
        self._ask = ask
        self._schedule = Schedule(random or _random())
        self._under_way = 0
        self._woken = asyncio.Event()

    def __len__(self) -> int:
        """How many different endpoints and ways of asking there are."""
        return len(self._schedule)

    async def run(self) -> None:
        """Probe until cancelled; leaves no connection open."""
        async with Network() as network, asyncio.TaskGroup() as group:
            ask = self._ask or network.ask
            group.create_task(self._follow(), name="probes: follow rollouts")
            while True:
                self._woken.clear()
                while self._under_way < self._concurrency and (target := self._schedule.take(self._monotonic())):
                    self._under_way += 1
                    group.create_task(self._probe(target, ask))
                next_at = self._schedule.next_at() if self._under_way < self._concurrency else None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if next_at is None else max(next_at - self._monotonic(), 0)):
                        await self._woken.wait()

    async def _follow(self) -> None:
        changed = self._store.follow_rollouts()
        while True:
            for model in await changed.next(100):
                located = self._store.get(model)
                probes = wanted(located.rollout) if located is not None else {}
                known, gone = self._schedule.follow(model, probes, self._monotonic())
                for user, health in known:
                    self._store.set_health(*user, health)
                for user in gone:
                    self._store.drop_health(*user)
            self._woken.set()
            await asyncio.sleep(0)

    async def _probe(self, target: Target, ask: Ask) -> None:
        started = self._monotonic()
        try:
            async with asyncio.timeout(target.probe.timeout):
                outcome = await ask(target.probe)
        except TimeoutError:
            outcome = Outcome(False, f"no answer within {target.probe.timeout:g} s")
        except Exception as error:  # our bug, with one endpoint: the others must still be probed
            log.exception("%s cannot be probed", target.probe)
            outcome = Outcome(False, f"cannot be probed: {type(error).__name__}: {error}")
        finally:
            self._under_way -= 1
            self._woken.set()
        for user, health in self._schedule.done(target, outcome, started, self._monotonic(), self._clock()):
            self._store.set_health(*user, health)


class Network:
    """Asks by the real network. Use as `async with`."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "headgate-probe"},
            timeout=aiohttp.ClientTimeout(),  # the prober has its own
            trust_env=False,
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(self, probe: Probe) -> Outcome:
        """One question, one answer; only the time limit is the caller's."""
        try:
            if probe.kind == "http":
                return await self._http(probe)
            if probe.kind == "grpc":
                from router.probe_grpc import check  # grpc takes a while to import, and few need it

                return await check(_authority(probe), probe.service)
            return await _tcp(probe)
        except TimeoutError:
            # The operating system's, unless ours is about to be turned into one by the caller.
            return Outcome(False, "connection timed out")
        except aiohttp.ServerDisconnectedError:
            return Outcome(False, "connection closed without an answer")
        except aiohttp.ClientResponseError as error:
            return Outcome(
                False, f"no HTTP answer: {error.message.splitlines()[0][:80] if error.message else 'garbage'}"
            )
        except aiohttp.ClientConnectorDNSError:
            return Outcome(False, f"no address known for {probe.address}")
        except OSError as error:
            return Outcome(False, _words(error, probe))
        except aiohttp.ClientError as error:
            return Outcome(False, str(error)[:120] or type(error).__name__)

    async def _http(self, probe: Probe) -> Outcome:
        assert self._session is not None, "use Network as `async with`"
        headers = {"Host": probe.host} if probe.host else None
        url = URL(f"http://{_authority(probe)}{probe.path}", encoded=True)
        async with self._session.get(url, headers=headers, allow_redirects=False) as response:
            response.close()  # the status is all we want, and a body may be endless
            if 200 <= response.status < 400:
                return Outcome(True)
            return Outcome(False, f"HTTP {response.status}")


async def _tcp(probe: Probe) -> Outcome:
    _, writer = await asyncio.open_connection(probe.address, probe.port)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return Outcome(True)


def _words(error: OSError, probe: Probe) -> str:
    if isinstance(error, socket.gaierror):
        return f"no address known for {probe.address}"
    number = error.errno
    if number is None and isinstance(error.__cause__, OSError):
        number = error.__cause__.errno
    return _WORDS.get(number or 0) or (error.strerror or str(error) or type(error).__name__).lower()


def _authority(probe: Probe) -> str:
    return f"[{probe.address}]:{probe.port}" if ":" in probe.address else f"{probe.address}:{probe.port}"


def _random() -> random.Random:
    return random.Random()
