"""What is wrong with SLOs in view of the load that they are for: said before it starts."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from loadgen.plan import Load, Plan, Scenario
from loadgen.slo import intervals
from loadgen.slo.measure import CONFIDENCE
from loadgen.slo.objective import ALL, Reference, Slo
from router.problem import Problem


def check(slos: Iterable[Slo], plan: Plan, where: str = "--slo") -> tuple[Problem, ...]:
    """Errors: scenarios that there are not, figures that this load will not measure. Warnings: too few requests."""
    found: dict[Problem, None] = {}
    for slo in slos:
        for reference in (slo.subject, slo.other):
            if reference is not None:
                found.update(dict.fromkeys(_reference(slo, reference, plan, where)))
    return tuple(found)


def _reference(slo: Slo, reference: Reference, plan: Plan, where: str) -> list[Problem]:
    names = [each.name for each in plan.scenarios]
    if reference.scenario is not None and reference.scenario not in names:
        near = get_close_matches(reference.scenario, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
        return [Problem(where, repr(slo.text), f"there is no scenario {reference.scenario!r}", hint)]
    scenarios = [each for each in plan.scenarios if reference.scenario in (None, each.name)]
    wrong: list[Problem] = []
    for each in scenarios:
        wrong += _measured(slo, reference, each, where) + _pins(slo, reference, each, where)
    return wrong[:1] or _enough(slo, reference, scenarios, where)


def _measured(slo: Slo, reference: Reference, scenario: Scenario, where: str) -> list[Problem]:
    metric, target = reference.figure.metric, scenario.target
    streams = target.stream or (target.grpc is not None and target.grpc.kind != "unary")
    if metric in ("ttft", "itl", "tpot", "tokens") and not streams:
        what = f"{metric} is not measured: the answers of {scenario.name!r} are not read as a stream"
        return [
            Problem(
                where,
                repr(slo.text),
                what,
                f"ask for a stream, or name a scenario that is one: NAME:{reference.figure.name}",
            )
        ]
    if metric == "goodput" and target.goodput is None:
        what = f"nothing says which requests of {scenario.name!r} are good"
        return [Problem(where, repr(slo.text), what, "give goodput limits, such as latency=500ms")]
    return []


def _pins(slo: Slo, reference: Reference, scenario: Scenario, where: str) -> list[Problem]:
    pinned, version = scenario.target.version, reference.version
    if reference.scenario is None or pinned is None or version in (None, ALL, pinned):
        return []
    what = f"scenario {scenario.name!r} counts everything as version {pinned!r}, never as {version!r}"
    return [Problem(where, repr(slo.text), what, f"write {scenario.name}:{pinned}.{reference.figure.name}")]


def _enough(slo: Slo, reference: Reference, scenarios: list[Scenario], where: str) -> list[Problem]:
    figure = reference.figure
    if figure.stat == "p":
        needs = intervals.percentile_needs(figure.percent, CONFIDENCE)
    elif figure.stat == "share" and figure.metric in ("errors", "timeouts", "goodput") and slo.other is None:
        needs = intervals.share_needs(min(slo.constant, 1 - slo.constant), CONFIDENCE)
    else:
        return []
    if figure.metric in ("itl", "tpot"):  # many to a request
        return []
    few = [(each, asked) for each in scenarios if (asked := expected(each.load)) is not None and asked < needs]
    return [
        Problem(
            where,
            repr(slo.text),
            f"{each.name!r} sends {asked:,} requests, and {figure.name} takes at least {needs:,} of each version",
            "send more, or the verdict may be inconclusive",
            severity="warning",
        )
        for each, asked in few[:1]
    ]


def expected(load: Load) -> int | None:
    """How many requests a load will send, as far as it says; without the warm-up."""
    known = [load.requests] if load.requests is not None else []
    if load.executor == "arrivals" and load.arrivals is not None:
        if load.arrivals.trace:
            known.append(len(load.arrivals.trace))
        else:
            known.append(round(_scheduled(load)))
    return min(known) if known else None


def _scheduled(load: Load) -> float:
    """Requests between the end of the warm-up and the end of the schedule, or of the duration."""
    assert load.arrivals is not None
    until = load.duration if load.duration is not None else float("inf")
    total, at = 0.0, 0.0
    for stage in load.arrivals.stages:
        begin, end = max(at, load.warmup), min(at + stage.duration, load.warmup + until)
        if end > begin:
            slope = (stage.end - stage.start) / stage.duration
            total += (end - begin) * (stage.start + slope * ((begin + end) / 2 - at))
        at += stage.duration
    return total
