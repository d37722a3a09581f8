"""From flags to a plan, with all that is wrong with them at once."""

from __future__ import annotations

import os

from headgate.load.amount import Mistakes, load_of
from headgate.load.flags import Flags
from headgate.load.request import target_of
from loadgen.plan import Bounds, Plan, Scenario
from loadgen.slo.advise import check
from loadgen.slo.language import parse_all
from loadgen.slo.objective import Slo
from router.problem import Problem

MOST_PROCESSES = 256


def plan_of(given: Flags) -> tuple[Plan, tuple[Slo, ...], tuple[Problem, ...]]:
    """A plan, its SLOs, and problems: where one of them is an error the rest is of no use.

    What only the target can tell is not in it yet, see asking.py.
    """
    mistakes = Mistakes()
    target = target_of(given, mistakes)
    load = load_of(given, mistakes)
    processes = _processes(given.processes, mistakes)
    bounds = Bounds(lag_p99=mistakes.seconds("--max-lag", given.max_lag))
    slos, problems = parse_all(given.slo)
    mistakes.problems += problems
    if given.confidence is not None and not 0.5 <= given.confidence < 1:
        mistakes.add("--confidence", f"{given.confidence:g} is not possible", "give 0.5 to 0.9999, such as 0.95")
    if given.workers and given.master is None:
        mistakes.add("--workers", "come only to a --master", "give --master PORT too")
    if given.master is not None and not given.workers:
        mistakes.add("--master", "expects no workers", "say with --workers how many come")
    for flag, value in (("--shape", given.shapes), ("--tensor-size", given.tensor_size)):
        if value and given.model is None:
            mistakes.add(flag, "is for the tensors of a model", "give --model NAME too")
    for flag, address in (("--master", given.master), ("--ui", given.ui)):
        if address is not None and not is_address(address):
            mistakes.add(flag, f"{address!r} is no address", "write HOST:PORT or PORT")
    plan = Plan(given.name, (Scenario("main", target, load),), processes, given.workers, bounds)
    if not mistakes.problems:
        mistakes.problems += check(slos, plan)
    return plan, slos, tuple(mistakes.problems)


def _processes(text: str, mistakes: Mistakes) -> int:
    if text == "auto":
        return max(1, len(os.sched_getaffinity(0)) - 1)
    if not text.isdigit() or not 1 <= int(text) <= MOST_PROCESSES:
        mistakes.add("--processes", f"{text!r} is no number of processes", f"give 1 to {MOST_PROCESSES}, or auto")
        return 1
    return int(text)


def is_address(text: str) -> bool:
    port = text.rpartition(":")[2]
    return port.isdigit() and 0 <= int(port) <= 65535


def local(address: str | None) -> str | None:
    """A port alone is one of this machine: locust's page lets anybody who sees it start a load."""
    return f"127.0.0.1:{address}" if address is not None and ":" not in address else address
