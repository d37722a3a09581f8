"""`headgate abort`: all traffic back to the primary."""

from __future__ import annotations

import click

from headgate.commands.change import Asked, carry_out, change_options
from headgate.commands.output import examples


@click.command(
    short_help="Give all traffic back to the primary.",
    epilog=examples("headgate abort iris", "headgate abort iris --why 'v2 answers 500' --wait"),
)
@click.argument("model")
@change_options
def abort(model: str, asked: Asked) -> None:
    """Give all traffic of MODEL back to its primary: candidates get weight 0, and no match or mirror any more.

    A paused rollout is resumed with it, since the pause would keep the candidates' traffic.
    """
    from router.cluster import change

    carry_out(model, change.abort, asked, edit="spec.versions: weight 0, no match, no mirror for the candidates")
