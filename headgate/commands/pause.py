"""`headgate pause`: hold a model's traffic as it is."""

from __future__ import annotations

import click

from headgate.commands.change import Asked, carry_out, change_options
from headgate.commands.output import examples


@click.command(
    short_help="Hold a model's traffic as it is.",
    epilog=examples("headgate pause iris", "headgate pause iris --why 'looking into v2'"),
)
@click.argument("model")
@change_options
def pause(model: str, asked: Asked) -> None:
    """Hold the weights, matches and mirrors of MODEL as they are now, whatever is edited, until it is resumed.

    Readiness still counts: a version that fails loses its traffic also while paused.
    """
    from router.cluster import change

    carry_out(model, lambda raw: change.pause(raw, True), asked, edit="spec.paused: true")
