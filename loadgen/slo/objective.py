"""What is promised: an SLO, read by loadgen/slo/language.py and judged by loadgen/slo/judge.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from loadgen.slo.figures import Figure

ALL = "all"  # every version of a scenario together, also what named none
Operator = Literal["<=", "<", ">=", ">"]


@dataclass(frozen=True, slots=True)
class Reference:
    """A figure of whom: None is "of each one" (of each scenario, of each version)."""

    figure: Figure
    version: str | None = None
    scenario: str | None = None


@dataclass(frozen=True, slots=True)
class Slo:
    """`subject` OP `factor` * `other` + `constant`; without `other`, `subject` OP `constant`.

    `text` is what was written. Constants are in seconds, shares (0.01 is 1 %), 1/s or counts, as the figure is.
    """

    text: str
    subject: Reference
    operator: Operator
    constant: float
    other: Reference | None = None
    factor: float = 1.0

    @property
    def upper(self) -> bool:
        """Whether the limit is one that must not be passed upwards."""
        return self.operator in ("<=", "<")

    def holds(self, value: float, limit: float) -> bool:
        match self.operator:
            case "<=":
                return value <= limit
            case "<":
                return value < limit
            case ">=":
                return value >= limit
            case _:
                return value > limit
