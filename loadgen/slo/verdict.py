"""What SLOs came to, and the exit code that follows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from loadgen.outcome import Fault
from loadgen.slo.figures import Dimension
from loadgen.slo.objective import Slo

Ruling = Literal["PASS", "FAIL", "INCONCLUSIVE", "NO_DATA"]
Scale = Dimension | Literal["ratio"]
Policy = Literal["exit", "pass", "fail"]  # what INCONCLUSIVE means for the exit code


class ExitCode(IntEnum):
    HELD = 0
    TOOL_ERROR = 1
    BAD_SPEC = 2
    NO_DATA = 3
    INVALID = 4
    INCONCLUSIVE = 5
    BROKEN = 99


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the truth lies, with `confidence`. An end that the samples do not bound is infinite (or 0 for times)."""

    low: float
    high: float
    confidence: float = 0.95


@dataclass(frozen=True, slots=True)
class Verdict:
    """One SLO, judged for one version of one scenario.

    `value`, `limit`, `margin` and `interval` are on one scale, `scale`: the figure's own dimension, or "ratio" where
    the SLO compares two figures by a factor (`value` is then subject/other and `limit` the factor). `margin` is how far
    the value lies on the good side of the limit, negative on the bad one, as a share of the limit where that is not 0.
    `needed` is how many samples would do, where there are too few. `why` is a sentence for people.
    """

    slo: Slo
    scenario: str
    version: str
    ruling: Ruling
    value: float | None = None
    limit: float | None = None
    margin: float | None = None
    interval: Interval | None = None
    scale: Scale = "time"
    samples: int = 0
    needed: int | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Assessment:
    """All verdicts of a run. `faults` make it invalid, whatever the verdicts.

    `silent` says why nothing can be told of how the target serves: not one request succeeded, and `answered` tells
    whether anything answered at all.
    """

    verdicts: tuple[Verdict, ...] = ()
    faults: tuple[Fault, ...] = ()
    confidence: float | None = None  # asked for; None: the measured value decides
    inconclusive: Policy = "exit"
    silent: str = ""
    answered: bool = True

    @property
    def exit_code(self) -> ExitCode:
        """Nothing answered 3, invalid 4, any SLO broken 99, no data for one or no success 3, inconclusive 5, else 0."""
        rulings = {each.ruling for each in self.verdicts}
        if not self.answered:
            return ExitCode.NO_DATA
        if self.faults:
            return ExitCode.INVALID
        if "FAIL" in rulings or ("INCONCLUSIVE" in rulings and self.inconclusive == "fail"):
            return ExitCode.BROKEN
        if "NO_DATA" in rulings or self.silent:
            return ExitCode.NO_DATA
        if "INCONCLUSIVE" in rulings and self.inconclusive == "exit":
            return ExitCode.INCONCLUSIVE
        return ExitCode.HELD

    @property
    def outcome(self) -> Literal["PASS", "FAIL", "INCONCLUSIVE", "NO_DATA", "INVALID", "NO_OBJECTIVES"]:
        """In one word. Nothing has passed where nothing was asked for."""
        match self.exit_code:
            case ExitCode.INVALID:
                return "INVALID"
            case ExitCode.BROKEN:
                return "FAIL"
            case ExitCode.NO_DATA:
                return "NO_DATA"
            case ExitCode.INCONCLUSIVE:
                return "INCONCLUSIVE"
            case _:
                return "PASS" if self.verdicts else "NO_OBJECTIVES"

    def of(self, version: str, scenario: str | None = None) -> tuple[Verdict, ...]:
        return tuple(each for each in self.verdicts if each.version == version and scenario in (None, each.scenario))
