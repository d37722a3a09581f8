"""`headgate load`: send load to a target and judge how it serves it."""

from __future__ import annotations

import sys
from typing import Any

import click

from headgate.commands.output import BadInput, Failure, complain, error_line, examples
from headgate.load.flags import Flags, flags

UNREACHABLE = 3
INTERRUPTED = 130


@click.command(
    short_help="Load a target, tell latencies per version, judge SLOs.",
    epilog=examples(
        "headgate load http://localhost:8000/ --rate 200 --duration 1m",
        "headgate load http://localhost:8000/ --rate 200 --slo 'latency-p99<=200ms' --slo 'error-rate<=0.01'",
        "headgate load http://localhost:8000/v2/models/iris/infer --model iris --schedule 'ramp 10->500 over 2m'",
        "headgate load http://localhost:9000 --grpc inference.GRPCInferenceService/ModelInfer --model iris --rate 50",
    ),
)
@click.argument("url", required=False)
@flags
def load(**given: Any) -> int:
    """Send requests to URL at a rate, by a schedule or by users, and tell how each model version answered.

    Latency counts from the moment at which a request was meant to start: a server that stalls is not let off the
    requests that it held up. Exit codes: 0 all SLOs hold, 1 the tool failed, 2 bad flags, 3 no usable data (an
    unreachable target), 4 the run cannot be believed, 5 too few samples to tell, 99 an SLO is broken, 130 interrupted.
    """
    import asyncio

    try:
        import loadgen.run  # noqa: F401
    except ImportError as error:
        raise Failure(f"{error.name} is not installed", "pip install 'headgate[load]'") from None
    from headgate.load.planning import is_address

    chosen = Flags(**given)
    if chosen.worker is not None:
        if chosen.url is not None:
            raise click.UsageError("a --worker gets its plan from the --master: leave the URL out")
        if not is_address(chosen.worker):
            raise click.UsageError(f"--worker {chosen.worker!r} is no address: write HOST:PORT")
        return asyncio.run(_work(chosen.worker))
    if chosen.url is None:
        raise click.UsageError("what is to be loaded? give its URL")
    return asyncio.run(_load(chosen))


async def _work(leader: str) -> int:
    from loadgen.run import EngineFailed, work

    try:
        await work(leader)
    except EngineFailed as error:
        raise Failure(str(error)) from None
    return 0


async def _load(given: Flags) -> int:
    import asyncio
    from dataclasses import replace

    from headgate.load.asking import completed
    from headgate.load.live import View
    from headgate.load.planning import local, plan_of
    from headgate.load.reach import trouble
    from headgate.load.results import command_line, show, unwritable, write
    from loadgen.report.contents import Report
    from loadgen.run import EngineFailed, run
    from loadgen.slo.judge import assess

    plan, slos, problems = plan_of(given)
    problems = (*problems, *unwritable(given.report))
    if any(each.severity == "error" for each in problems):
        raise BadInput(problems)
    complain(problems)
    if why := await trouble(plan.scenarios[0].target):
        raise Failure(f"the target cannot be reached: {why.what}", why.hint, UNREACHABLE)
    (scenario,) = plan.scenarios
    target, problems = await asyncio.to_thread(completed, scenario.target, given)
    if problems:
        raise BadInput(problems)
    plan = replace(plan, scenarios=(replace(scenario, target=target),))
    try:
        with View() as view:
            outcome = await run(plan, view, page=local(given.ui), listen=given.master)
    except EngineFailed as error:
        raise Failure(str(error)) from None
    assessment = assess(outcome, slos, confidence=given.confidence, inconclusive=given.inconclusive)
    report = Report(outcome, assessment, plan, title=given.name, command=command_line(sys.argv[1:]))
    try:
        show(report, given.form)
    finally:  # a reader that has gone takes no file with it
        write(report, given.report)
    if outcome.interrupted:
        error_line("interrupted: this is what was measured until then", severity="warning")
        return INTERRUPTED
    return int(assessment.exit_code)
