"""`headgate status`: what a running control plane knows."""

from __future__ import annotations

from typing import Any

import click

from headgate.commands.control_plane import ask, url_option
from headgate.commands.output import Failure, console, draw, emit, examples, model_key, output_option

_EVERY = 1.0


@click.command(
    short_help="Show what a running control plane knows.",
    epilog=examples("headgate status", "headgate status -w", "headgate status iris -o json"),
)
@click.argument("model", required=False)
@click.option("-w", "--watch", is_flag=True, help="Go on showing it, every second, until Ctrl-C.")
@url_option
@output_option("table", "json", "yaml")
def status(model: str | None, watch: bool, url: str, form: str) -> None:
    """Show models, their versions (* is the primary), readiness, weights, and which Envoys have applied them.

    With MODEL, only that one, and why its traffic is as it is.
    """
    if watch and form != "table":
        raise click.UsageError("-w shows a table: leave out -o")
    if watch:
        _watch(model, url)
        return
    document = _ask(model, url)
    if form == "table":
        draw(_drawn(model, document))
    else:
        emit(document, form)


def _ask(model: str | None, url: str) -> Any:
    from urllib.parse import quote

    return ask(url, "/status" if model is None else f"/models/{quote(model_key(model))}")


def _drawn(model: str | None, document: Any) -> Any:
    from headgate import show

    return show.status(document, show.now()) if model is None else show.model(document, show.now())


def _watch(model: str | None, url: str) -> None:
    import time

    from rich.live import Live
    from rich.text import Text

    with Live(_drawn(model, _ask(model, url)), console=console(), auto_refresh=False) as live:
        while True:
            time.sleep(_EVERY)
            try:
                live.update(_drawn(model, _ask(model, url)), refresh=True)
            except Failure as failure:  # it may come back: a restart is no reason to stop watching
                live.update(Text(failure.message, style="red"), refresh=True)
