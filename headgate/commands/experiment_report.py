"""`headgate experiment report`: what came of an experiment."""

from __future__ import annotations

import click

from headgate.commands.experiment_run import FORMS
from headgate.commands.output import examples
from headgate.experiments import found, needs_load, opened, run_async, store_options
from headgate.kube_context import Choice


@click.command(
    "report",
    short_help="Print what came of an experiment.",
    epilog=examples(
        "headgate experiment report experiment.yaml",
        "headgate experiment report team/wisdom -o html > report.html",
        "headgate experiment report wisdom --revision 3 -o junit > junit.xml",
    ),
)
@click.argument("experiment", metavar="FILE|NAME")
@click.option("-o", "--output", "form", type=click.Choice(FORMS[:-1]), default="text", show_default=True)
@click.option("--revision", type=click.IntRange(1), help="An earlier run; by default the last one.")
@store_options
@needs_load
def report(experiment: str, form: str, revision: int | None, place: str | None, choice: Choice) -> None:
    """Print the report of the experiment in FILE, or of that called NAME or NAMESPACE/NAME, also while it runs."""
    from headgate.experiment_report import printed

    async def read() -> None:
        async with opened(place, choice) as store:
            printed(await found(store, experiment, choice.namespace, revision), form)

    run_async(read())
