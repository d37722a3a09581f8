"""A candidate against the primary: what differs, by how much, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from loadgen.slo.figures import Figure
from loadgen.slo.verdict import Interval

Meaning = Literal["better", "worse", "no difference shown", "too few samples"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of both. `change` is candidate/primary - 1 (times and rates), or candidate - primary (shares).

    `p` is the chance of seeing this much where there is no difference, and `adjusted` the same after Holm's correction
    for all the figures compared; None where nothing can be said.
    """

    figure: Figure
    primary: float | None
    candidate: float | None
    change: float | None
    interval: Interval | None
    p: float | None
    adjusted: float | None
    meaning: Meaning
    words: str  # "p95 is 12 % higher (8 % to 16 %)"


@dataclass(frozen=True, slots=True)
class Part:
    """One version's share of the requests, as counted and as it should have been."""

    version: str
    count: int
    share: float
    intended: float
    p: float


@dataclass(frozen=True, slots=True)
class Split:
    """`fair`: nothing says that the split is not as intended, at the level 0.001 (Holm)."""

    parts: tuple[Part, ...]
    fair: bool
    words: str


@dataclass(frozen=True, slots=True)
class Comparison:
    scenario: str
    primary: str
    candidate: str
    differences: tuple[Difference, ...]
    meaning: Meaning  # "worse" if any figure is, "better" if any is and none is worse
    words: str  # "v2 is slower: p95 is 12 % higher (8 % to 16 %)"
    split: Split | None = None
