"""`headgate resume`: let the spec decide again."""

from __future__ import annotations

import click

from headgate.commands.change import Asked, carry_out, change_options
from headgate.commands.output import examples


@click.command(
    short_help="End a pause: the spec decides again.",
    epilog=examples("headgate resume iris", "headgate resume iris --wait"),
)
@click.argument("model")
@change_options
def resume(model: str, asked: Asked) -> None:
    """End the pause of MODEL. What was edited meanwhile comes into force."""
    from router.cluster import change

    carry_out(model, lambda raw: change.pause(raw, False), asked, edit="spec.paused")
