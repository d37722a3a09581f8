"""What a prober last learned of one endpoint of one version."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Health:
    """`reason` in plain words ("connection refused"); `since` is when `ready` last changed, on the engine's clock."""

    ready: bool
    reason: str
    since: float = 0.0
