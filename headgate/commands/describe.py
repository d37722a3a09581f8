"""`headgate describe`: everything about one model on a page."""

from __future__ import annotations

import click

from headgate.commands.control_plane import maybe_url_option
from headgate.commands.output import draw, emit, examples, output_option
from headgate.commands.status import sought
from headgate.kube_context import Choice, Cluster, kube_options


@click.command(
    short_help="Show everything about one model.",
    epilog=examples("headgate describe iris", "headgate describe team-a/iris --context prod"),
)
@click.argument("model")
@kube_options()
@maybe_url_option
@output_option("table", "json", "yaml")
def describe(model: str, choice: Choice, url: str | None, form: str) -> None:
    """Show everything about MODEL: conditions, versions, Envoys that lag, problems, who changed what, and events."""
    from headgate import rollouts, show, show_rollout
    from headgate.commands.status import asked_model

    def in_a_cluster(there: Cluster) -> None:
        raw = there.run(rollouts.find(there.client, *there.key(model)))
        found = there.run(rollouts.events(there.client, raw))
        if form == "table":
            draw(show_rollout.describe(raw, found, show.now()))
        else:
            emit(rollouts.document(raw) | {"spec": raw["spec"], "events": found}, form)

    def by_http(url: str) -> None:
        document = asked_model(url, model)
        if form == "table":
            draw(show_rollout.describe_http(document, show.now()))
        else:
            emit(document, form)

    sought(choice, url, in_a_cluster, by_http)
