"""`headgate history`: who changed a model's traffic, when and why."""

from __future__ import annotations

import click

from headgate.commands.output import draw, emit, error_line, examples, output_option
from headgate.kube_context import Choice, cluster, kube_options


@click.command(
    short_help="Show who changed a model, when and why.",
    epilog=examples("headgate history iris", "headgate history iris -o json"),
)
@click.argument("model")
@kube_options()
@output_option("table", "json", "yaml")
def history(model: str, choice: Choice, form: str) -> None:
    """Show the last changes of MODEL, the newest last: who made them, what they changed, when and why.

    The control plane keeps the last 20 in the object's status, also those made by other tools.
    """
    from headgate import rollouts, show_rollout
    from headgate.show import now

    with cluster(choice) as there:
        raw = there.run(rollouts.find(there.client, *there.key(model)))
    found = rollouts.history(raw)
    if form != "table":
        emit({"model": rollouts.key(raw), "history": found}, form)
    elif found:
        draw(show_rollout.history(found, now()))
    else:
        error_line(f"no change of {rollouts.key(raw)} is recorded", severity="warning")
