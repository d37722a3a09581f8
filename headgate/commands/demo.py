"""`headgate demo`: the rollout story on this machine."""

from __future__ import annotations

import click

from headgate.commands.output import examples


@click.command(
    short_help="Play a whole rollout on this machine.",
    epilog=examples("headgate demo", "headgate demo --keep"),
)
@click.option("--keep", is_flag=True, help="Leave everything running afterwards, with lines to try.")
def demo(keep: bool) -> int:
    """Roll out a model with a real Envoy, real servers and real traffic on this machine, within 90 seconds.

    Ends with the number of requests sent and failed; exits 1 if one failed.
    """
    from headgate.demo import story

    return story.run(keep=keep)
