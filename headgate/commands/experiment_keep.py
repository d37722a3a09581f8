"""`headgate experiment list|delete|restore`: what is kept, and how to get rid of it."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING

import click

from headgate.commands.output import Failure, draw, emit, examples, is_terminal, output_option
from headgate.experiments import connect, found, meant, needs_load, opened, run_async, store_options
from headgate.kube_context import Choice

if TYPE_CHECKING:
    from loadgen.experiment.store import Row
    from loadgen.outcome import Outcome
    from loadgen.plan import Plan


@click.command("list", epilog=examples("headgate experiment list", "headgate experiment list --all -o json"))
@click.option("--all", "everything", is_flag=True, help="All runs, not only the last of each experiment.")
@store_options
@output_option("table", "json", "yaml")
@needs_load
def list_(everything: bool, place: str | None, choice: Choice, form: str) -> None:
    """Show the experiments whose results are kept."""

    async def rows() -> tuple[Row, ...]:
        async with opened(place, choice) as store:
            return await store.rows()

    kept = [one for one in run_async(rows()) if choice.namespace in (None, one.namespace)]
    if not everything:
        kept = list({(one.namespace, one.name): one for one in reversed(kept)}.values())[::-1]
    if form != "table":
        from dataclasses import asdict

        emit([asdict(one) for one in kept], form)
    elif kept:
        _table(kept)
    else:
        click.echo("no results are kept")


@click.command(
    "delete",
    epilog=examples("headgate experiment delete wisdom", "headgate experiment delete team/wisdom --revision 3 --yes"),
)
@click.argument("experiment", metavar="FILE|NAME")
@click.option("--revision", type=click.IntRange(1), help="This run only; by default all of them.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@store_options
@needs_load
def delete(experiment: str, revision: int | None, yes: bool, place: str | None, choice: Choice) -> None:
    """Delete the results of an experiment. One that runs is not deleted."""

    async def look() -> tuple[str, str]:
        async with opened(place, choice) as store:
            meaning = meant(experiment, choice.namespace)
            numbers = [one.revision for one in await store.rows() if (one.namespace, one.name) == meaning]
            if not numbers or revision not in (None, *numbers):
                await found(store, experiment, choice.namespace, revision)  # says what there is
            return meaning

    async def gone(namespace: str, name: str) -> int:
        async with opened(place, choice) as store, store.running(namespace, name):
            return await store.delete(namespace, name, revision)

    namespace, name = run_async(look())
    if not yes:
        if not is_terminal(sys.stdin):
            raise click.UsageError("nobody can be asked here: add --yes")
        click.confirm(f"Delete the results of {namespace}/{name}?", abort=True)
    count = run_async(gone(namespace, name))
    click.echo(f"{namespace}/{name}: {count} {'run' if count == 1 else 'runs'} deleted")


@click.command("restore", epilog=examples("headgate experiment restore", "headgate experiment restore --forget"))
@click.option("--forget", is_flag=True, help="Strike what cannot be put back, such as where the rollout is gone.")
@store_options
@needs_load
def restore(forget: bool, place: str | None, choice: Choice) -> None:
    """Put back the traffic that experiments changed which were killed. Every run begins with this, too."""
    from headgate.experiment_routes import ClusterAndFolder
    from loadgen.experiment.put_back import restore_abandoned
    from loadgen.experiment.runner import Services
    from loadgen.experiment.store import StoreFault

    async def put_back() -> tuple[list[str], int]:
        async with opened(place, choice) as store:
            services = Services(engine=_no_engine, connect=lambda: connect(choice), routes=ClusterAndFolder(choice))
            try:
                said = await restore_abandoned(store, services)
            except StoreFault as fault:
                if not forget:
                    raise
                said = [str(fault)]
            if forget and (count := await store.forget()):
                said.append(f"{count} {'note' if count == 1 else 'notes'} struck: that traffic stays as it is")
            return said, len(await store.notes())

    said, left = run_async(put_back())
    for line in said or ["nothing has to be put back"]:
        click.echo(line)
    if left:
        changes = "1 change is" if left == 1 else f"{left} changes are"
        raise Failure(f"{changes} not put back", "an experiment that runs does it at its end; otherwise see above")


async def _no_engine(plan: Plan, tell: object) -> Outcome:
    raise AssertionError("nothing is put under load here")


def _table(rows: list[Row]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("NAMESPACE", "EXPERIMENT", "RUN", "STATE", "STARTED", "UPDATED"):
        table.add_column(column, no_wrap=True)
    for one in rows:
        times = (f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S}" for at in (one.started, one.updated))
        table.add_row(*map(Text, (one.namespace, one.name, str(one.revision), one.state, *times)))
    draw(table)
