"""`headgate experiment run`: the tasks in order, what happens on stderr, the report on stdout."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headgate.commands.output import Failure, examples, is_terminal
from headgate.experiments import (
    connect,
    engine,
    needs_load,
    opened,
    read,
    run_async,
    stopped_by_signals,
    store_options,
)
from headgate.kube_context import Choice

if TYPE_CHECKING:
    from loadgen.experiment.result import Result
    from loadgen.experiment.spec import Experiment
    from loadgen.outcome import Progress

FORMS = ("text", "html", "json", "junit", "markdown", "csv", "none")


@click.command(
    "run",
    short_help="Run the experiment of a file.",
    epilog=examples(
        "headgate experiment run experiment.yaml",
        "headgate experiment run experiment.yaml --loops 5 --every 1m",
        "headgate experiment run experiment.yaml --cron '*/15 * * * *'",
        "headgate experiment run experiment.yaml --resume",
        "headgate experiment run experiment.yaml --in-cluster -n team",
    ),
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--resume", is_flag=True, help="Go on after the last task that was completed.")
@click.option("--loops", type=click.IntRange(1, 1_000_000), help="How often; figures of all loops are kept.")
@click.option("--every", metavar="TIME", help="From the beginning of a loop to that of the next, such as 1m.")
@click.option("--cron", metavar="SCHEDULE", help="A loop at each of these times, such as '*/15 * * * *'; until ctrl-C.")
@click.option("--in-cluster", is_flag=True, help="As a Job of the cluster, or with --cron as a CronJob.")
@click.option("--image", metavar="IMAGE", help="With --in-cluster: headgate's image.")
@click.option("--dry-run", is_flag=True, help="Check the file; with --in-cluster print the manifests.")
@click.option("-o", "--output", "form", type=click.Choice(FORMS), default="text", show_default=True, help="The report.")
@store_options
@needs_load
def run(
    file: Path,
    resume: bool,
    loops: int | None,
    every: str | None,
    cron: str | None,
    in_cluster: bool,
    image: str | None,
    dry_run: bool,
    form: str,
    place: str | None,
    choice: Choice,
) -> int:
    """Run the tasks of FILE in their order, keep what they find after each, and print the report.

    Ctrl-C ends it early: what was measured is kept and reported, and traffic that was changed is put back.
    """
    experiment = repeated(read(file), loops, every, cron)
    if choice.namespace is not None:
        experiment = replace(experiment, namespace=choice.namespace)
    if in_cluster:
        from headgate.experiment_job import launch

        if resume:
            raise click.UsageError("--resume and --in-cluster do not go together: a Job begins anew")
        return launch(experiment, file, choice, image=image, dry_run=dry_run, form=form)
    if image is not None:
        raise click.UsageError("--image goes with --in-cluster")
    if dry_run:
        click.echo(f"{experiment.name}: {len(experiment.tasks)} tasks, nothing is wrong with them")
        return 0
    return run_async(_run(experiment, place, choice, resume=resume, form=form))


def repeated(experiment: Experiment, loops: int | None, every: str | None, cron: str | None) -> Experiment:
    """With what the command line says of it."""
    from loadgen.experiment.read import cron_complaint
    from loadgen.experiment.values import seconds

    if loops is not None:
        experiment = replace(experiment, loops=loops)
    if every is not None:
        try:
            experiment = replace(experiment, every=seconds(every))
        except ValueError as error:
            raise click.UsageError(f"--every: {error}") from None
        if loops is None and experiment.loops == 1 and cron is None:
            raise click.UsageError("--every goes with --loops")
    if cron is not None:
        if complaint := cron_complaint(cron):
            raise click.UsageError(f"--cron: {complaint}")
        experiment = replace(experiment, cron=cron)
    return experiment


async def _run(experiment: Experiment, place: str | None, choice: Choice, *, resume: bool, form: str) -> int:
    from headgate.experiment_report import printed
    from headgate.experiment_routes import ClusterAndFolder
    from loadgen.experiment.put_back import restore_abandoned
    from loadgen.experiment.runner import NotResumable, Run, Services, exit_code
    from loadgen.experiment.store import StoreFault

    screen = _Screen()
    async with opened(place, choice) as store:
        services = Services(
            engine=engine(lambda: None),
            connect=lambda: connect(choice),
            routes=ClusterAndFolder(choice),
            say=screen.say,
            progress=screen.progress,
        )
        for line in await restore_abandoned(store, services):
            screen.say(line)
        work = Run(experiment, store, services)
        unkept: StoreFault | None = None
        with stopped_by_signals(work.stop) as again:
            services.engine = engine(again)
            try:
                result: Result = await work.run(resume=resume)
            except NotResumable as reason:
                raise Failure(f"there is nothing to resume: {reason}", exit_code=2) from None
            except StoreFault as fault:
                if not work.result.tasks:
                    raise
                unkept, result = fault, work.result
        if form != "none":
            printed(result, form)
        if unkept is not None:
            raise Failure(str(unkept), unkept.hint)
        return exit_code(result)


class _Screen:
    """What happens, on stderr; on a terminal a load shows how far it is."""

    def __init__(self) -> None:
        self._moving = is_terminal(sys.stderr)
        self._shown = False

    def say(self, line: str) -> None:
        """A terminal that was closed, or a pipe, ends no run: traffic has to be put back."""
        with contextlib.suppress(OSError):
            self._clear()
            click.echo(line, err=True)

    def progress(self, progress: Progress) -> None:
        if not self._moving:
            return
        with contextlib.suppress(OSError):
            self._clear()
            click.echo(f"  {told(progress)}", err=True, nl=False)
            self._shown = True

    def _clear(self) -> None:
        if self._shown:
            click.echo("\r\x1b[2K", err=True, nl=False)
            self._shown = False


def told(progress: Progress) -> str:
    """12 s of 60 s: 2,400 sent, 200/s; v1 p99 12 ms; v2 p99 80 ms, 3 errors"""
    length = f" of {progress.total:.0f} s" if progress.total else ""
    words = [f"{progress.phase} {progress.at:.0f} s{length}: {progress.sent:,} sent, {progress.rate:,.0f}/s"]
    for row in progress.rows[:4]:
        p99 = f" p99 {row.p99 * 1000:.3g} ms" if row.p99 is not None else ""
        errors = f", {row.errors:,} errors" if row.errors else ""
        words.append(f"{row.version}{p99}{errors}")
    return "; ".join(words)[:150]
