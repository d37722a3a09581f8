"""`headgate experiment assert`: exit 0 when all conditions hold, within some time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import click

from headgate.commands.output import Failure, examples
from headgate.experiments import found, needs_load, opened, run_async, store_options
from headgate.kube_context import Choice


@click.command(
    "assert",
    short_help="Exit 0 when conditions hold.",
    epilog=examples(
        "headgate experiment assert experiment.yaml -c completed,nofailure,slos",
        "headgate experiment assert team/wisdom -c completed -c slos --timeout 60s",
    ),
)
@click.argument("experiment", metavar="FILE|NAME")
@click.option(
    "-c",
    "--condition",
    "conditions",
    multiple=True,
    required=True,
    metavar="NAME",
    help="completed, nofailure, slos; several with commas, or repeated.",
)
@click.option("--timeout", default="0s", show_default=True, metavar="TIME", help="How long they are waited for.")
@click.option("--revision", type=click.IntRange(1), help="An earlier run; by default the last one.")
@store_options
@needs_load
def assert_(
    experiment: str,
    conditions: tuple[str, ...],
    timeout: str,
    revision: int | None,
    place: str | None,
    choice: Choice,
) -> int:
    """Look every few seconds whether all conditions hold.

    completed: all tasks are done. nofailure: none failed. slos: all SLOs of all versions are satisfied.
    Exit codes: 0 they hold; 1 not completed, or a failure; 99 an SLO is broken; 3, 4, 5 it cannot be told whether.
    """
    from loadgen.experiment.asserting import wanted
    from loadgen.experiment.values import seconds

    try:
        limit = seconds(timeout)
        asked = wanted(conditions)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return run_async(_assert(experiment, asked, limit, revision, place, choice))


async def _assert(
    experiment: str, asked: Sequence[str], limit: float, revision: int | None, place: str | None, choice: Choice
) -> int:
    from loadgen.experiment.asserting import EVERY, held

    loop = asyncio.get_running_loop()
    until = loop.time() + limit
    async with opened(place, choice) as store:
        while True:
            left = until - loop.time()
            try:
                verdict = held(await found(store, experiment, choice.namespace, revision), asked)
            except Failure:
                if left <= 0:
                    raise
            else:
                if verdict.code == 0 or left <= 0:
                    break
            await asyncio.sleep(max(0.0, min(EVERY, left)))
    for line in verdict.lines:
        click.echo(line)
    if verdict.code:
        raise Failure("assert conditions failed", exit_code=verdict.code)
    return 0
