"""`headgate promote`: make a candidate the primary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from headgate.commands.change import Asked, carry_out, change_options
from headgate.commands.output import Failure, examples

if TYPE_CHECKING:
    from headgate.rollouts import Object
    from router.cluster.change import Outcome


@click.command(
    short_help="Make a candidate the primary.",
    epilog=examples("headgate promote iris", "headgate promote iris v2 --why 'won the test' --wait"),
)
@click.argument("model")
@click.argument("version", required=False)
@click.option("--force", is_flag=True, help="Also a version that is not ready.")
@change_options
def promote(model: str, version: str | None, force: bool, asked: Asked) -> None:
    """Make VERSION the primary of MODEL and give it all weight. It may be left out if there is only one candidate.

    Its mirror and match are removed; the other versions stay with weight 0, ready to be given traffic again.
    """

    def make(raw: Object) -> Outcome:
        from headgate import rollouts
        from router.cluster import change

        outcome = change.promote(raw, version)
        if isinstance(outcome, tuple) or outcome.empty or force:
            return outcome
        name = outcome.spec["primary"]
        if why := rollouts.unready(raw, name):
            raise Failure(f"{name} of {rollouts.key(raw)} is not known to be ready: {why}", "wait, or give --force")
        return outcome

    carry_out(model, make, asked, edit="spec.primary and spec.versions[].weight")
