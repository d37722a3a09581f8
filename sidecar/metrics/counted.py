"""Requests that the sidecar's own proxy has passed on in, the same figures as of an Envoy out.

Where there is no Envoy nobody else counts. Nothing is lost and nothing is guessed, so that copies have sums, too.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

from sidecar.metrics.bounds import BOUNDS
from sidecar.metrics.llm import Llms, Version
from sidecar.metrics.stats import Key, Outcome, outcome
from sidecar.metrics.totals import Figures, Times
from sidecar.metrics.windows import Windows, versions
from sidecar.proxy_config import Exchange, ProxyConfig

INTERVAL = 1.0
_FLAGS = {"": "", "disconnected": "DC", "upstream-failed": "UC", "aborted": "LR", "timeout": "UT"}
_NOT_REACHED = {503: "UF", 504: "UT"}
"""An answer of ours, told by Envoy's flags: no connection to the server, or it took too long."""


class Counted:
    """A recorder for the proxy. `run` it as a task for the windows; everything else may be asked at any time."""

    def __init__(
        self, config: ProxyConfig, *, interval: float = INTERVAL, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval, self._clock = interval, clock
        self._windows, self._taken = Windows[Key](), clock()
        self._sums = {Key(config.namespace, config.model, config.version, "primary"): _Sums()}
        self.llms = Llms(clock)
        self.trouble: str | None = "the proxy does not listen yet"
        self.take()

    def record(self, exchange: Exchange) -> None:
        """Count a request that is over."""
        route = "mirror" if exchange.shadow else "primary"
        key = Key(exchange.namespace, exchange.model, exchange.version, route)
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = _Sums()
        sums.add(exchange)
        if exchange.said and not exchange.shadow:
            self.llms.say(Version(exchange.namespace, exchange.model, exchange.version), exchange.said)

    async def run(self) -> None:
        """Remember how it was, again and again."""
        while True:
            await asyncio.sleep(self._interval)
            self.take()

    def take(self) -> None:
        self._taken = self._clock()
        self._windows.take(self.figures, self._taken)
        self.llms.take()

    @property
    def figures(self) -> Mapping[Key, Figures]:
        return {key: sums.figures() for key, sums in self._sums.items()}

    def versions(self, window: str | None = None) -> list[dict[str, Any]]:
        return versions(self._windows, window)

    @property
    def own(self) -> None:
        """There is no Envoy that could be away."""

    @property
    def age(self) -> float:
        return self._clock() - self._taken

    @property
    def unready(self) -> str | None:
        return self.trouble


class _Sums:
    """All about one key."""

    def __init__(self) -> None:
        self._requests: Counter[Outcome] = Counter()
        self._sums: Counter[str] = Counter()
        self._times: dict[str, list[int]] = {}

    def add(self, exchange: Exchange) -> None:
        self._requests[_outcome(exchange)] += 1
        self._sums["request_bytes"] += exchange.request_bytes
        self._sums["response_bytes"] += exchange.response_bytes
        if exchange.time_to_first_byte is not None:
            self._time("first_byte", exchange.time_to_first_byte)
        if exchange.end != "disconnected":
            self._time("duration", exchange.duration)

    def _time(self, kind: str, seconds: float) -> None:
        self._sums[f"{kind}_us"] += round(seconds * 1e6)
        counts = self._times.get(kind)
        if counts is None:
            counts = self._times[kind] = [0] * len(BOUNDS)
        counts[min(bisect_left(BOUNDS, seconds), len(BOUNDS) - 1)] += 1

    def figures(self) -> Figures:
        times = {kind: Times(BOUNDS, tuple(accumulate(counts))) for kind, counts in self._times.items()}
        return Figures(dict(self._requests), dict(self._sums), times)


def _outcome(exchange: Exchange) -> Outcome:
    flags = _FLAGS.get(exchange.end, "other")
    if exchange.end == "upstream-failed":
        flags = _NOT_REACHED.get(exchange.code, flags)
    if exchange.protocol != "grpc":
        return outcome(str(exchange.code), "", flags)
    if exchange.end == "disconnected" and exchange.time_to_first_byte is None:
        return outcome("0", "", flags)
    return outcome(str(exchange.code), str(exchange.grpc_status), flags)
