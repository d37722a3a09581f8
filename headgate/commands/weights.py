"""`headgate weights`: give versions their weights."""

from __future__ import annotations

import click

from headgate.commands.change import Asked, carry_out, change_options
from headgate.commands.output import examples


@click.command(
    short_help="Give versions their weights.",
    epilog=examples(
        "headgate weights iris v1=80 v2=20",
        'headgate weights iris v1=0 v2=100 --why "error rate is fine" --wait',
        "headgate weights team-a/iris v1=50 v2=50 --dry-run",
    ),
)
@click.argument("model")
@click.argument("settings", metavar="VERSION=WEIGHT...", nargs=-1, required=True)
@change_options
def weights(model: str, settings: tuple[str, ...], asked: Asked) -> None:
    """Give these versions of MODEL these weights; others keep theirs. Weights are relative: 1 and 3 is 25 % and 75 %.

    Only weights change: a match or a mirror of a version stays, and the answer says so.
    """
    wanted = _read(settings)

    from router.cluster import change

    carry_out(model, lambda raw: change.weights(raw, wanted), asked, edit="spec.versions[].weight")


def _read(settings: tuple[str, ...]) -> dict[str, int]:
    wanted: dict[str, int] = {}
    wrong: list[str] = []
    for setting in settings:
        name, found, weight = setting.rpartition("=")
        if not found or not name or not weight.lstrip("-").isdecimal() or not weight.isascii() or len(weight) > 12:
            wrong.append(f"{setting!r} is not VERSION=WEIGHT with a whole number, such as v1=20")
        elif name in wanted:
            wrong.append(f"{name} is given twice")
        else:
            wanted[name] = int(weight)
    if wrong:
        raise click.UsageError("; ".join(wrong))
    return wanted
