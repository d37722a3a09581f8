"""What a sidecar tells at GET /versions in, what users of each version get out.

A sidecar is another process, perhaps of another release: what cannot be read is left out and counted, never trusted.
Mirrored copies and requests that no route took are nobody's experience of a version, and left out as well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

WINDOW = "10s"
PATH = f"/versions?window={WINDOW}&brief"
MOST_VERSIONS = 20_000


class Malformed(ValueError):
    """The answer is none of a sidecar's."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """What language models said within the last ten seconds. Tokens are a second's, times seconds, None without any."""

    tokens_in: float = 0.0
    tokens_out: float = 0.0
    first_p50: float | None = None
    """From the request to the first token."""
    first_p99: float | None = None
    between_p50: float | None = None
    between_p99: float | None = None

    def plus(self, other: Spoken) -> Spoken:
        """Of two sidecars."""
        return Spoken(
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
            _greater(self.first_p50, other.first_p50),
            _greater(self.first_p99, other.first_p99),
            _greater(self.between_p50, other.between_p50),
            _greater(self.between_p99, other.between_p99),
        )


@dataclass(frozen=True, slots=True)
class Live:
    """What users of one version got within the last ten seconds. Quantiles are seconds, None without requests."""

    requests: int = 0
    errors: int = 0
    rps: float = 0.0
    p50: float | None = None
    p99: float | None = None
    spoken: Spoken | None = None
    """Only where some plugin tells of tokens."""

    @property
    def error_percent(self) -> float:
        return 100 * self.errors / self.requests if self.requests else 0.0

    def plus(self, other: Live) -> Live:
        """Of two routes or two Envoys. Quantiles cannot be added: the greater one is never too good to be true."""
        return Live(
            self.requests + other.requests,
            self.errors + other.errors,
            self.rps + other.rps,
            _greater(self.p50, other.p50),
            _greater(self.p99, other.p99),
            self.spoken.plus(other.spoken) if self.spoken and other.spoken else self.spoken or other.spoken,
        )


Key = tuple[str, str]
"""("namespace/model", version)"""


@dataclass(slots=True)
class Reading:
    """`take` one entry of the answer after the other, then `listen` to those of language models."""

    age: float = 0.0
    """Seconds that the figures were old when the sidecar told them."""
    trouble: str = ""
    """Why the sidecar itself has nothing newer."""
    versions: dict[Key, Live] = field(default_factory=dict)
    odd: int = 0
    """Entries that could not be read."""

    def take(self, entry: Any) -> None:
        try:
            key, live = _entry(entry)
        except (AttributeError, KeyError, TypeError, ValueError):
            self.odd += 1
            return
        if key is None:
            return
        known = self.versions.get(key)
        if known is None and len(self.versions) >= MOST_VERSIONS:
            self.odd += 1
            return
        self.versions[key] = live if known is None else known.plus(live)

    def listen(self, entry: Any) -> None:
        """Tokens of a version that has no requests are nobody's experience."""
        try:
            key, spoken = _spoken(entry)
        except (AttributeError, KeyError, TypeError, ValueError):
            self.odd += 1
            return
        if (known := self.versions.get(key)) is not None:
            self.versions[key] = known.plus(Live(spoken=spoken))


def begin(body: bytes) -> tuple[Reading, list[Any], list[Any]]:
    """A reading without its entries, those to `take` and those to `listen` to.

    There may be many, so that who reads them gives others a turn.
    """
    try:
        document = json.loads(body)
        entries, spoken = document["versions"], document.get("llm", [])
        age, trouble = document.get("age_seconds"), document.get("trouble")
        old = math.inf if age is None else _number(age)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise Malformed("the answer is not one of a sidecar's /versions") from None
    if not isinstance(entries, list):
        raise Malformed("the answer of /versions has no list of versions")
    if not isinstance(spoken, list):
        raise Malformed("llm in the answer of /versions is no list")
    return Reading(old, _printable(trouble) if isinstance(trouble, str) else ""), entries, spoken


def read(body: bytes) -> Reading:
    """All of an answer at once."""
    reading, entries, spoken = begin(body)
    for entry in entries:
        reading.take(entry)
    for entry in spoken:
        reading.listen(entry)
    return reading


def together(lives: Iterable[Live]) -> Live:
    """Several sidecars' figures of one version."""
    total = Live()
    for one in lives:
        total = total.plus(one)
    return total


def _entry(entry: Any) -> tuple[Key | None, Live]:
    namespace, model, version = (_name(entry[name]) for name in ("namespace", "model", "version"))
    if entry.get("shadow") or not model or not version:
        return None, Live()
    window = entry["windows"][WINDOW]
    requests, errors = int(_number(window["requests"])), int(_number(window["errors"]))
    times = window.get("duration_seconds") or {}
    live = Live(
        requests=requests,
        errors=min(errors, requests),
        rps=_number(window["rps"]),
        p50=_maybe(times.get("p50")),
        p99=_maybe(times.get("p99")),
    )
    return (f"{namespace}/{model}", version), live


def _spoken(entry: Any) -> tuple[Key, Spoken]:
    namespace, model, version = (_name(entry[name]) for name in ("namespace", "model", "version"))
    window = entry["windows"][WINDOW]
    first, between = window["time_to_first_token_seconds"], window["time_between_tokens_seconds"]
    spoken = Spoken(
        tokens_in=_number(window["tokens_in_per_second"]),
        tokens_out=_number(window["tokens_out_per_second"]),
        first_p50=_maybe(first["p50"]),
        first_p99=_maybe(first["p99"]),
        between_p50=_maybe(between["p50"]),
        between_p99=_maybe(between["p99"]),
    )
    return (f"{namespace}/{model}", version), spoken


def _printable(text: str) -> str:
    """It ends up on terminals."""
    return "".join(letter for letter in text[:200] if letter.isprintable())


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e15:
        raise ValueError(value)
    return float(value)


def _maybe(value: Any) -> float | None:
    return None if value is None else _number(value)


def _greater(one: float | None, other: float | None) -> float | None:
    return max((each for each in (one, other) if each is not None), default=None)
