"""How a demo model server behaves right now: latency, errors, readiness; changeable while it runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any


@dataclass(frozen=True, slots=True)
class Behaviour:
    """`latency_ms` is added to every answer; with `latency_sigma` > 0 it is the median of a lognormal instead.

    `hold` keeps infer requests unanswered until it is lifted: how a test gets requests in flight without sleeping.
    """

    ready: bool = True
    live: bool = True
    latency_ms: float = 0.0
    latency_sigma: float = 0.0
    error_rate: float = 0.0
    hold: bool = False

    def __post_init__(self) -> None:
        for name in ("ready", "live", "hold"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")
        for name, highest in (("latency_ms", 60_000.0), ("latency_sigma", 5.0), ("error_rate", 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= highest:
                raise ValueError(f"{name} must be a number between 0 and {highest:g}, got {value!r}")

    def changed(self, changes: Mapping[str, Any]) -> Behaviour:
        """This behaviour with some fields replaced; ValueError names what is unknown or out of range."""
        known = [field.name for field in dataclasses.fields(self)]
        if unknown := sorted(set(changes) - set(known)):
            raise ValueError(f"unknown field {', '.join(unknown)}; there are {', '.join(known)}")
        return dataclasses.replace(self, **changes)

    def draw(self, random: Random) -> tuple[float, bool]:
        """For one request: the seconds to wait, and whether to fail it."""
        seconds = self.latency_ms / 1000
        if seconds and self.latency_sigma:
            seconds *= math.exp(random.gauss(0.0, self.latency_sigma))
        return seconds, random.random() < self.error_rate


@dataclass(slots=True)
class Counts:
    """What a server has seen. `shadows` are mirrored copies (`x-shadow: true`) and are not in `requests`.

    `grpc_shadows` are those of the copies that came by gRPC. `errors` were ordered by `error_rate`, `refused` were the
    caller's fault.
    """

    requests: int = 0
    shadows: int = 0
    grpc_shadows: int = 0
    errors: int = 0
    refused: int = 0
    in_flight: int = 0
    readiness_checks: int = 0

    def as_dict(self) -> dict[str, int]:
        return dataclasses.asdict(self)
