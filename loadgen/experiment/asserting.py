"""Conditions on a result: completed, nofailure, slos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loadgen.experiment.result import Result
from loadgen.experiment.tasks.assess import exit_code
from loadgen.slo.verdict import ExitCode
from router.hints import nearest

CONDITIONS = ("completed", "nofailure", "slos")
EVERY = 3.0
"""Seconds between two looks."""


@dataclass(frozen=True, slots=True)
class Held:
    """A line for each condition, and the exit code of the worst."""

    lines: tuple[str, ...]
    code: int


def wanted(given: Sequence[str]) -> tuple[str, ...]:
    """Repeated or separated by commas, in capitals or not. Raises ValueError that names what is not known."""
    found = []
    for one in ",".join(given).split(","):
        name = one.strip().lower()
        if name not in CONDITIONS:
            near = nearest(name, CONDITIONS)
            hint = f"did you mean {near!r}?" if near else f"known: {', '.join(CONDITIONS)}"
            raise ValueError(f"unsupported assert condition {one.strip()!r} ({hint})")
        found.append(name)
    return tuple(dict.fromkeys(found))


def held(result: Result, conditions: Sequence[str]) -> Held:
    lines: list[str] = []
    codes: list[int] = []
    for name in conditions:
        code, why = _held(result, name)
        codes.append(code)
        lines.append(f"{name}: {'holds' if not code else 'does not hold'}" + (f": {why}" if why else ""))
        if name == "slos" and code:
            lines += [f"  {one}" for one in broken(result)]
    order = (ExitCode.TOOL_ERROR, ExitCode.INVALID, ExitCode.BROKEN, ExitCode.NO_DATA, ExitCode.INCONCLUSIVE)
    return Held(tuple(lines), next((int(code) for code in order if code in codes), 0))


def _held(result: Result, name: str) -> tuple[int, str]:
    match name:
        case "completed":
            done = f"{result.completed_tasks} of {len(result.spec)} tasks are done"
            return (0, "") if result.completed() else (ExitCode.TOOL_ERROR, done)
        case "nofailure":
            failed = [f"{one.task}: {one.message}" for one in result.tasks if one.state in ("failed", "tolerated")]
            return (ExitCode.TOOL_ERROR, "; ".join(failed)) if result.failure else (0, "")
    states = [one.state for slo in result.insights.slos for one in slo.verdicts]
    code = exit_code([*states, *(str(rule["state"]) for rule in result.insights.rules)])
    return int(code), ""


def broken(result: Result) -> Iterator[str]:
    """What is not satisfied, of which version, and by how much."""
    insights = result.insights
    for slo in insights.slos:
        for index, verdict in enumerate(slo.verdicts):
            if verdict.state != "pass":
                value = "no value" if verdict.value is None else f"{verdict.value:.4g}"
                sign = "<=" if slo.upper else ">="
                why = f" ({verdict.why})" if verdict.why else ""
                yield f"{insights.label(index)}: {slo.metric} {sign} {slo.limit:g}: {verdict.state}, it is {value}{why}"
    for rule in insights.rules:
        if rule["state"] != "pass":
            yield f"{rule['version'] or 'all'}: {rule['rule']}: {rule['state']}" + (
                f" ({rule['why']})" if rule["why"] else ""
            )
