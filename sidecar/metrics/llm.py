"""What plugins say of language models' answers in; tokens and their times per version out, in all and lately.

A plugin says it in the dynamic metadata `headgate` of a request: `tokens_in`, `tokens_out`, and in seconds
`time_to_first_token` and `time_between_tokens`.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

from sidecar.instruments import SECONDS, Family, Kind, Labels, Sample
from sidecar.metrics.totals import Figures, Times
from sidecar.metrics.windows import Windows, quantiles

HELP: Mapping[str, tuple[Kind, str]] = {
    "headgate_stream_tokens": ("counter", "Tokens of requests and answers, as plugins said."),
    "headgate_stream_time_to_first_token_seconds": ("histogram", "From the request to the answer's first token."),
    "headgate_stream_time_between_tokens_seconds": ("histogram", "Mean time between two tokens of an answer."),
}
_BOUNDS = (*SECONDS, SECONDS[-1])
"""Above the last bound nobody knows how far: the last bound is told."""
_NUMBERS = (int, float)


class Version(NamedTuple):
    namespace: str
    model: str
    version: str


@dataclass(slots=True)
class _Histogram:
    """Counts by bucket of `SECONDS`, the last one for what is above them all."""

    counts: list[int] = field(default_factory=lambda: [0] * len(_BOUNDS))
    total_us: int = 0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.total_us += round(seconds * 1e6)

    @property
    def times(self) -> Times:
        return Times(_BOUNDS, tuple(accumulate(self.counts)))


@dataclass(slots=True)
class _Said:
    """Of one version, since the sidecar began."""

    tokens_in: int = 0
    tokens_out: int = 0
    first: _Histogram = field(default_factory=_Histogram)
    between: _Histogram = field(default_factory=_Histogram)

    def figures(self) -> Figures:
        sums = {
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "first_us": self.first.total_us,
            "between_us": self.between.total_us,
        }
        return Figures({}, sums, {"first": self.first.times, "between": self.between.times})


_NOTHING = _Said().figures()


class Llms:
    """`say` it of each answer, `take` or `run` for the windows; everything else may be asked at any time.

    Whoever says it bounds the number of versions.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[Version, _Said] = {}
        self._windows = Windows[Version]()
        self.take()

    def __len__(self) -> int:
        return len(self._said)

    def say(self, version: Version, said: Mapping[str, Any]) -> None:
        """Figures that are none, or beyond a billion tokens, are left out."""
        tokens_in, tokens_out = _figure(said, "tokens_in"), _figure(said, "tokens_out")
        first, between = _figure(said, "time_to_first_token"), _figure(said, "time_between_tokens")
        if tokens_in is None and tokens_out is None and first is None and between is None:
            return
        known = self._said.get(version)
        if known is None:
            known = self._said[version] = _Said()
        known.tokens_in += int(tokens_in or 0)
        known.tokens_out += int(tokens_out or 0)
        if first is not None:
            known.first.observe(first)
        if between is not None:
            known.between.observe(between)

    def take(self) -> None:
        """Remember how it is now."""
        self._windows.take({version: said.figures() for version, said in self._said.items()}, self._clock())

    async def run(self, interval: float) -> None:
        """Remember how it was, again and again."""
        while True:
            await asyncio.sleep(interval)
            self.take()

    def versions(self, window: str | None = None) -> list[dict[str, Any]]:
        """As JSON: every version's totals since the sidecar began, and its windows, or the one that is asked for."""
        windows = self._windows.lately(window)
        return [
            {
                **version._asdict(),
                "total": _told(said.figures()),
                "windows": {
                    name: _rates(length, added.get(version, _NOTHING)) for name, (length, added) in windows.items()
                },
            }
            for version, said in sorted(self._said.items())
        ]

    def families(self) -> tuple[Family, ...]:
        """For Prometheus."""
        spoken = sorted(self._said.items())
        tokens = [
            Sample("_total", (*labels(version), ("direction", direction)), count)
            for version, one in spoken
            for direction, count in (("in", one.tokens_in), ("out", one.tokens_out))
        ]
        return (
            _family("headgate_stream_tokens", tokens),
            _times("headgate_stream_time_to_first_token_seconds", ((version, one.first) for version, one in spoken)),
            _times("headgate_stream_time_between_tokens_seconds", ((version, one.between) for version, one in spoken)),
        )


def brief(one: dict[str, Any]) -> dict[str, Any]:
    """An entry of `versions` for who asks every second: rates and times, no sums."""
    windows = {
        name: {key: told[key] for key in told if key not in ("tokens_in", "tokens_out")}
        for name, told in one["windows"].items()
    }
    total = {key: one["total"][key] for key in ("tokens_in", "tokens_out")}
    return {**one, "total": total, "windows": windows}


def _told(figures: Figures) -> dict[str, Any]:
    """Sums are exact, for arithmetic: quantiles of several versions or sidecars cannot be added."""
    return {
        "tokens_in": figures.sums["tokens_in"],
        "tokens_out": figures.sums["tokens_out"],
        "time_to_first_token_seconds": _spread(figures, "first"),
        "time_between_tokens_seconds": _spread(figures, "between"),
    }


def _spread(figures: Figures, kind: str) -> dict[str, float | None]:
    times = figures.times[kind]
    return {"count": times.count, "sum": figures.sums[f"{kind}_us"] / 1e6, **quantiles(times)}


def _rates(length: float, added: Figures) -> dict[str, Any]:
    told = _told(added)
    rates = {
        f"{name}_per_second": round(told[name] / length, 3) if length else 0.0 for name in ("tokens_in", "tokens_out")
    }
    return {"seconds": round(length, 3), **rates, **told}


def _figure(said: Mapping[str, Any], name: str) -> float | None:
    """Plugins' own numbers, where they are such: below a day, or a billion tokens."""
    value: Any = said.get(name)
    return value if type(value) in _NUMBERS and 0 <= value < 1e9 else None


def _family(name: str, samples: Iterable[Sample]) -> Family:
    kind, told = HELP[name]
    return Family(name, kind, told, tuple(samples))


def _times(name: str, by: Iterable[tuple[Version, _Histogram]]) -> Family:
    samples: list[Sample] = []
    for version, one in by:
        *within, count = accumulate(one.counts)
        if not count:
            continue
        for bound, so_far in zip((*map(str, SECONDS), "+Inf"), (*within, count), strict=True):
            samples.append(Sample("_bucket", (*labels(version), ("le", bound)), so_far))
        samples += Sample("_sum", labels(version), one.total_us / 1e6), Sample("_count", labels(version), count)
    return _family(name, samples)


def labels(version: Version) -> Labels:
    """For Prometheus."""
    return tuple(version._asdict().items())
